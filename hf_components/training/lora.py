"""LoRA with PEFT on a stock model."""

import re
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel
from peft.tuners.lora import LoraLayer
from transformers import PreTrainedModel

from hf_components.asr import family_of
from hf_components.checkpoints import base_model_id
from hf_components.runtime import UserError, flag
from hf_components.whisper.adapters import save_adapter


@dataclass
class LoraArguments:
    """Size and place of a LoRA."""

    lora_rank: int = flag(
        "rank of the LoRA, or of each expert", default=8, min=1, needs=({"finetuning": "lora"}, "use_lora")
    )
    lora_alpha: float = flag("scale: alpha / rank", default=16, above=0, needs=({"finetuning": "lora"}, "use_lora"))
    lora_dropout: float = flag(
        "dropout before the LoRA", default=0.1, min=0, below=1, needs=({"finetuning": "lora"}, "use_lora")
    )
    target_modules: list[str] | None = flag(
        "linear layers with a LoRA; default: those of the model's family, see hf_components/asr",
        default=None,
        needs=({"finetuning": "lora"}, "use_lora"),
    )


def add_lora(model: PreTrainedModel, args: LoraArguments, *, freeze: str | None = None) -> PeftModel:
    """Add a new LoRA to the layers of `model`. Its outputs do not change, and only the LoRA is trained.

    Args:
        freeze: "encoder" or "decoder", which gets no LoRA; or None.
    Returns:
        the PEFT model around `model`, which can switch the LoRA off and merge it.
    Raises:
        UserError: a size is out of its range, or no layer has one of the names.
    """
    family = family_of(model)
    layers = list(args.target_modules or family.lora_layers)
    encoder = next(name for name, part in model.named_modules() if part is family.encoder(model)) if freeze else ""
    inside = rf"{re.escape(encoder)}\."
    where = {"encoder": rf"(?!{inside})", "decoder": inside}.get(freeze, "")
    named = rf"{where}(.*\.)?({'|'.join(map(re.escape, layers))})"
    if freeze and not any(re.fullmatch(named, name) for name, _ in model.named_modules()):
        raise UserError(
            f"no layer outside the frozen {freeze} is called {' or '.join(layers)}; name others by --target_modules, "
            "or do not freeze it"
        )
    try:
        # Without task_type: SEQ_2_SEQ_LM would make PEFT pass `input_ids` to Whisper.
        config = LoraConfig(
            r=args.lora_rank,
            lora_alpha=args.lora_alpha,
            lora_dropout=args.lora_dropout,
            target_modules=named if freeze else layers,
        )
        lora = PeftModel(model, config)
    except (ValueError, NotImplementedError) as error:  # PEFT cannot put one into every model
        given = f"lora_rank {args.lora_rank}, lora_dropout {args.lora_dropout}, target_modules"
        raise UserError(f"{given} {' '.join(layers)}: {str(error).splitlines()[0]}") from error
    _check_layers(model)
    return lora


def _check_layers(model: PreTrainedModel) -> None:
    """Raise UserError for a LoRA that could not be saved or merged."""
    embeddings = {id(part.weight) for part in model.modules() if isinstance(part, torch.nn.Embedding)}
    for name, layer in model.named_modules():
        if not isinstance(layer, LoraLayer):
            continue
        if not isinstance(layer.get_base_layer(), torch.nn.Linear):
            kind = type(layer.get_base_layer()).__name__
            raise UserError(f"--target_modules names {name}, a {kind}; a LoRA goes into linear layers: leave it out")
        if id(layer.get_base_layer().weight) in embeddings:
            raise UserError(
                f"--target_modules names {name}, which shares its weights with the input embeddings, so that its LoRA "
                "could not be merged; leave it out"
            )


def save_lora(lora: PeftModel, folder: Path) -> None:
    """Write the trained LoRA as a PEFT adapter of its base model."""
    base = lora.get_base_model()
    layers = {name: module for name, module in base.named_modules() if isinstance(module, LoraLayer)}
    stock = next(
        (
            (kind.__module__, kind.__name__)
            for kind in type(base).__mro__
            if kind.__module__.startswith("transformers.models.") and not kind.__name__.endswith("PreTrainedModel")
        ),
        None,  # a model of our own
    )
    save_adapter(
        folder,
        {name: (layer.lora_A["default"].weight, layer.lora_B["default"].weight) for name, layer in layers.items()},
        scaling=next(iter(layers.values())).scaling["default"],
        base_model=base_model_id(base.name_or_path),
        base_class=stock,
    )
