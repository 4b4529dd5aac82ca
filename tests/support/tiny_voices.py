"""Voices of random numbers over a tiny Whisper."""

from dataclasses import replace

import torch
from tiny_speech import tone

from hf_components.checkpoints.digests import digest_of_model
from hf_components.checkpoints.voices import CONTEXT, LORA, NO_CHANGE, VOTE, WEIGHTS, Voice

MODULES = ("q_proj", "fc1")


def common(model) -> dict:
    return {"base": model.name_or_path or "tiny", "base_digest": digest_of_model(model), "sentences": 3}


def random_lora(
    model, name: str, seed: int = 0, rank: int = 4, first_layer: int = 1, weights=None, size: float = 0.5
) -> Voice:
    """A voice whose LoRA changes what is written."""
    generator = torch.Generator().manual_seed(seed)
    lora = {}
    for module_name, module in model.named_modules():
        parts = module_name.split(".")
        inside = parts[-1] in MODULES and (parts[1] == "decoder" or int(parts[3]) >= first_layer)
        if inside:
            lora[module_name] = (
                size * torch.randn(rank, module.in_features, generator=generator),
                size * torch.randn(module.out_features, rank, generator=generator),
            )
    return Voice(name, LORA, lora=lora, first_layer=first_layer, expert_weights=weights, **common(model))


def voting(model, name: str, *texts: str, weights=None, **options) -> Voice:
    """A voice with examples and a LoRA."""
    lora = random_lora(model, name, weights=weights, **options)
    examples = with_examples(model, name, *texts, weights=weights)
    return replace(examples, way=VOTE, lora=lora.lora, first_layer=lora.first_layer)


def no_change(model, name: str) -> Voice:
    return Voice(name, NO_CHANGE, **common(model))


def weights_only(model, name: str, weights: list[float]) -> Voice:
    return Voice(name, WEIGHTS, expert_weights=weights, **common(model))


def with_examples(model, name: str, *texts: str, weights=None) -> Voice:
    examples = [tone(number, number, 0.6).astype("float32") for number in range(len(texts))]
    return Voice(name, CONTEXT, examples=examples, example_texts=list(texts), expert_weights=weights, **common(model))
