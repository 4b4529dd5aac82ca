"""Training with parameters sharded over processes (FSDP2): check the launcher's settings, gather the whole model."""

import torch
from accelerate import Accelerator, DistributedType, FullyShardedDataParallelPlugin
from peft.tuners.tuners_utils import BaseTunerLayer
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from transformers import PreTrainedModel

from hf_components.runtime import UserError
from hf_components.whisper.dynamic_generation import DynamicContextGenerationMixin

BATCH_NORMS = torch.nn.BatchNorm1d | torch.nn.BatchNorm2d


def prepare_sharding(accelerator: Accelerator, model: PreTrainedModel) -> None:
    """Make FSDP divide this model, return losses and sum gradients in float32, as unsharded training does.

    Raises:
        UserError: the launcher shards in a way that `whole_model` does not support, or the model cannot be divided.
    """
    if accelerator.distributed_type == DistributedType.FSDP:
        plugin = accelerator.state.fsdp_plugin
        _check(plugin, model)
        _help_to_divide(plugin, model)
        if plugin.mixed_precision_policy is not None:
            _sum_in_float32(plugin, model)
    if (
        accelerator.distributed_type == DistributedType.DEEPSPEED
        and accelerator.state.deepspeed_plugin.zero_stage == 3
    ):
        raise UserError(
            "zero_stage must be at most 2, got 3; a model that does not fit into one GPU trains with "
            "accelerate_configs/fsdp.yaml"
        )


def _check(plugin: FullyShardedDataParallelPlugin, model: PreTrainedModel) -> None:
    if any(isinstance(module, BaseTunerLayer) for module in model.modules()):
        raise UserError(
            "sharded training does not support a LoRA, whose frozen base takes little memory; train it with "
            "accelerate_configs/multi_gpu.yaml"
        )
    for name, given, right in (
        ("fsdp_version", plugin.fsdp_version, 2),
        ("fsdp_state_dict_type", plugin.state_dict_type.name, "FULL_STATE_DICT"),
        ("fsdp_cpu_ram_efficient_loading", plugin.cpu_ram_efficient_loading, False),
    ):
        if given != right:
            raise UserError(f"{name} must be {right}, got {given}; see accelerate_configs/fsdp.yaml")
    if name := _indivisible(model):
        raise UserError(
            f"weights spread over processes must have an axis and one place, unlike {name}; train this model with "
            "accelerate_configs/multi_gpu.yaml"
        )


def _help_to_divide(plugin: FullyShardedDataParallelPlugin, model: PreTrainedModel) -> None:
    """Let accelerate divide models of speech, too: its rules are those of language models."""
    if plugin.transformer_cls_names_to_wrap is None:  # else `_no_split_modules`, which names parts that are not there
        plugin.transformer_cls_names_to_wrap = sorted(repeated_layers(model))
    try:
        model.get_input_embeddings()
    except NotImplementedError:  # as in a CTC model, which reads no tokens
        model.get_input_embeddings = lambda: None
    for part in model.modules():
        if "EncoderStableLayerNorm" in type(part).__name__:
            # By its name accelerate takes the encoder of a wav2vec2 for a norm, and gives it views of its inputs. It
            # changes them in place, which views forbid.
            part.register_forward_pre_hook(lambda part, args: (args[0].clone(), *args[1:]))


def _sum_in_float32(plugin: FullyShardedDataParallelPlugin, model: PreTrainedModel) -> None:
    """Compute in the launcher's precision but sum gradients in float32; accelerate would sum in bf16 or fp16, too."""
    plugin.mixed_precision_policy = MixedPrecisionPolicy(
        param_dtype=plugin.mixed_precision_policy.param_dtype, reduce_dtype=torch.float32
    )
    for part in model.modules():
        if isinstance(part, BATCH_NORMS):  # its statistics are float32, so its weights must stay so, too
            fully_shard(part, mp_policy=MixedPrecisionPolicy(cast_forward_inputs=False))


def _indivisible(model: PreTrainedModel) -> str | None:
    """Name of a weight that FSDP2 refuses, if any: without an axis, or the last layer's bias, used elsewhere too."""
    bias = getattr(model.get_output_embeddings(), "bias", None)
    biases = [name for name, weight in model.named_parameters(remove_duplicate=False) if weight is bias]
    scalars = [name for name, weight in model.named_parameters() if not weight.dim()]
    return next(iter(scalars + biases[1:]), None)


def repeated_layers(part: torch.nn.Module) -> set[str]:
    """Names of the classes of the layers that a model repeats: of those in its outermost lists of modules."""
    names = set()
    for child in part.children():
        in_list = isinstance(part, torch.nn.ModuleList) and not isinstance(
            child, torch.nn.ModuleList | torch.nn.Linear
        )
        if in_list and any(isinstance(inner, torch.nn.Linear) for inner in child.modules()):
            names.add(type(child).__name__)
        else:
            names |= repeated_layers(child)
    return names


def refuse_sharding(accelerator: Accelerator, flag: str) -> None:
    """Raise UserError if FSDP shards parameters, for a flag that needs whole ones."""
    if accelerator.distributed_type == DistributedType.FSDP:
        raise UserError(
            f"{flag} is not supported with weights spread over processes; leave it out, or train with "
            "accelerate_configs/multi_gpu.yaml"
        )


def whole_model(model: PreTrainedModel) -> PreTrainedModel:
    """A model with all its parameters on this process.

    If FSDP shards the model, every process must call this, and the result is a copy; else it is the model itself.
    """
    if not isinstance(model, FSDPModule):
        return model
    weights = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True))
    with torch.device("meta"):  # needs no memory, and does not change the random state
        whole = type(model)(model.config)
    whole.load_state_dict(weights, assign=True)
    for name, buffer in model.named_buffers():  # which are never divided; some are in no state dict
        part, _, own_name = name.rpartition(".")
        setattr(whole.get_submodule(part), own_name, buffer)
    whole.tie_weights()
    for parameter, sharded in zip(whole.parameters(), model.parameters(), strict=True):
        parameter.requires_grad_(sharded.requires_grad)
    if hasattr(model, "generation_config"):  # a CTC model has none
        whole.generation_config = model.generation_config
    whole.name_or_path = model.name_or_path
    if isinstance(model, DynamicContextGenerationMixin):
        whole.set_audio_context(model.audio_context, model.min_audio_context)
    return whole
