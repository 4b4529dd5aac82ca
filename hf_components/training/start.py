"""Weights that stay close to those that training started from: by a penalty, or by an average afterwards."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from hf_components.runtime import UserError
from hf_components.training.ema import trained_weights

START_WEIGHTS = "start.safetensors"


class DistanceToStart:
    """Squared distance of the trained parameters to their values when this object was made.

    It is the penalty L2-SP of Li et al. 2018 (arXiv 1802.01483). A LoRA is penalised by its own parameters, not by the
    product of its two matrices. Checkpoints hold the start: a fresh LoRA is random.

    Args:
        model: model to train, the same object during the whole training.
    """

    def __init__(self, model: PreTrainedModel):
        self.model = model
        self.start = {name: weights.clone() for name, weights in trained_weights(model).items()}

    def squared(self) -> torch.Tensor:
        """The sum of squared differences, float32, with its gradient."""
        parameters = dict(self.model.named_parameters())
        parts = [
            (parameters[name].float() - start.to(parameters[name].device).float()).square().sum()
            for name, start in self.start.items()
        ]
        return torch.stack(parts).sum()

    def save(self, checkpoint: Path) -> None:
        save_file(
            {name: start.contiguous() for name, start in self.start.items()},
            checkpoint / START_WEIGHTS,
            metadata={"format": "pt"},
        )

    def load(self, checkpoint: Path) -> None:
        """Raises UserError if the checkpoint does not hold the start."""
        file = checkpoint / START_WEIGHTS
        if not file.exists():
            raise UserError(
                f"{checkpoint} was written without l2_to_start; leave it out, or start anew with --force_restart"
            )
        found = load_file(file)
        self.start = {name: found[name].to(start.device) for name, start in self.start.items()}


def average_with_start(model: PreTrainedModel, start: Mapping[str, torch.Tensor], share: float) -> None:
    """Mix the weights from before training into the trained ones, in place: WiSE-FT of Wortsman et al. 2022 ("Robust
    fine-tuning of zero-shot models"). Of a LoRA the product changes by that share, since B starts at zero.

    Args:
        start: `trained_weights` before training.
        share: share of the start.
    """
    for name, weights in trained_weights(model).items():
        if "lora_A" not in name:
            weights.lerp_(start[name], share)
