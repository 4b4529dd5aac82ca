"""LoRA with PEFT on a stock model."""

from dataclasses import dataclass
from pathlib import Path

from peft import LoraConfig, PeftModel
from peft.tuners.lora import LoraLayer
from transformers import PreTrainedModel

from hf_components.checkpoints import base_model_id
from hf_components.runtime import UserError, flag
from hf_components.whisper.adapters import save_adapter

ENCODER = r"model\.encoder\..*"


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
    target_modules: list[str] = flag(
        "linear layers with a LoRA",
        default=["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"],
        needs=({"finetuning": "lora"}, "use_lora"),
    )


def add_lora(model: PreTrainedModel, args: LoraArguments, *, freeze_encoder: bool = False) -> PeftModel:
    """Add a new LoRA to the layers of `model`. Its outputs do not change, and only the LoRA is trained.

    Args:
        freeze_encoder: put the LoRA only into the decoder of a Whisper.
    Returns:
        the PEFT model around `model`, which can switch the LoRA off and merge it.
    Raises:
        UserError: a size is out of its range, or no layer has one of the names.
    """
    try:
        # Without task_type: SEQ_2_SEQ_LM would make PEFT pass `input_ids` to Whisper.
        config = LoraConfig(
            r=args.lora_rank,
            lora_alpha=args.lora_alpha,
            lora_dropout=args.lora_dropout,
            target_modules=args.target_modules,
            exclude_modules=ENCODER if freeze_encoder else None,
        )
        return PeftModel(model, config)
    except ValueError as error:
        given = f"lora_rank {args.lora_rank}, lora_dropout {args.lora_dropout}, target_modules"
        raise UserError(f"{given} {' '.join(args.target_modules)}: {str(error).splitlines()[0]}") from error


def save_lora(lora: PeftModel, folder: Path) -> None:
    """Write the trained LoRA as a PEFT adapter of its base model."""
    layers = {name: module for name, module in lora.get_base_model().named_modules() if isinstance(module, LoraLayer)}
    save_adapter(
        folder,
        {name: (layer.lora_A["default"].weight, layer.lora_B["default"].weight) for name, layer in layers.items()},
        scaling=next(iter(layers.values())).scaling["default"],
        base_model=base_model_id(lora.get_base_model().name_or_path),
    )
