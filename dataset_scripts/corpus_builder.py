"""What the corpus builders share: sampling, checks, rejections, recordings that are too long, and the cache key."""

import dataclasses
import json
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
from tqdm.auto import tqdm

from dataset_scripts.transcripts import DISFLUENCIES
from hf_components.audio import SAMPLING_RATE, AudioError, decode, encode_flac, read_duration
from hf_components.corpus import LONG
from hf_components.errors import UserError
from hf_components.sampling import check_sampling, sample
from hf_components.stages import fingerprint

REJECTED = "rejected-"

COLUMNS = {
    "id": datasets.Value("string"),
    "audio": datasets.Audio(sampling_rate=SAMPLING_RATE),
    "text": datasets.Value("string"),
    "raw_text": datasets.Value("string"),
    "speaker_id": datasets.Value("string"),
    "group": datasets.Value("string"),
    "duration": datasets.Value("float64"),
    "source_file": datasets.Value("string"),
}


@dataclasses.dataclass(frozen=True)
class Utterance:
    """One row of a manifest, before its audio is read.

    Attributes:
        file: path relative to the corpus root, as the manifest gives it; not to be trusted before `check`.
        raw_text: transcript as given, None where there is none; `text` is its clean form.
        columns: the source's own.
    """

    id: str
    file: str
    text: str
    raw_text: str | None
    speaker_id: str
    group: str
    columns: dict[str, Any] = dataclasses.field(default_factory=dict)


class Rejection(Exception):
    """Why an utterance cannot be a row: `reason` names the kind, for counting, `detail` the case."""

    def __init__(self, reason: str, detail: str):
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


@dataclasses.dataclass
class CorpusConfig(datasets.BuilderConfig):
    """Options of every corpus builder.

    Attributes:
        sampling: `random` or `stratified` (by `group`); see `hf_components.sampling.sample`. Applied to each split
            before its audio is looked at, so a sample may hold rejections.
        percent: share of each split to take, in (0, 100].
        max_samples: upper bound per split.
        seed: of the sampling.
        disfluencies: `keep` or `drop` the words in parentheses.
        min_duration: seconds; shorter recordings are rejected.
        max_duration: seconds; longer recordings go whole into a split of their own, `<split>_long`, because their
            words cannot be divided without an alignment. Whisper takes 30 s.
    """

    sampling: str = "random"
    percent: float = 100.0
    max_samples: int | None = None
    seed: int = 42
    disfluencies: str = "keep"
    min_duration: float = 0.0
    max_duration: float = 30.0

    def __post_init__(self):
        super().__post_init__()
        check_sampling(self.sampling, self.percent, self.max_samples)
        if self.disfluencies not in DISFLUENCIES:
            raise UserError(f"disfluencies must be one of {', '.join(DISFLUENCIES)}, got {self.disfluencies!r}")
        if not 0 <= self.min_duration < self.max_duration:
            raise UserError(f"0 <= min_duration < max_duration must hold, got {self.min_duration} and {self.max_duration}")
        if self.data_dir is None or not Path(self.data_dir).is_dir():
            raise UserError(f"data_dir must be a folder, got {self.data_dir!r}; check the path")

    def create_config_id(self, config_kwargs: dict, custom_features: datasets.Features | None = None) -> str:
        # By itself `datasets` keys its cache by the options and would serve old rows for changed files.
        files = ",".join(f"{path.name}:{fingerprint(path)}" for path in sorted(Path(self.data_dir).iterdir()))
        return super().create_config_id({**config_kwargs, "files": files}, custom_features)


class CorpusBuilder(datasets.GeneratorBasedBuilder):
    """Base of the builders. A subclass lists its utterances; checking and reading them is done here.

    Rows out plus `rejections()` are the rows that the sampling chose.
    """

    BUILDER_CONFIG_CLASS = CorpusConfig
    DEFAULT_WRITER_BATCH_SIZE = 32  # rows held in memory, 1 MB each at most (but for the long split)
    SOURCE_COLUMNS: dict[str, Any] = {}

    def read_manifests(self, root: Path) -> dict[str, list[Utterance]]:
        """List the utterances of each split below `root`. Raises UserError if a manifest is not what it claims."""
        raise NotImplementedError

    def rejections(self) -> list[dict[str, str]]:
        """The utterances left out by `download_and_prepare`: id, file, reason, detail, split; kept with the cache."""
        files = Path(self._output_dir).glob(f"{REJECTED}*.jsonl")
        rows = [json.loads(line) for file in files for line in file.read_text().splitlines()]
        return sorted(rows, key=lambda row: (row["split"], row["id"], row["file"]))

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(features=datasets.Features({**COLUMNS, **self.SOURCE_COLUMNS}))

    def _split_generators(self, dl_manager: datasets.DownloadManager) -> list[datasets.SplitGenerator]:
        root = Path(self.config.data_dir).resolve()
        generators, reasons = [], Counter()
        for split, listed in self.read_manifests(root).items():
            short, long = [], []
            with self._rejecting(split) as reject:
                for utterance, problem, duration in _check_all(self._sample(listed), root, self.config.min_duration, split):
                    if problem is None:
                        (long if duration > self.config.max_duration else short).append(utterance)
                    else:
                        reject(utterance, problem)
                        reasons[problem.reason] += 1
            for name, utterances in ((split, short), (split + LONG, long)):
                if utterances:
                    generator = datasets.SplitGenerator(name, {"utterances": utterances, "split": split})
                    generator.split_info.num_examples = len(utterances)  # gives the progress bar its total
                    generators.append(generator)
        if not generators:
            found = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common()) or "none is listed"
            raise UserError(f"{root} has no usable utterance: {found}")
        return generators

    def _sample(self, utterances: list[Utterance]) -> list[Utterance]:
        config = self.config
        indices = sample([u.id for u in utterances], [u.group for u in utterances], config.sampling, config.percent,
                         config.max_samples, config.seed)
        return [utterances[index] for index in indices]

    def _generate_examples(self, utterances: list[Utterance], split: str) -> Iterator[tuple[str, dict]]:
        root = Path(self.config.data_dir).resolve()
        with self._rejecting(split) as reject:
            for utterance in utterances:
                try:
                    yield utterance.id, read_row(utterance, root)
                except AudioError as error:
                    reject(utterance, Rejection(error.reason, error.detail))

    @contextmanager
    def _rejecting(self, split: str) -> Iterator[Callable[[Utterance, Rejection], None]]:
        """A function that notes a rejection in the folder being prepared, in a file of this process's own."""
        handle, _ = tempfile.mkstemp(prefix=REJECTED, suffix=".jsonl", dir=self._output_dir)
        with os.fdopen(handle, "w") as file:
            def reject(utterance: Utterance, problem: Rejection) -> None:
                row = {"id": utterance.id, "file": utterance.file, "reason": problem.reason, "detail": problem.detail,
                       "split": split}
                file.write(json.dumps(row) + "\n")

            yield reject


def check(utterance: Utterance, root: Path, min_duration: float = 0.0) -> float:
    """The duration in seconds that a recording's header promises, once everything short of decoding is found in order.

    Raises:
        Rejection: the path leaves `root`, nothing is there, there is no transcript, or the header is not one of audio.
    """
    path = _inside(root, utterance.file)
    if path is None:
        raise Rejection("path outside the corpus", f"{utterance.file} is absolute, climbs by '..' or links out")
    if not _is_file(path):
        raise Rejection("missing file", f"no file at {utterance.file}")
    if utterance.raw_text is None:
        raise Rejection("missing transcript", "the manifest gives none")
    if not utterance.text:
        raise Rejection("empty transcript", f"no word is left of {utterance.raw_text!r}")
    try:
        duration = read_duration(path)
    except AudioError as error:
        raise Rejection(error.reason, error.detail) from error
    if duration < min_duration:
        raise Rejection("too short", f"{duration:.3f} s, min_duration is {min_duration}")
    return duration


def read_row(utterance: Utterance, root: Path) -> dict:
    """Decode a checked utterance's recording and build the row of the prepared corpus; the audio is 16 kHz mono 16-bit FLAC.

    Raises:
        AudioError: the recording cannot be decoded as a whole.
    """
    waveform = decode(root / utterance.file)
    return {
        "id": utterance.id,
        # Without a path: `datasets` would prefer a file of that name in the current directory to the bytes.
        "audio": {"bytes": encode_flac(waveform), "path": None},
        "text": utterance.text, "raw_text": utterance.raw_text, "speaker_id": utterance.speaker_id,
        "group": utterance.group, "duration": len(waveform) / SAMPLING_RATE, "source_file": utterance.file,
        **utterance.columns,
    }


def _check_all(utterances: list[Utterance], root: Path, min_duration: float,
               split: str) -> Iterator[tuple[Utterance, Rejection | None, float]]:
    """Each utterance with what is wrong with it, or None, and its duration."""
    accepted = set()
    for utterance in tqdm(utterances, desc=f"Checking {split} split", unit=" files"):
        try:
            duration = check(utterance, root, min_duration)
            if utterance.id in accepted:
                raise Rejection("duplicate id", f"{utterance.id} is listed more than once; the first usable row is kept")
            accepted.add(utterance.id)
            yield utterance, None, duration
        except Rejection as problem:
            yield utterance, problem, 0.0


def _inside(root: Path, file: str) -> Path | None:
    """The real path of `file` below `root`, or None if it leads out, also by a link.

    No path climbs, even if it stays below `root`: it would bring a recording of one split into another.
    """
    if "\0" in file or Path(file).is_absolute() or ".." in Path(file).parts:
        return None
    real = Path(os.path.realpath(root / file))
    return real if real.is_relative_to(root) else None


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name longer than the file system allows
        return False
