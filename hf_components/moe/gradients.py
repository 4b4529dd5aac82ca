"""Gradients of utterances at a trained LoRA: how each utterance would change it, in few dimensions."""

import re
from collections.abc import Sequence
from pathlib import Path

import datasets
import numpy as np
import torch
from transformers import WhisperProcessor

from hf_components.checkpoints import lora_folder
from hf_components.moe.experts import check_base
from hf_components.moe.losses import labels_of, token_losses
from hf_components.runtime import UserError
from hf_components.whisper import DynamicContextWhisper, MoeWhisperForConditionalGeneration
from hf_components.whisper.adapters import load_adapter

ENCODER_LAYER = re.compile(r"model\.encoder\.layers\.(\d+)\.")


class LoraGradients:
    """The gradient of each utterance's mean token loss with respect to the B of a LoRA, projected, at length one.

    Utterances that a model gets wrong in the same way pull its LoRA in the same direction (as in ELREA, arXiv
    2502.00089). Every row of a batch has a copy of the LoRA as its own expert, so that a single backward pass gives
    the gradient of each utterance. Length one keeps a bad clip, whose loss is large, from dominating its speaker's
    mean. There is no dropout.

    Args:
        base: model that the LoRA adapts.
        folder: output of a training of one LoRA, or a PEFT adapter.
        batch_size: largest number of utterances per batch.
        dimension: dimensions to project to.
        seed: seed of the projection.
    Raises:
        UserError: the folder holds no single LoRA, or one of another base model.
    """

    def __init__(
        self,
        base: DynamicContextWhisper,
        processor: WhisperProcessor,
        folder: str | Path,
        *,
        batch_size: int,
        dimension: int,
        seed: int,
    ):
        adapter = lora_folder(folder)
        if (Path(folder) / "expert_1").exists():
            raise UserError(
                f"gradients are taken at a single LoRA, {folder} holds several experts; pretrain_experts without "
                "--labels_dir makes one"
            )
        check_base(folder, base)
        try:
            lora, _, _ = load_adapter(adapter)
            adapted = [int(match[1]) for name in lora if (match := ENCODER_LAYER.match(name))]
            lowest = min(adapted, default=base.config.encoder_layers)
            self.model = MoeWhisperForConditionalGeneration.from_experts(
                base, [adapter] * batch_size, router_layer=max(1, lowest)
            ).to(base.device)
        except ValueError as error:
            raise UserError(str(error)) from error
        self.model.train_only(experts=True, router=False)
        layers = self.model.routed_layers()
        self.layers = [layers[name] for name in sorted(lora)]
        self.projection = CountSketch([layer.lora_b[0].numel() for layer in self.layers], dimension, seed)
        self.processor = processor

    def __call__(self, features: torch.Tensor, rows: datasets.Dataset) -> list[np.ndarray]:
        """A float32 array `(dimension,)` for each clip of log-mel features `(batch, n_mels, frames)`, not padded to
        the audio context, with the transcripts in `rows`."""
        features = features.to(self.model.device, self.model.dtype)
        labels = labels_of(self.model, self.processor, rows)
        own = torch.eye(self.model.config.num_experts, device=features.device)[: len(features)]
        logits = self.model(features, labels=labels, expert_weights=own, fit_audio_context=False).logits
        found = torch.autograd.grad(token_losses(logits, labels).sum(), [layer.lora_b for layer in self.layers])
        sketch = self.projection([gradient[: len(features)].flatten(1) for gradient in found])
        return list(torch.nn.functional.normalize(sketch, dim=1).cpu().numpy())


class CountSketch:
    """A random projection that keeps inner products on average (Charikar et al. 2002), in any number of dimensions.

    Each value is added, with a random sign, to one random dimension of the result. A dense random matrix would take
    gigabytes.

    Args:
        sizes: number of values of each part of the vectors.
        dimension: dimensions of the result.
        seed: seed of signs and places, used together with the number of the part.
    """

    def __init__(self, sizes: Sequence[int], dimension: int, seed: int):
        self.dimension = dimension
        draws = [np.random.default_rng([seed, part]) for part in range(len(sizes))]
        self.places = [
            torch.from_numpy(draw.integers(dimension, size=size)) for draw, size in zip(draws, sizes, strict=True)
        ]
        self.signs = [
            torch.from_numpy(draw.choice(np.array([-1, 1], np.float32), size=size))
            for draw, size in zip(draws, sizes, strict=True)
        ]

    def __call__(self, parts: Sequence[torch.Tensor]) -> torch.Tensor:
        """Parts `(rows, size)` of vectors to `(rows, dimension)`, float32."""
        result = torch.zeros(len(parts[0]), self.dimension, device=parts[0].device)
        for part, places, signs in zip(parts, self.places, self.signs, strict=True):
            result.index_add_(1, places.to(part.device), part.float() * signs.to(part.device))
        return result
