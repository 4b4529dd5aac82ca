"""The files in checkpoints of an unfinished training, and the search for a complete checkpoint."""

from pathlib import Path

from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

COMPLETE = "complete"  # marker file of a complete checkpoint, written last
TRAINED_WEIGHTS = "model.safetensors"
BASE = "base.json"  # record of the base model of the trained weights


def last_complete_checkpoint(folder: str | Path) -> str | None:
    """The newest complete checkpoint; an incomplete one is ignored."""
    checkpoints = [path for path in Path(folder).glob(f"{PREFIX_CHECKPOINT_DIR}-*") if (path / COMPLETE).exists()]
    return str(max(checkpoints, key=lambda path: int(path.name.split("-")[1]))) if checkpoints else None
