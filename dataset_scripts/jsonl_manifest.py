"""Builder for corpora with one JSON object per line, their audio spread over several folders.

<data_dir>/<name>.jsonl    {"utterance_id": ..., "child_id": ..., "session_id": ..., "audio_path": "audio/<name>.flac",
                            "audio_duration_sec": ..., "age_bucket": ..., "md5_hash": ..., "orthographic_text": ...,
                            "phonetic_text": ...}    words or IPA or both
<data_dir>/audio_0|audio_1|.../audio/<audio files>
"""

import dataclasses
import os
from collections.abc import Iterable
from pathlib import Path

import datasets

from dataset_scripts.corpus_builder import CorpusBuilder, CorpusConfig, Listing
from dataset_scripts.jsonl_rows import FIELDS, IN_MEMORY, one_child_per_id, read_rows
from dataset_scripts.utterances import Reader, Utterance, shared_names
from hf_components.runtime import PHONETIC, UserError, broken_link, printable
from hf_components.speech import DEV, TRAIN, check_val_ratio, known_speakers, read_split, report_split, split_speakers

STRATA = ("age_bucket", "none")


@dataclasses.dataclass
class JsonlManifestConfig(CorpusConfig):
    """Options of `JsonlManifest`, beside those of every builder.

    Attributes:
        manifest: file; default: the only *.jsonl in `data_dir`. Without `data_dir`, the manifest's folder is that.
        samples: rows as dicts, instead of a manifest.
        audio_dirs: folders to search for audio; default: `data_dir` and its sub-folders.
        val_manifest: rows of the split dev; all rows of the manifest are then for train.
        split_file: a division into splits, as in `splits.json` of a prepared corpus; by child, or by recording
            (`audio_path`), see `hf_components.speech.read_split`.
        val_ratio: share of the rows for dev, if neither is given; in [0, 1).
        stratify_by: column whose values have the same share in dev, or `none`.
        split_seed: seed of the division into train and dev.
        fields: the manifest's name for each of our fields that has another name there.
        require_text: reject rows without a transcript; otherwise their `text` is empty.
        external_data: names of external data in the manifest.
    """

    manifest: str | None = None
    samples: list[dict] | None = None
    audio_dirs: list[str] | None = None
    val_manifest: str | None = None
    split_file: str | None = None
    val_ratio: float = 0.1
    stratify_by: str = "age_bucket"
    split_seed: int = 42
    fields: dict[str, str] | None = None
    require_text: bool = True
    external_data: list[str] | None = None

    def __post_init__(self):
        if self.manifest is not None and self.samples is None:  # before its folder is missed
            self._require_manifest()
        if self.data_dir is None and self.manifest is not None:
            self.data_dir = str(Path(self.manifest).parent)
        elif self.data_dir is None and self.audio_dirs:
            self.data_dir = os.path.commonpath([Path(folder).resolve() for folder in self.audio_dirs])
        super().__post_init__()
        check_val_ratio(self.val_ratio)
        if self.stratify_by not in STRATA:
            raise UserError(f"stratify_by must be one of {', '.join(STRATA)}, got {self.stratify_by!r}")
        if unknown := (self.fields or {}).keys() - set(FIELDS):
            raise UserError(f"fields maps {min(unknown)!r}, which is none of {', '.join(FIELDS)}")
        if self.manifest is not None and self.samples is not None:
            raise UserError("manifest and samples are both given; leave one of them out")
        if self.val_manifest is not None and self.split_file is not None:
            raise UserError("val_manifest and split_file are both given; leave one of them out")
        for folder in self.audio_dirs or ():
            self._require_folder(folder)
        if self.manifest is None and self.samples is None:
            self.manifest = self._only_manifest()

    def _require_manifest(self) -> None:
        manifest = Path(self.manifest)
        if not manifest.exists():
            reason = broken_link(manifest.parent, manifest.name) or "there is no such file"
            raise UserError(f"cannot read the manifest {self.manifest}: {reason}; check the path")

    def _require_folder(self, folder: str) -> None:
        inside = Path(self.data_dir, folder)
        if not Path(folder).is_dir():
            advice = f"did you mean {inside}?" if inside.is_dir() else "check the path"
            raise UserError(f"audio_dirs names {folder}, which is no folder; {advice}")

    def inputs(self) -> list[Path]:
        return [Path(file) for file in (self.manifest, self.val_manifest, self.split_file) if file is not None]

    def files(self) -> list[str]:
        return [utterance.file for listed, _ in self.rows() for utterance in listed]

    def rows(self) -> list[tuple[list[Utterance], list[dict]]]:
        """Utterances and rejections of the manifest, then those of `val_manifest` if there is one."""
        given = [
            (self.manifest, self.samples),
            *([(self.val_manifest, None)] if self.val_manifest is not None else []),
        ]
        return [read_rows(manifest, samples, self.fields or {}) for manifest, samples in given]

    def reader(self, files: Iterable[str]) -> Reader:
        root = _absolute(self.data_dir)
        children = (path for path in sorted(root.iterdir()) if path.is_dir() and not path.name.startswith("."))
        folders = [_absolute(folder) for folder in self.audio_dirs] if self.audio_dirs else [root, *children]
        # Paths in the corpus: paths of this machine are not published.
        named = tuple(
            (printable(path.relative_to(root) if path.is_relative_to(root) else path.name), path.resolve())
            for path in folders
        )
        return Reader(
            named,
            by_bare_name=True,
            shared_names=shared_names(files),
            min_duration=self.min_duration,
            require_text=self.require_text,
        )

    def _only_manifest(self) -> str:
        found = sorted(path for path in Path(self.data_dir).glob("*.jsonl") if not path.is_dir())
        if len(found) != 1:
            names = ", ".join(path.name for path in found)
            raise UserError(
                f"{self.data_dir} has "
                + (f"several manifests, {names}" if found else "no *.jsonl file")
                + "; say which file is the manifest (--manifest)"
            )
        return str(found[0])


class JsonlManifest(CorpusBuilder):
    """`JsonlManifest(data_dir=...)`: splits train and dev, which share no child unless `split_file` says so.

    Columns beside those of every corpus: `session_id` and `age_bucket` (as given, or null; `group` is then "unknown").
    `speaker_id` is the child's id. A line that is no row, lacks a field or has a value of a wrong type is rejected
    with its number; a file is no manifest only if none of its lines is a row.

    Raises:
        UserError: the manifest cannot be found or is none (the error names file and line), or the given split has a
            child on both sides or on none.
    """

    VERSION = datasets.Version("1.0.0")
    BUILDER_CONFIG_CLASS = JsonlManifestConfig
    SOURCE_COLUMNS = dict.fromkeys(("session_id", "age_bucket", PHONETIC), datasets.Value("string"))

    def read_manifests(self) -> Listing:
        config = self.config
        (listed, rejected), *further = config.rows()
        manifests = [_describe(config.manifest, listed, rejected)]
        sides = None
        for for_dev, rejected_of_dev in further:
            manifests.append(_describe(config.val_manifest, for_dev, rejected_of_dev))
            sides = self._sides_of_manifests(listed, for_dev)
            listed = listed + for_dev
            rejected = rejected + rejected_of_dev
        listed, contradicting = one_child_per_id(listed)
        unit, sides = ("speaker", sides) if sides else self._sides(listed)
        splits = {side: [u for u in listed if sides[_divided(u, unit)] == side] for side in (TRAIN, DEV)}
        return Listing(
            {side: utterances for side, utterances in splits.items() if utterances},
            rejected + contradicting,
            {
                "splits": self._record(listed, unit, sides),
                "provenance": {"manifests": manifests, "external_data": sorted(config.external_data or [])},
            },
        )

    def _sides_of_manifests(self, for_train: list[Utterance], for_dev: list[Utterance]) -> dict[str, str]:
        sides = {side: {u.speaker_id for u in listed} for side, listed in ((TRAIN, for_train), (DEV, for_dev))}
        if both := sorted(sides[TRAIN] & sides[DEV]):
            raise UserError(
                f"{len(both)} children, such as {both[0]}, are in {self.config.manifest or IN_MEMORY} and in "
                f"{self.config.val_manifest}; splits must not share a speaker: take their rows out of one of them"
            )
        return {child: side for side, children in sides.items() for child in children}

    def _sides(self, listed: list[Utterance]) -> tuple[str, dict[str, str]]:
        """What is divided, "speaker" or "recording", and the side of each."""
        config = self.config
        if config.split_file is None:
            children = [utterance.speaker_id for utterance in listed]
            return "speaker", split_speakers(children, self._strata(listed), config.val_ratio, config.split_seed)
        unit, sides = read_split(config.split_file)
        named = {_divided(utterance, unit) for utterance in listed}
        if lacking := sorted(named - sides.keys()):
            what = "children" if unit == "speaker" else "recordings"
            raise UserError(
                f"{config.split_file} does not say where {len(lacking)} {what} of the manifest belong, such as "
                f"{lacking[0]}; add them to it, or split anew without split_file"
            )
        return unit, {name: sides[name] for name in named}

    def _record(self, listed: list[Utterance], unit: str, sides: dict[str, str]) -> dict:
        """`splits.json`: how the children or recordings were divided, and the shares that this gave."""
        config = self.config
        given = config.val_manifest or config.split_file
        how = (
            {"given_by": Path(given).name}
            if given
            else {"val_ratio": config.val_ratio, "split_seed": config.split_seed}
        )
        divided = [_divided(utterance, unit) for utterance in listed]
        strata = report_split(divided, self._strata(listed), sides, None if given else config.val_ratio, unit)
        names = {side: sorted(name for name in sides if sides[name] == side) for side in (TRAIN, DEV)}
        return {**how, "split_by": unit, "stratify_by": config.stratify_by, "strata": strata, f"{unit}s": names}

    def _strata(self, listed: list[Utterance]) -> list[str]:
        return ["all" if self.config.stratify_by == "none" else utterance.group for utterance in listed]


def _divided(utterance: Utterance, unit: str) -> str:
    """The name by which an utterance is divided: its child's, or its recording's path in the manifest."""
    return utterance.speaker_id if unit == "speaker" else utterance.file


def _describe(manifest: str | None, listed: list[Utterance], rejected: list[dict]) -> dict:
    """Origin of a manifest's rows, for the record."""
    return {
        "name": IN_MEMORY if manifest is None else Path(manifest).name,
        "rows": len(listed) + len(rejected),
        "speakers": len(known_speakers(utterance.speaker_id for utterance in listed)),
    }


def _absolute(folder: str) -> Path:
    """The path without `..`; links keep their own name."""
    return Path(os.path.normpath(Path(folder).absolute()))
