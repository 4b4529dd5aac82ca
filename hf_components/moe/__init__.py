"""MoE-Whisper: clusters of utterances, a router, LoRA experts, their joint training and their benchmark.

The model itself lies in `hf_components.whisper`, which the Hub copies to users.
"""

from hf_components.moe.arguments import RIVAL, MoePipelineArguments, at_most
from hf_components.moe.curriculum import RoutingArguments, routing_losses
from hf_components.moe.distillation import DistillationArguments, DistillationTrainer
from hf_components.moe.embedding import (
    FULL_CONTEXT,
    TIME_BINS,
    WHISPER_MODELS,
    Pooling,
    embed_batch,
    join_shards,
    plan_shards,
    write_shards,
)
from hf_components.moe.experts import (
    ExpertArguments,
    build_experts,
    freeze_shared_expert,
    load_router,
    load_trained_experts,
    save_trained_experts,
    start_from_lora,
)
from hf_components.moe.labels import load_labels
from hf_components.moe.merging import judge_plain, merge_experts
from hf_components.moe.release import release_model
from hf_components.moe.router import RouterArguments, best_epoch, choose_held_out, judge_router, train_router
from hf_components.moe.trainer import MoeTrainer

__all__ = [
    "DistillationArguments",
    "DistillationTrainer",
    "ExpertArguments",
    "FULL_CONTEXT",
    "MoePipelineArguments",
    "MoeTrainer",
    "Pooling",
    "RIVAL",
    "RouterArguments",
    "RoutingArguments",
    "TIME_BINS",
    "WHISPER_MODELS",
    "at_most",
    "best_epoch",
    "build_experts",
    "choose_held_out",
    "embed_batch",
    "freeze_shared_expert",
    "join_shards",
    "judge_plain",
    "judge_router",
    "load_labels",
    "load_router",
    "load_trained_experts",
    "merge_experts",
    "plan_shards",
    "release_model",
    "routing_losses",
    "save_trained_experts",
    "start_from_lora",
    "train_router",
    "write_shards",
]
