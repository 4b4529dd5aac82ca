"""Training with parameters sharded over processes (FSDP2): check the launcher's settings, gather the whole model."""

import torch
from accelerate import Accelerator, DistributedType
from peft.tuners.tuners_utils import BaseTunerLayer
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy
from transformers import PreTrainedModel

from hf_components.runtime import UserError
from hf_components.whisper.dynamic_generation import DynamicContextGenerationMixin


def prepare_sharding(accelerator: Accelerator, model: PreTrainedModel) -> None:
    """Make FSDP return losses and sum gradients in float32, as unsharded training does; accelerate uses bf16 or fp16.

    Raises:
        UserError: the launcher shards in a way that `whole_model` does not support.
    """
    if accelerator.distributed_type == DistributedType.FSDP:
        if any(isinstance(module, BaseTunerLayer) for module in model.modules()):
            raise UserError(
                "sharded training does not support a LoRA, whose frozen base takes little memory; train it with "
                "accelerate_configs/multi_gpu.yaml"
            )
        plugin = accelerator.state.fsdp_plugin
        for name, given, right in (
            ("fsdp_version", plugin.fsdp_version, 2),
            ("fsdp_state_dict_type", plugin.state_dict_type.name, "FULL_STATE_DICT"),
            ("fsdp_cpu_ram_efficient_loading", plugin.cpu_ram_efficient_loading, False),
        ):
            if given != right:
                raise UserError(f"{name} must be {right}, got {given}; see accelerate_configs/fsdp.yaml")
        if plugin.mixed_precision_policy is not None:
            plugin.mixed_precision_policy = MixedPrecisionPolicy(
                param_dtype=plugin.mixed_precision_policy.param_dtype, reduce_dtype=torch.float32
            )
    if (
        accelerator.distributed_type == DistributedType.DEEPSPEED
        and accelerator.state.deepspeed_plugin.zero_stage == 3
    ):
        raise UserError(
            "zero_stage must be at most 2, got 3; a model that does not fit into one GPU trains with "
            "accelerate_configs/fsdp.yaml"
        )


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
    whole.tie_weights()
    for parameter, sharded in zip(whole.parameters(), model.parameters(), strict=True):
        parameter.requires_grad_(sharded.requires_grad)
    whole.generation_config = model.generation_config
    whole.name_or_path = model.name_or_path
    if isinstance(model, DynamicContextGenerationMixin):
        whole.set_audio_context(model.audio_context, model.min_audio_context)
    return whole
