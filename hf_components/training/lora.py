"""LoRA with PEFT on a stock model."""

import re
from dataclasses import dataclass
from pathlib import Path

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
    encoder = next(name for name, part in model.named_modules() if part is family.encoder(model)) if freeze else ""
    only = {"encoder": rf"(?!{re.escape(encoder)}\.).*", "decoder": rf"{re.escape(encoder)}\..*"}
    layers = list(args.target_modules or family.lora_layers)
    try:
        # Without task_type: SEQ_2_SEQ_LM would make PEFT pass `input_ids` to Whisper.
        config = LoraConfig(
            r=args.lora_rank,
            lora_alpha=args.lora_alpha,
            lora_dropout=args.lora_dropout,
            target_modules=rf"{only[freeze]}\.({'|'.join(layers)})" if freeze else layers,
        )
        return PeftModel(model, config)
    except (ValueError, NotImplementedError) as error:  # PEFT cannot put one into every model
        given = f"lora_rank {args.lora_rank}, lora_dropout {args.lora_dropout}, target_modules"
        raise UserError(f"{given} {' '.join(layers)}: {str(error).splitlines()[0]}") from error


def save_lora(lora: PeftModel, folder: Path) -> None:
    """Write the trained LoRA as a PEFT adapter of its base model."""
    base = lora.get_base_model()
    layers = {name: module for name, module in base.named_modules() if isinstance(module, LoraLayer)}
    stock = next(kind for kind in type(base).__mro__ if kind.__module__.startswith("transformers.models."))
    save_adapter(
        folder,
        {name: (layer.lora_A["default"].weight, layer.lora_B["default"].weight) for name, layer in layers.items()},
        scaling=next(iter(layers.values())).scaling["default"],
        base_model=base_model_id(base.name_or_path),
        base_class=(stock.__module__, stock.__name__),
    )
