"""The files in checkpoints of an unfinished training, and the search for a complete checkpoint."""

import contextlib
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path

from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from hf_components.runtime import (
    FILES,
    check_files,
    damage_named,
    describe_files,
    read_record,
    sealed,
    sync,
    sync_folder,
    write_json,
)

logger = logging.getLogger(__name__)

COMPLETE = "complete"  # marker file of a complete checkpoint, written last
TRAINED_WEIGHTS = "model.safetensors"
AVERAGED_WEIGHTS = "ema.safetensors"  # moving average of the trained weights, if the training keeps one
BASE = "base.json"  # record of the base model of the trained weights
BASE_FORM = {"base_model": str, "fingerprint": str}


def complete_checkpoints(folder: str | Path) -> list[Path]:
    """The complete checkpoints of a training, the oldest first; incomplete ones are ignored."""
    return [path for path in _checkpoints(folder) if (path / COMPLETE).exists()]


def _checkpoints(folder: str | Path) -> list[Path]:
    """Folders named like a checkpoint, by their number."""
    numbers = {path: path.name.removeprefix(f"{PREFIX_CHECKPOINT_DIR}-") for path in Path(folder).glob("*-*")}
    found = [path for path, number in numbers.items() if number.isdecimal()]
    return sorted(found, key=lambda path: int(numbers[path]))


def last_complete_checkpoint(folder: str | Path) -> str | None:
    """The newest complete checkpoint.

    Raises:
        UserError: its files, or those of an older one, are not those that were written.
    """
    found = complete_checkpoints(folder)
    for checkpoint in reversed(found):
        check_checkpoint(checkpoint)
    return str(found[-1]) if found else None


def delete_remains(folder: str | Path) -> None:
    """Delete checkpoints that an interrupted training has half written, or half deleted because it had newer ones.

    Else they would count among those that are kept, in place of good ones. The newest complete one stays in any case.
    """
    complete = complete_checkpoints(folder)
    half_written = [path for path in _checkpoints(folder) if path not in complete]
    half_deleted = [path for path in complete[:-1] if not all(map(Path.exists, _files_of(path)))]
    for path in half_written + half_deleted:
        logger.info("%s was half written or half deleted, and is removed", path)
        shutil.rmtree(path)


def _files_of(checkpoint: Path) -> list[Path]:
    return [checkpoint / place for place in _read_marker(checkpoint).get("files", ())]


def weights_file(folder: Path) -> Path:
    """The file with the weights that a checkpoint is evaluated with: the moving average if there is one."""
    averaged = folder / AVERAGED_WEIGHTS
    return averaged if averaged.exists() else folder / TRAINED_WEIGHTS


def mark_complete(folder: Path, progress: Mapping[str, int]) -> None:
    """Write the marker of a complete checkpoint, with its progress and the content of its files."""
    sync_folder(folder)  # before the marker: it must not exist if a file did not reach the disk
    sync(folder.parents[1])  # where the training has made the folder of its checkpoints
    write_json(folder / COMPLETE, sealed({**progress, "files": describe_files(folder, without=(COMPLETE,))}))


def check_checkpoint(folder: str | Path) -> None:
    """Make sure that a checkpoint holds the files that were written, and no others.

    Raises:
        UserError: a file was cut short, changed, exchanged or removed.
    """
    folder = Path(folder)
    marker = _read_marker(folder)
    if "files" in marker:  # earlier versions did not record them
        check_files(folder, marker["files"], _remedy(folder))


def damaged_checkpoint_named(folder: str | Path) -> contextlib.AbstractContextManager[None]:
    """Name a checkpoint whose files cannot be read in the block, or are no plain tensors and numbers."""
    return damage_named(folder, _remedy(folder))


def _read_marker(folder: Path) -> dict:
    return read_record(folder / COMPLETE, {"files?": FILES}, _remedy(folder))


def _remedy(folder: str | Path) -> str:
    return f"delete {folder}, then the training goes on from the newest one that is left"
