"""Checkpoints of adversarial training: complete or absent, two kept."""

import logging
import shutil
from pathlib import Path

import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from hf_components.checkpoints import (
    complete_checkpoints,
    damaged_checkpoint_named,
    delete_remains,
    last_complete_checkpoint,
    mark_complete,
)
from hf_components.runtime import make_folder, read_record, write_json

logger = logging.getLogger(__name__)

KEPT = 2  # so that one is always complete
BEST = "best.safetensors"
HISTORY = "history.json"


def save_checkpoint(
    accelerator: Accelerator, folder: Path, best: dict[str, torch.Tensor], history: list[dict]
) -> None:
    """Write everything that training needs to resume with the same bits; every process must call this.

    Args:
        folder: folder of all checkpoints; this one is `checkpoint-<epoch>`.
        best: the generator's weights after its best epoch.
        history: one entry per finished epoch.
    """
    target = folder / f"{PREFIX_CHECKPOINT_DIR}-{len(history)}"
    temporary = folder / f".{target.name}.tmp"
    if accelerator.is_main_process:
        for leftover in (temporary, target):  # incomplete, from a killed run
            shutil.rmtree(leftover, ignore_errors=True)
        make_folder(temporary)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(temporary))  # each process writes the state of its own random generators
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        save_file(best, temporary / BEST)
        write_json(temporary / HISTORY, history)
        temporary.rename(target)
        mark_complete(target, {"epoch": len(history)})
        for old in complete_checkpoints(folder)[:-KEPT]:
            shutil.rmtree(old)
    accelerator.wait_for_everyone()


def load_checkpoint(accelerator: Accelerator, folder: Path) -> tuple[dict[str, torch.Tensor], list[dict]] | None:
    """Load the newest complete checkpoint into the accelerator's objects; returns its best weights and history."""
    if accelerator.is_main_process:
        delete_remains(folder)
    accelerator.wait_for_everyone()
    newest = last_complete_checkpoint(folder)
    if newest is None:
        return None
    with damaged_checkpoint_named(newest):
        accelerator.load_state(newest)
    history = read_record(Path(newest) / HISTORY, [dict], f"delete {newest}, to go on from the one before it")
    logger.info("training resumes after epoch %d", len(history))
    return load_file(Path(newest) / BEST), history
