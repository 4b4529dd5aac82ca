"""Builder for a folder of recordings without transcripts, clean and noisy ones.

    <data_dir>/clean|noisy/<audio files, however deep>
    <data_dir>/truth.jsonl    where known, {"file": "clean/audio_001.wav", "text": ...}

Without those two folders, the first half of the files by name is taken for clean, the second for noisy.
"""

import dataclasses
import logging
from pathlib import Path

from dataset_scripts.corpus_builder import CorpusBuilder, CorpusConfig, Listing
from dataset_scripts.utterances import Rejection, Utterance
from hf_components.runtime import UserError, read_json_lines, text_field

logger = logging.getLogger(__name__)

CONDITIONS = ("clean", "noisy")
SPLIT = "recordings"
TRUTH = "truth.jsonl"
# What is meant as a recording; whether it can be read is found out by reading it.
SUFFIXES = {
    ".aac",
    ".aif",
    ".aifc",
    ".aiff",
    ".amr",
    ".au",
    ".caf",
    ".flac",
    ".m4a",
    ".mp3",
    ".mp4",
    ".oga",
    ".ogg",
    ".opus",
    ".snd",
    ".w64",
    ".wav",
    ".webm",
    ".wma",
}


@dataclasses.dataclass
class AudioFolderConfig(CorpusConfig):
    """Options of `AudioFolder`, beside those of every builder.

    Attributes:
        truth: JSON lines of `file`, as it lies below `data_dir`, and `text`; by default `truth.jsonl` there, if it is.
        require_text: whether recordings that it does not name are rejected; without, their `text` is empty.
    """

    truth: str | None = None
    require_text: bool = False

    def __post_init__(self):
        super().__post_init__()
        beside = Path(self.data_dir, TRUTH)
        if self.truth is None and beside.is_file():
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
        return dataclasses.replace(super().reader(files), require_text=self.require_text)


class AudioFolder(CorpusBuilder):
    """`AudioFolder(data_dir=...)`: one split, `recordings`; `group` is the condition, `id` the path below `data_dir`.

    Nothing is known of who speaks, so that every recording has a `speaker_id` of its own.

    Raises:
        UserError: there is no recording, or `truth` is not what it claims to be (file and line).
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
        truth = read_truth(self.config.truth) if self.config.truth else {}
        if strangers := truth.keys() - {file.as_posix() for file in files}:
            logger.warning(
                "%s names %d recordings that are not below %s, such as %s",
                self.config.truth,
                len(strangers),
                root,
                min(strangers),
            )
        condition_of = _conditions(root, files)
        listed = []
        rejected = []
        for file in files:
            name = file.as_posix()
            if condition_of[file] is None:
                problem = Rejection("no condition", f"it lies outside of {' and '.join(CONDITIONS)}")
                rejected.append(problem.row(name, name, SPLIT))
                continue
            listed.append(
                Utterance(
                    id=name,
                    file=name,
                    text=" ".join(truth.get(name, "").split()),
                    raw_text=truth.get(name),
                    speaker_id=name,
                    group=condition_of[file],
                )
            )
        return Listing({SPLIT: listed}, rejected)


def audio_files(folder: str | Path) -> list[str]:
    """Paths below `folder` of what is meant as recordings, in order; also links to what is not there."""
    root = Path(folder)
    return sorted(
        path.relative_to(root).as_posix()
        for path in root.rglob("*")
        if path.suffix.lower() in SUFFIXES and not path.is_dir() and not path.name.startswith(".")
    )


def read_truth(path: str | Path) -> dict[str, str]:
    """Text by file.

    Raises:
        UserError: with file and line, for a line that is none of `file` and `text`, or repeats a file.
    """
    texts: dict[str, str] = {}
    for line, row in read_json_lines(path):
        file = text_field(row, "file", path, line)
        if file in texts:
            raise UserError(f"{path}, line {line}: {file} has a text already; leave one of the two")
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
    return {file: CONDITIONS[index >= half] for index, file in enumerate(files)}
