"""Checkpoints of adversarial training: complete or absent, two kept."""

import json
import logging
import shutil
from pathlib import Path

import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from hf_components.checkpoints import COMPLETE, last_complete_checkpoint
from hf_components.runtime import sync_folder, write_json

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
        temporary.mkdir(parents=True)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(temporary))  # each process writes the state of its own random generators
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        save_file(best, temporary / BEST)
        write_json(temporary / HISTORY, history)
        sync_folder(temporary)
        temporary.rename(target)
        write_json(target / COMPLETE, {"epoch": len(history)})
        checkpoints = sorted(folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*"), key=lambda path: int(path.name.split("-")[1]))
        for old in checkpoints[:-KEPT]:
            shutil.rmtree(old)
    accelerator.wait_for_everyone()


def load_checkpoint(accelerator: Accelerator, folder: Path) -> tuple[dict[str, torch.Tensor], list[dict]] | None:
    """Load the newest complete checkpoint into the accelerator's objects; returns its best weights and history."""
    newest = last_complete_checkpoint(folder)
    if newest is None:
        return None
    accelerator.load_state(newest)
    history = json.loads((Path(newest) / HISTORY).read_text())
    logger.info("training resumes after epoch %d", len(history))
    return load_file(Path(newest) / BEST), history
