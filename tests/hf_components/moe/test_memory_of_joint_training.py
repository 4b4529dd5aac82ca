"""Soft routing asks every expert for its loss, but not for the whole vocabulary of all at once."""

import pytest
from tiny_whisper import tiny_base

from hf_components.moe import ExpertArguments, loss_of_routing, mixture
from hf_components.training import TrainingStep, predict_peak

pytestmark = pytest.mark.unit


def test_losses_of_all_experts_do_not_hold_all_vocabularies():
    config = tiny_base(vocab_size=4000).config
    step = TrainingStep(batch_size=4, seconds=1, tokens=50)
    vocabularies = 4 * step.batch_size * step.tokens * config.vocab_size  # bytes of the logits of one expert

    def peak(experts: int) -> int:
        build = mixture(config, ExpertArguments(lora_rank=2), experts=experts, train_router=True, routing="soft")
        return predict_peak(build, step, loss_of_routing)

    assert peak(10) - peak(2) < 2 * vocabularies
