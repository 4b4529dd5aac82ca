"""Experts as ordinary PEFT adapters: each is a folder with `adapter_config.json` and safetensors."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

PREFIX = "base_model.model."  # how PEFT names the modules of the model it wraps
UNSUPPORTED = ("use_dora", "rank_pattern", "alpha_pattern", "modules_to_save")

Lora = dict[str, tuple[torch.Tensor, torch.Tensor]]  # module name -> A (rank, in), B (out, rank)


STOCK_WHISPER = ("transformers.models.whisper.modeling_whisper", "WhisperForConditionalGeneration")


def save_adapter(
    folder: Path,
    lora: Lora,
    *,
    scaling: float,
    base_model: str | None,
    base_class: tuple[str, str] | None = STOCK_WHISPER,
) -> None:
    """Write one LoRA as a PEFT adapter of the base model.

    Args:
        lora: A `(rank, in)` and B `(out, rank)` per module name of the base class.
        scaling: alpha / rank.
        base_model: Hub id or folder of the base model.
        base_class: module and name of the class that loads the base model, by which `AutoPeftModel` finds it; None for
            a class that no library has.
    Raises:
        ImportError: peft is not installed.
    """
    try:
        from peft import LoraConfig
    except ImportError as error:
        raise ImportError("writing adapters needs peft: pip install peft") from error
    rank = next(iter(lora.values()))[0].shape[0]
    # Without task_type: SEQ_2_SEQ_LM would make PEFT pass `input_ids` to Whisper.
    config = LoraConfig(
        r=rank,
        lora_alpha=scaling * rank,
        target_modules=sorted(lora),
        base_model_name_or_path=base_model,
        auto_mapping=base_class and {"parent_library": base_class[0], "base_model_class": base_class[1]},
        inference_mode=True,
    )
    config.target_modules = sorted(lora)  # PEFT makes a set of it, whose order changes with every process
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(folder)
    tensors = {}
    for name, (a, b) in lora.items():
        tensors[f"{PREFIX}{name}.lora_A.weight"] = a.detach().cpu().contiguous()
        tensors[f"{PREFIX}{name}.lora_B.weight"] = b.detach().cpu().contiguous()
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def load_adapter(folder: Path) -> tuple[Lora, int, float]:
    """Read a PEFT LoRA adapter.

    Returns:
        A `(rank, in)` and B `(out, rank)` per module name, the rank, and the scaling that PEFT applies.
    Raises:
        ValueError: the folder does not hold a plain LoRA adapter.
    """
    try:
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        tensors = load_file(folder / "adapter_model.safetensors")
    except FileNotFoundError as error:
        raise ValueError(
            f"{folder} is not a PEFT adapter: {Path(error.filename or '').name or 'its weights'} is missing"
        ) from error
    used = [key for key in UNSUPPORTED if config.get(key)]
    if config.get("peft_type") != "LORA" or used:
        raise ValueError(
            f"{folder} must be a plain LoRA adapter, got {config.get('peft_type')} with {used or 'none'} "
            f"of {', '.join(UNSUPPORTED)}"
        )
    foreign = [key for key in tensors if not key.endswith((".lora_A.weight", ".lora_B.weight"))]
    if foreign:
        raise ValueError(f"{folder} must hold the A and B of a LoRA only, got {foreign[0]}")
    names = {key.removeprefix(PREFIX).rsplit(".lora_", 1)[0] for key in tensors}
    lora = {
        name: (tensors[f"{PREFIX}{name}.lora_A.weight"], tensors[f"{PREFIX}{name}.lora_B.weight"]) for name in names
    }
    rank = config["r"]
    return lora, rank, config["lora_alpha"] / (rank**0.5 if config.get("use_rslora") else rank)


def stack_adapters(
    adapters: list[tuple[Lora, int, float]],
) -> tuple[dict[str, tuple[torch.Tensor, torch.Tensor]], int, float]:
    """Stack LoRAs of any ranks and scalings into experts of one rank and one scaling.

    Smaller ranks are filled with zeros. If a scaling differs from the first one, B is multiplied by the ratio. A
    module that an adapter does not have gets zeros.

    Args:
        adapters: for each A `(rank, in)` and B `(out, rank)` per module name, its rank and its scaling.
    Returns:
        `lora_a (experts, rank, in)` and `lora_b (experts, out, rank)` per module name, the rank, and the scaling.
    """
    rank = max(r for _, r, _ in adapters)
    scaling = adapters[0][2]
    shapes = {name: (a.shape[1], b.shape[0]) for lora, _, _ in adapters for name, (a, b) in lora.items()}
    stacked = {}
    for name, (size_in, size_out) in shapes.items():
        lora_a = torch.zeros(len(adapters), rank, size_in)
        lora_b = torch.zeros(len(adapters), size_out, rank)
        for i, (lora, own_rank, own_scaling) in enumerate(adapters):
            if name in lora:
                lora_a[i, :own_rank] = lora[name][0]
                lora_b[i, :, :own_rank] = lora[name][1] * (own_scaling / scaling)
        stacked[name] = (lora_a, lora_b)
    return stacked, rank, scaling
