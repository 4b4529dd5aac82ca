"""Which layout a folder of data has, and which recipes take it."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from dataset_scripts.audio_folder import audio_files
from dataset_scripts.speaker_json import holds_speakers, split_folders
from hf_components.runtime import UserError, files_below, first_few
from hf_components.speech import is_prepared

SPEAKERS = "speaker_json"
MANIFEST = "jsonl_manifest"
RECORDINGS = "segmented_audio"
PREPARED = "prepared"


@dataclasses.dataclass(frozen=True)
class Layout:
    name: str
    is_there: Callable[[Path], bool]
    taken_by: str


def _holds_manifest(folder: Path) -> bool:
    return any(folder.glob("*.jsonl"))


def _holds_recordings(folder: Path) -> bool:
    return bool(audio_files(folder))


def _holds_tables(folder: Path) -> bool:
    return any(path.suffix == ".parquet" for path in files_below(folder))


LAYOUTS = {
    PREPARED: Layout("a prepared corpus (Parquet)", _holds_tables, "every recipe with --corpus, and most pipelines"),
    SPEAKERS: Layout(
        "a folder of speakers (Train/<speaker>/<speaker>.json)",
        lambda folder: bool(split_folders(folder)),
        "run_moe_pipeline, run_voice_pipeline, and prepare_corpus --builder speaker_json",
    ),
    MANIFEST: Layout(
        "a JSONL manifest with its audio",
        _holds_manifest,
        "run_children_pipeline, run_phonetic_pipeline, and prepare_corpus --builder jsonl_manifest",
    ),
    RECORDINGS: Layout(
        "a folder of recordings", _holds_recordings, "run_units_pipeline, run_wav2vec2_pipeline and segment_audio"
    ),
}


def require_layout(data: str | Path, *wanted: str) -> None:
    """Raise UserError if `data` is a folder of this disk that has none of these layouts; it says who takes it."""
    folder = Path(data)
    if folder.is_dir() and not any(LAYOUTS[name].is_there(folder) for name in wanted):
        names = " nor ".join(LAYOUTS[name].name for name in wanted)
        neither = "neither" if len(wanted) > 1 else "not"
        advice = _meant(folder, wanted) or who_takes(folder)
        raise UserError(f"{data} is {neither} {names}; {advice}")


def _meant(folder: Path, wanted: Sequence[str]) -> str | None:
    """What to give or to rename instead, in words: the folder in an archive, or splits with other names."""
    inside = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith((".", "__")))
    for path in inside:
        if any(LAYOUTS[name].is_there(path) for name in wanted if name != RECORDINGS):
            return f"did you mean {path}?"
    if SPEAKERS in wanted and (splits := [path.name for path in inside if holds_speakers(path)]):
        return f"{first_few(splits)} in it have speakers, but splits are named Train, Dev and Test: rename them"
    return None


def must_prepare(data: str | Path, layout: str) -> bool:
    """Whether `data` has this layout, so that a corpus is still to be made of it, and is not a prepared one.

    Raises:
        UserError: it is a folder of this disk, and neither of the two.
    """
    if is_prepared(data):
        return False
    require_layout(data, layout, PREPARED)
    return LAYOUTS[layout].is_there(Path(data))


def who_takes(folder: Path) -> str:
    """What a folder holds, and which recipes take that, in words."""
    for layout in LAYOUTS.values():
        if layout.is_there(folder):
            return f"it holds {layout.name}, which is for {layout.taken_by}"
    known = ", ".join(layout.name for layout in LAYOUTS.values())
    return f"it holds none of what recipes take: {known}; see recipes/README.md, Your own data"
