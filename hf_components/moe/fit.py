"""Memory of the trainings of a mixture, for `predict_peak`."""

from collections.abc import Callable

import torch
from transformers import WhisperConfig

from hf_components.asr import family_of
from hf_components.moe.experts import ExpertArguments, build_experts
from hf_components.training import Batch, new_model
from hf_components.whisper import MoeWhisperForConditionalGeneration


def mixture(
    config: WhisperConfig,
    args: ExpertArguments,
    *,
    experts: int,
    router_layer: int | None = None,
    freeze_shared: bool = False,
    train_router: bool = False,
    **fields,
) -> Callable[[], MoeWhisperForConditionalGeneration]:
    """Function that returns a new mixture whose experts are trained, and its router if `train_router`.

    Args:
        router_layer: the experts are above it; default: the middle one.
        fields: further fields of its configuration.
    """

    def build() -> MoeWhisperForConditionalGeneration:
        base = new_model(config)
        model = build_experts(base, args, experts, router_layer or max(1, config.encoder_layers // 2))
        model.set_fields(**fields)
        model.tie_weights()
        model.train_only(experts=True, router=train_router)
        for layer in model.routed_layers().values():
            layer.shared_is_frozen = freeze_shared and model.config.shared_expert
        return model

    return build


def loss_of_labels(model: MoeWhisperForConditionalGeneration, batch: Batch) -> torch.Tensor:
    """The loss where labels of clusters choose the experts, as soft weights over all of them."""
    weights = torch.ones(len(batch["labels"]), model.config.num_experts)
    return family_of(model).score(model, {**batch, "expert_weights": weights}).loss


def loss_of_routing(model: MoeWhisperForConditionalGeneration, batch: Batch) -> torch.Tensor:
    """The loss of soft routing, the part of joint training that takes most memory: every expert is asked first."""
    alignment, trunk_states = model.expert_losses(batch["input_features"], batch["labels"], batch["attention_mask"])
    scores = family_of(model).score(model, {**batch, "trunk_states": trunk_states})
    return scores.loss + (alignment * scores.outputs.gates).sum()
