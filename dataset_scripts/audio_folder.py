"""Builder for a folder of clean and noisy recordings without transcripts.

    <data_dir>/clean|noisy/<audio files at any depth>
    <data_dir>/truth.jsonl    {"file": "clean/audio_001.wav", "text": ...}, where known

Without these two folders, the first half of the files by name is taken as clean, the second half as noisy.
"""

import dataclasses
import logging
import os
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from dataset_scripts.corpus_builder import CorpusBuilder, CorpusConfig, Listing
from dataset_scripts.transcripts import clean_transcript
from dataset_scripts.utterances import Rejection, Utterance, check_name
from hf_components.runtime import (
    UserError,
    files_below,
    looks_like,
    natural_order,
    printable,
    read_json_lines,
    same_path,
    text_field,
)
from hf_components.speech import SOUND_SUFFIXES, UNKNOWN

logger = logging.getLogger(__name__)

CONDITIONS = ("clean", "noisy")
SPLIT = "recordings"
TRUTH = "truth.jsonl"


@dataclasses.dataclass
class AudioFolderConfig(CorpusConfig):
    """Options of `AudioFolder`, beside those of every builder.

    Attributes:
        truth: JSON lines of `file`, a path below `data_dir`, and `text`; default: `truth.jsonl` there, if it exists.
        require_text: reject recordings that `truth` does not name; otherwise their `text` is empty.
    """

    truth: str | None = None
    require_text: bool = False

    def __post_init__(self):
        super().__post_init__()
        beside = Path(self.data_dir, TRUTH)
        if self.truth is None and (beside.is_file() or beside.is_symlink()):
            self.truth = str(beside)
        if self.truth is None and self.require_text:
            raise UserError(
                f"{self.data_dir} has no {TRUTH} with a transcript for each recording; give the file by --truth"
            )

    def inputs(self) -> list[Path]:
        return [Path(self.truth)] if self.truth else []

    def files(self):
        return audio_files(self.data_dir)

    def reader(self, files):
        return dataclasses.replace(super().reader(files), require_text=self.require_text, follows_links=True)


class AudioFolder(CorpusBuilder):
    """`AudioFolder(data_dir=...)`: one split, `recordings`; `group` is the condition, `id` the path below `data_dir`.

    The speakers are unknown, and so is every `speaker_id`.

    Raises:
        UserError: there is no recording, or a line of `truth` is wrong (the error names file and line).
    """

    BUILDER_CONFIG_CLASS = AudioFolderConfig

    def read_manifests(self) -> Listing:
        root = Path(self.config.data_dir)
        files = [Path(file) for file in self.config.files()]
        if not files:
            raise UserError(
                f"{root} holds no recordings; put them into {' and '.join(CONDITIONS)} there, or as they are, and "
                "they are split in half by name"
            )
        warn_of_links(root, self.config.files())
        truth = read_truth(self.config.truth) if self.config.truth else {}
        other_spelling = {same_path(name): truth[name] for name in truth.keys() - {file.as_posix() for file in files}}
        if strangers := other_spelling.keys() - {same_path(file.as_posix()) for file in files}:
            first = min(strangers)
            meant = next((f"; did you mean {path.relative_to(root)}?" for path in looks_like(root, first)), "")
            text = "%s names %d recordings that are not below %s, such as %s%s"
            logger.warning(text, self.config.truth, len(strangers), root, first, meant)
        condition_of = _conditions(root, files)
        listed = []
        rejected = []
        for file in files:
            name = file.as_posix()
            raw = truth.get(name, other_spelling.get(same_path(name)))
            try:
                check_name(name)
                if condition_of[file] is None:
                    raise Rejection("no condition", f"it lies outside of {' and '.join(CONDITIONS)}")
            except Rejection as problem:
                rejected.append(problem.row(name, name, SPLIT))
                continue
            listed.append(
                Utterance(
                    id=name,
                    file=name,
                    text=clean_transcript(raw or "", markup=False),
                    raw_text=raw,
                    speaker_id=UNKNOWN,
                    group=condition_of[file],
                )
            )
        return Listing({SPLIT: listed}, rejected)


def audio_files(folder: str | Path) -> list[str]:
    """Sorted paths of recordings below `folder`, by suffix; also links to nothing, which may be folders of them."""
    root = Path(folder)
    return sorted(
        path.relative_to(root).as_posix()
        for path in files_below(root)
        if path.suffix.lower() in SOUND_SUFFIXES or (not path.suffix and path.is_symlink() and not path.exists())
    )


def named_recordings(places: Iterable[str | Path]) -> dict[str, Path]:
    """Recordings by name: a file by its own name, those of a folder by their paths in it.

    Raises:
        UserError: a place does not exist, a folder holds no recording, or two recordings have one name.
    """
    named: dict[str, Path] = {}
    for place in map(Path, places):
        if place.is_dir():
            found = {printable(name): place / name for name in audio_files(place)}
        elif place.exists() or place.is_symlink():
            found = {printable(place.name): place}
        else:
            raise UserError(f"there is no file or folder {place}; give recordings, or folders of them")
        if not found:
            raise UserError(f"{place} holds no recording; give recordings, or folders of them")
        if twice := sorted(named.keys() & found.keys()):
            first = f"{named[twice[0]]} and {found[twice[0]]}"
            raise UserError(f"{first} have one name, {twice[0]}; give the folder that holds both, or rename one")
        named |= found
    return named


def warn_of_links(folder: str | Path, files: Iterable[str]) -> None:
    """Warn if several of these recordings are links to one file: they may be on both sides of a split."""
    named: dict[str, list[str]] = defaultdict(list)
    for file in files:
        named[os.path.realpath(Path(folder, file))].append(file)
    if copies := [names for names in named.values() if len(names) > 1]:
        text = "%d recordings are in %s more than once, by links, such as %s; each counts, so leave out all but one"
        logger.warning(text, len(copies), folder, printable(" and ".join(copies[0])))


def read_truth(path: str | Path) -> dict[str, str]:
    """Read the text of each file.

    Raises:
        UserError: a line lacks `file` or `text`, or repeats a file; the error names file and line.
    """
    texts: dict[str, str] = {}
    for line, row in read_json_lines(path):
        file = text_field(row, "file", path, line)
        if file in texts:
            raise UserError(f"{path}, line {line}: {file} has a text already; keep one of the two")
        texts[file] = text_field(row, "text", path, line)
    return texts


def _conditions(root: Path, files: list[Path]) -> dict[Path, str | None]:
    if any((root / name).is_dir() for name in CONDITIONS):
        return {file: file.parts[0] if file.parts[0] in CONDITIONS else None for file in files}
    half = -(-len(files) // 2)
    logger.warning(
        "%s has no folders %s: the first %d recordings by name are taken for %s, the other %d for %s",
        root,
        " and ".join(CONDITIONS),
        half,
        CONDITIONS[0],
        len(files) - half,
        CONDITIONS[1],
    )
    return {file: CONDITIONS[index >= half] for index, file in enumerate(sorted(files, key=natural_order))}
