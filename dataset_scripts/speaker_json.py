"""Builder for corpora with one JSON file per speaker, the layout of the Speech Accessibility Project.

<data_dir>/<split>/<speaker_id>/<speaker_id>.json   {"Contributor ID": ..., "Etiology": ...,
                                                     "Files": [{"Filename": ..., "Prompt": {"Transcript": ...}}, ...]}
<data_dir>/<split>/<speaker_id>/<audio files>

The folders of the splits are Train, Dev and Test, or several tests by number, as the challenges of the project have
them: Test1, Test2. Upper and lower case are the same.
"""

import dataclasses
import json
import logging
import re
import unicodedata
from collections import defaultdict
from pathlib import Path, PurePosixPath
from typing import Any

import datasets

from dataset_scripts.corpus_builder import CorpusBuilder, CorpusConfig, Listing
from dataset_scripts.transcripts import DISFLUENCIES, clean_transcript, count_unintelligible
from dataset_scripts.utterances import Rejection, Utterance
from hf_components.runtime import (
    TwinKeysError,
    UserError,
    broken_link,
    first_few,
    looks_like,
    parse_json,
    printable,
    spelled_otherwise,
)
from hf_components.scoring import reference_texts

logger = logging.getLogger(__name__)

BROKEN_SPEAKERS = ("stop", "reject")
SPLIT = re.compile(r"train|dev|test\d*", re.IGNORECASE)
UNKNOWN = "unknown"


@dataclasses.dataclass
class SpeakerJsonConfig(CorpusConfig):
    """Options of `SpeakerJson`, beside those of every builder.

    Attributes:
        disfluencies: `keep` or `drop` the words in parentheses.
        broken_speakers: a speaker whose JSON is not valid: `stop`, or `reject` it as a row of `rejected.jsonl`.
    """

    disfluencies: str = "keep"
    broken_speakers: str = "stop"

    def __post_init__(self):
        super().__post_init__()
        if self.disfluencies not in DISFLUENCIES:
            raise UserError(f"disfluencies must be one of {', '.join(DISFLUENCIES)}, got {self.disfluencies!r}")
        if self.broken_speakers not in BROKEN_SPEAKERS:
            raise UserError(
                f"broken_speakers must be one of {', '.join(BROKEN_SPEAKERS)}, got {self.broken_speakers!r}"
            )

    def inputs(self) -> list[Path]:
        return list(split_folders(Path(self.data_dir)).values())


class SpeakerJson(CorpusBuilder):
    """`SpeakerJson(data_dir=...)`: splits train, dev and test (or test1, test2, ...), as far as their folders exist.

    Columns beside those of every corpus: `etiology` (as given, or null; `group` is then "unknown"),
    `unintelligible_words`, and `references`, the two texts that the SAP challenge scores against: with disfluencies
    and without them. Words that nobody understood are missing in `text`, so a model learns to leave them out. To
    avoid this, filter by `unintelligible_words == 0`. In `references` each of them is "unk".

    A folder of speakers that is no split is not read; each of its speakers is a row of `rejections()`.

    Raises:
        UserError: `data_dir` has another layout, a speaker's JSON is not valid (the error names file and line) and
            `broken_speakers` is "stop", or a speaker is in several splits.
    """

    VERSION = datasets.Version("1.1.0")
    BUILDER_CONFIG_CLASS = SpeakerJsonConfig
    SOURCE_COLUMNS = {
        "etiology": datasets.Value("string"),
        "unintelligible_words": datasets.Value("int32"),
        "references": datasets.List(datasets.Value("string")),
    }

    def read_manifests(self) -> Listing:
        root = Path(self.config.data_dir).resolve()
        folders = split_folders(root)
        if not folders:
            raise UserError(
                f"{root} has no folder Train, Dev or Test; the layout is Train|Dev/<speaker_id>/<speaker_id>.json"
            )
        split_of: dict[str, str] = {}
        folders_of: dict[str, list[str]] = defaultdict(list)
        listed: dict[str, list[Utterance]] = {}
        rejected = _left_out(root, folders)
        for split, folder in folders.items():
            listed[split] = []
            for speaker in _folders(folder, with_broken=True):
                speaker_id = unicodedata.normalize("NFC", printable(speaker.name))
                file = manifest_of(speaker)
                if problem := broken_link(root, str(file.relative_to(root))):
                    rejected.append(
                        Rejection("missing file", problem).row(speaker_id, str(file.relative_to(root)), split)
                    )
                    continue
                try:
                    manifest = read_manifest(file)
                except UserError as problem:
                    if self.config.broken_speakers == "stop":
                        raise UserError(f"{problem}; --broken_speakers reject leaves such a speaker out") from problem
                    broken = Rejection("broken speaker JSON", str(problem).removeprefix(f"{root}/"))
                    rejected.append(broken.row(speaker_id, str(file.relative_to(root)), split))
                    continue
                # A folder may have been renamed, so the name inside the file counts as well.
                for name in {speaker_id, *_contributor(manifest)}:
                    folders_of[name].append(speaker_id)
                    if split_of.setdefault(name, split) != split:
                        raise UserError(
                            f"speaker {name} is in the splits {split_of[name]} and {split} of {root}; splits must "
                            "not share a speaker, remove one of the two"
                        )
                folder_of_files = PurePosixPath(speaker.relative_to(root).as_posix())
                listed[split] += _utterances(manifest, speaker_id, folder_of_files, self.config.disfluencies)
        if several := [name for name, folders in folders_of.items() if len(folders) > 1]:
            text = "%d speakers have several folders, such as %s: %s; each folder counts as a speaker, and one may be "
            text += "trained on and scored by: put the recordings of a speaker into one folder"
            logger.warning(text, len(several), several[0], first_few(folders_of[several[0]]))
        return Listing(listed, rejected)


def split_folders(root: Path) -> dict[str, Path]:
    """Map each split of a corpus, such as `train` or `test1`, to its folder.

    Raises:
        UserError: two folders are one split, such as Train and train, or a split is a link to nothing.
    """
    found: dict[str, Path] = {}
    for folder in _folders(root, with_broken=True):
        split = folder.name.lower()
        if SPLIT.fullmatch(split):
            if problem := broken_link(root, folder.name):
                raise UserError(f"{root}: {problem}")
            if split in found:
                raise UserError(f"{root} holds {found[split].name} and {folder.name}; a split has one folder")
            found[split] = folder
    return dict(sorted(found.items(), key=lambda item: (not item[0].startswith("train"), item[0])))


def _left_out(root: Path, folders: dict[str, Path]) -> list[dict[str, Any]]:
    """Rows of `rejected.jsonl` for the speakers in folders that are no split; a warning names the folders."""
    others = [path for path in _folders(root) if holds_speakers(path) and path not in folders.values()]
    if others:
        logger.warning(
            "%s: left out %s; only folders named Train, Dev, Test, Test1, Test2, ... are read as splits",
            root,
            first_few([path.name for path in others]),
        )
    return [
        Rejection("unknown split folder", f"{other.name} is not named Train, Dev, Test, Test1, Test2, ...").row(
            speaker.name, str(speaker.relative_to(root)), None
        )
        for other in others
        for speaker in _folders(other)
    ]


def _folders(parent: Path, with_broken: bool = False) -> list[Path]:
    """Folders in `parent`, also links to folders; `with_broken`: also links to nothing."""
    return sorted(
        path
        for path in parent.iterdir()
        if not path.name.startswith(".") and (path.is_dir() or with_broken and not path.exists())
    )


def manifest_of(speaker: Path) -> Path:
    """The JSON file of a speaker's folder. Raises UserError if the folder has only a similar one."""
    file = speaker / f"{speaker.name}.json"
    if not speaker.is_dir():  # a link to nothing
        return speaker
    if file.is_file() or file.is_symlink():
        return file
    if same := spelled_otherwise(speaker, file.name):
        return same[0]
    if meant := [path.name for path in looks_like(speaker, file.name) if path.suffix.lower() == ".json"]:
        raise UserError(
            f"{printable(speaker)} has no {printable(file.name)}; did you mean {printable(meant[0])}? The file must "
            "have the name of its folder: rename one of the two"
        )
    return file


def holds_speakers(folder: Path) -> bool:
    """Whether the folder may be a split: its folders hold JSON files."""
    return any(folder.glob("*/*.json"))


def _contributor(manifest: dict[str, Any]) -> list[str]:
    """The speaker's name within a manifest: the project writes `Contributor ID`, others `Speaker_ID`."""
    names = [
        unicodedata.normalize("NFC", str(value)) if value is not None else None
        for key, value in manifest.items()
        if re.fullmatch(r"(contributor|speaker|participant)[ _-]?id", key, re.IGNORECASE)
    ]
    return [str(name).strip() for name in names if name is not None and str(name).strip()]


def read_manifest(path: Path) -> dict[str, Any]:
    """Read a speaker's JSON file and check the type of all values that are used.

    Raises:
        UserError: the file is missing, is not JSON, lacks `Files`, or has a value of a wrong type; the error names
            file and line.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
        manifest = parse_json(text)
        json.dumps(manifest, ensure_ascii=False).encode()
    except OSError as error:
        raise UserError(
            f"cannot read {path}: {error.strerror}; every speaker's folder holds <speaker_id>.json"
        ) from error
    except json.JSONDecodeError as error:
        raise UserError(f"{path}, line {error.lineno}: not JSON: {error.msg} (column {error.colno})") from error
    except UnicodeError as error:
        line = error.object[: error.start].count(b"\n") + 1 if isinstance(error, UnicodeDecodeError) else 1
        raise UserError(f"{path}, line {line}: not UTF-8 text: {error.reason}; save it as UTF-8") from error
    except TwinKeysError as error:
        raise UserError(f"{path}: {error}") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, brackets within brackets
        raise UserError(f"{path}: not JSON that can be read: {error}; repair it") from error
    if not isinstance(manifest, dict):
        raise UserError(f"{path}, line 1: expected an object with Files, got {_type(manifest)}")
    if not isinstance(manifest.get("Files"), list):
        found = (
            f"got {_type(manifest['Files'])}" if "Files" in manifest else f"it has {', '.join(manifest) or 'no keys'}"
        )
        raise UserError(f"{path}, line {_line(text, 'Files')}: Files must be a list of recordings, {found}")
    if not isinstance(manifest.get("Etiology"), str | None):
        raise UserError(
            f"{path}, line {_line(text, 'Etiology')}: Etiology must be a string, got {_type(manifest['Etiology'])}"
        )
    for number, entry in enumerate(manifest["Files"]):
        if problem := _problem(entry):
            raise UserError(f"{path}, line {_line(text, 'Files', number)}: Files[{number}]: {problem}")
    return manifest


def _problem(entry: Any) -> str | None:
    """What has a wrong type in an entry of `Files`. A missing transcript is allowed here: its row is rejected."""
    if not isinstance(entry, dict):
        return f"expected an object with Filename and Prompt, got {_type(entry)}"
    if not isinstance(entry.get("Filename"), str):
        return f"Filename must be a string, got {_type(entry.get('Filename'))}"
    if not isinstance(entry.get("Prompt"), dict | None):
        return f"Prompt must be an object with Transcript, got {_type(entry['Prompt'])}"
    transcript = (entry.get("Prompt") or {}).get("Transcript")
    return None if isinstance(transcript, str | None) else f"Transcript must be a string, got {_type(transcript)}"


def _utterances(manifest: dict, speaker_id: str, folder: PurePosixPath, disfluencies: str) -> list[Utterance]:
    etiology = (manifest.get("Etiology") or "").strip() or None
    utterances = []
    for entry in manifest["Files"]:
        raw = (entry.get("Prompt") or {}).get("Transcript")
        name = PurePosixPath(entry["Filename"])
        utterances.append(
            Utterance(
                id=f"{speaker_id}/{name.with_suffix('') if name.name else name}",
                file=str(folder / name),
                text=clean_transcript(raw or "", disfluencies),
                raw_text=raw,
                speaker_id=speaker_id,
                group=etiology or UNKNOWN,
                columns={
                    "etiology": etiology,
                    "unintelligible_words": count_unintelligible(raw or ""),
                    "references": reference_texts(raw or ""),
                },
            )
        )
    return utterances


def _line(text: str, key: str, entry: int | None = None) -> int:
    """Number of the line of a top-level key, or of one entry of the list it holds."""
    found = re.search(rf'"{key}"\s*:\s*\[?\s*', text)
    if found is None:
        return 1
    position = found.start() if entry is None else found.end()
    for _ in range(entry or 0):
        _, end = json.JSONDecoder().raw_decode(text, position)
        position = re.compile(r"[\s,]*").match(text, end).end()
    return text.count("\n", 0, position) + 1


def _type(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "nothing"}
    return names.get(type(value), "a number")
