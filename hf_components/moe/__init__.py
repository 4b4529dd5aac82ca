"""MoE-Whisper: clusters of utterances, a router, LoRA experts, their joint training and their benchmark.

The model itself is in `hf_components.whisper`, which the Hub copies to users.
"""

from hf_components.moe.arguments import (
    RIVAL,
    MoePipelineArguments,
    at_most,
    other_embeddings,
    require_speaker_splits,
    systems_of,
)
from hf_components.moe.curriculum import RoutingArguments, routing_losses
from hf_components.moe.distillation import DistillationArguments, DistillationTrainer
from hf_components.moe.embedding import (
    FULL_CONTEXT,
    TIME_BINS,
    WHISPER_MODELS,
    embed_batch,
    join_shards,
    plan_shards,
    write_shards,
    write_vectors,
)
from hf_components.moe.experts import (
    ExpertArguments,
    build_experts,
    freeze_shared_expert,
    load_mixture,
    load_router,
    load_trained_experts,
    save_trained_experts,
    start_from_lora,
)
from hf_components.moe.exporting import ExportArguments, check_export, load_to_export
from hf_components.moe.fit import loss_of_labels, loss_of_routing, mixture
from hf_components.moe.gradients import LoraGradients
from hf_components.moe.labels import load_labels
from hf_components.moe.losses import ExpertLosses, require_transcripts
from hf_components.moe.merging import equal_weights, merge_experts, score_plain, soup_of_experts
from hf_components.moe.release import release_model
from hf_components.moe.results import results_of
from hf_components.moe.router import RouterArguments, best_epoch, choose_held_out, evaluate_router, train_router
from hf_components.moe.shipping import CANDIDATES
from hf_components.moe.trainer import MoeTrainer
