"""What the checkpoints of a training in progress hold, and which of them can be used."""

from pathlib import Path

from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

COMPLETE = "complete"  # marker of a usable checkpoint, written last
TRAINED_WEIGHTS = "model.safetensors"
BASE = "base.json"  # what the trained weights belong to


def last_complete_checkpoint(folder: str | Path) -> str | None:
    """The highest checkpoint whose marker was written; one that a kill interrupted is passed over."""
    checkpoints = [path for path in Path(folder).glob(f"{PREFIX_CHECKPOINT_DIR}-*") if (path / COMPLETE).exists()]
    return str(max(checkpoints, key=lambda path: int(path.name.split("-")[1]))) if checkpoints else None
