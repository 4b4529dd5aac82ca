"""LoRA experts between stages: build them on a base model, save what was trained, load it again."""

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import WhisperConfig, WhisperForConditionalGeneration

from hf_components.asr import Whisper
from hf_components.checkpoints import base_model_id, digest_of_base, lora_folder
from hf_components.runtime import UserError, damage_named, flag
from hf_components.training import LoraArguments
from hf_components.whisper import DynamicContextWhisper, MoeWhisperConfig, MoeWhisperForConditionalGeneration
from hf_components.whisper.adapters import load_adapter
from hf_components.whisper.router import UtteranceRouter

WEIGHTS = "experts.safetensors"
BASE_DIGEST = "base_digest"  # key in the metadata of that file


@dataclass
class ExpertArguments(LoraArguments):
    """Size and place of the LoRA experts; with a shared expert the others learn only the differences."""

    shared_expert: bool = flag("add one LoRA that every utterance uses", default=True)


def build_experts(
    base: DynamicContextWhisper, args: ExpertArguments, num_experts: int, router_layer: int
) -> MoeWhisperForConditionalGeneration:
    """Put fresh experts above `router_layer`; a single expert gets no shared one, which would only double it.

    Raises:
        UserError: a size is out of its range.
    """
    try:
        return MoeWhisperForConditionalGeneration.from_base(
            base,
            num_experts=num_experts,
            router_layer=router_layer,
            lora_rank=args.lora_rank,
            lora_alpha=args.lora_alpha,
            lora_dropout=args.lora_dropout,
            target_modules=list(args.target_modules or Whisper.lora_layers),
            base_model_name_or_path=base_model_id(base.name_or_path),
            shared_expert=args.shared_expert and num_experts > 1,
        )
    except ValueError as error:
        raise UserError(str(error)) from error


def start_from_lora(model: MoeWhisperForConditionalGeneration, folder: str | Path) -> None:
    """Copy a trained LoRA into the shared expert, or into the only expert; the others then learn what it lacks.

    Args:
        folder: output of a training of one LoRA, or a PEFT adapter; its rank may be smaller than that of the experts.
    Raises:
        UserError: there is no shared expert; the folder holds no single LoRA, or one of a greater rank, of other
            layers, or of another base model.
    """
    if model.config.num_experts > 1 and not model.config.shared_expert:
        raise UserError(
            "--lora_model is the start of the shared expert, but --no_shared_expert is given; leave one of them out"
        )
    if (Path(folder) / "expert_1").exists():
        raise UserError(
            f"experts start from a single LoRA, but {folder} holds several; train one by pretrain_experts without "
            "--labels_dir"
        )
    try:
        lora, rank, scaling = load_adapter(lora_folder(folder))
    except ValueError as error:
        raise UserError(str(error)) from error
    check_base(folder, model)
    if rank > model.config.lora_rank:
        raise UserError(
            f"the LoRA in {folder} has rank {rank}, the experts that would start from it {model.config.lora_rank}; "
            f"set lora_rank to {rank} or more"
        )
    layers = model.routed_layers()
    if layers.keys() != lora.keys():
        raise UserError(
            "the experts and the single LoRA they would start from adapt different layers, "
            f"{min(layers.keys() ^ lora.keys())} for one; train both with the same target_modules and --router_dir"
        )
    with torch.no_grad():
        for name, layer in layers.items():
            a, b = lora[name]
            layer.lora_b[-1].zero_()  # the shared expert is the last
            layer.lora_a[-1, :rank] = a
            layer.lora_b[-1, :, :rank] = b * (scaling / layer.scaling)


def freeze_shared_expert(model: MoeWhisperForConditionalGeneration, weight_decay: float) -> None:
    """Freeze the shared expert while the others train; all of them are slices of the same parameters.

    Args:
        weight_decay: weight decay of the optimizer, which also shrinks weights without a gradient.
    Raises:
        UserError: there is no shared expert, or weight decay would shrink it.
    """
    if weight_decay:
        raise UserError(
            f"weight_decay {weight_decay} would shrink the shared expert; set it to 0, or --no_freeze_shared_expert"
        )
    if not model.config.shared_expert:
        raise UserError(
            "freeze_shared_expert needs a shared expert; train the experts with --shared_expert, or leave it out"
        )
    for layer in model.routed_layers().values():
        layer.shared_is_frozen = True


def save_trained_experts(model: MoeWhisperForConditionalGeneration, folder: Path) -> None:
    """Write the LoRA weights and the configuration, and each expert as a PEFT adapter `expert_<i>`."""
    model.config.save_pretrained(folder)
    lora = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items() if ".lora_" in name}
    # A single entry: safetensors writes several in any order, and equal runs must give equal files.
    save_file(lora, folder / WEIGHTS, metadata={BASE_DIGEST: digest_of_base(model)})
    model.save_experts(folder)


def load_trained_experts(
    base: DynamicContextWhisper, folder: str | Path, **config
) -> MoeWhisperForConditionalGeneration:
    """Put saved experts on their base model; `config` changes fields that do not affect weights.

    Raises:
        UserError: the folder holds no experts, they adapt another base model, or a field is out of its range.
    """
    folder = Path(folder)
    if not (folder / WEIGHTS).exists():
        raise UserError(f"{folder} holds no {WEIGHTS}; give the output folder of pretrain_experts")
    own = MoeWhisperConfig().to_dict().keys() - WhisperConfig().to_dict().keys()
    saved = MoeWhisperConfig.from_pretrained(folder)
    try:
        fields = {**{name: getattr(saved, name) for name in own}, **config}
        model = MoeWhisperForConditionalGeneration.from_base(base, **fields)
        weights = load_file(folder / WEIGHTS)
        if unmatched := weights.keys() ^ {name for name in model.state_dict() if ".lora_" in name}:
            raise ValueError(f"one of the two lacks {min(unmatched)}")
        model.load_state_dict(weights, strict=False)
    except (ValueError, RuntimeError) as error:
        raise UserError(
            f"the experts in {folder} do not fit {base.name_or_path}: {error}; train them over it"
        ) from error
    check_base(folder, base)
    return model


def load_mixture(
    base: DynamicContextWhisper, experts_dir: str | Path, router_dir: str | Path, **config
) -> MoeWhisperForConditionalGeneration:
    """Put saved experts and a pre-trained router on their base model, see `load_trained_experts`.

    Raises:
        UserError: either is missing, or they do not fit each other or the base.
    """
    router, router_layer = load_router(router_dir)
    model = load_trained_experts(base, experts_dir, router_hidden_size=router.hidden.out_features, **config)
    if (router.output.out_features, router_layer) != (model.config.num_experts, model.config.router_layer):
        raise UserError(
            f"the router in {router_dir} chooses among {router.output.out_features} experts above layer "
            f"{router_layer}, but {experts_dir} holds {model.config.num_experts} above layer "
            f"{model.config.router_layer}; make both from the same clusters and embeddings"
        )
    if router.hidden.in_features != model.config.d_model:
        raise UserError(
            f"the router in {router_dir} reads embeddings of {router.hidden.in_features} dimensions, "
            f"{base.name_or_path} has {model.config.d_model}; pre-train it on embeddings of this model"
        )
    model.model.encoder.router.load_state_dict(router.state_dict())
    return model


def check_base(folder: str | Path, base: WhisperForConditionalGeneration) -> None:
    """Raise UserError if experts were trained on other weights than those of `base`; adapters keep no record of it."""
    file = Path(folder) / WEIGHTS
    if not file.exists():
        return
    with safe_open(file, framework="pt") as weights:
        adapted = weights.metadata().get(BASE_DIGEST)
    if adapted != digest_of_base(base):
        raise UserError(
            f"the experts in {folder} adapt {MoeWhisperConfig.from_pretrained(folder).base_model_name_or_path}, not "
            f"{base_model_id(base.name_or_path)}, which has other weights; give the model that they adapt"
        )


def load_router(folder: str | Path) -> tuple[UtteranceRouter, int]:
    """A pre-trained router and the encoder layer that it reads.

    Raises:
        UserError: the folder holds no router.
    """
    try:
        with damage_named(folder, "pre-train the router again"):
            return UtteranceRouter.load(folder)
    except FileNotFoundError as error:
        raise UserError(
            f"{folder} holds no router ({Path(error.filename).name} is missing); --router_dir takes the output "
            "folder of pretrain_router"
        ) from error
