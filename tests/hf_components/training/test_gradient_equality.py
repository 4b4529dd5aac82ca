"""One optimizer step on eight utterances has one gradient, however the eight are split."""

import pytest
import torch
from tiny_speech import gradient_of_one_step, rows, tiny_moe, tiny_processor, tiny_whisper

from hf_components.asr.families import family_of
from hf_components.training.curriculum import routing_losses
from hf_components.training.data import Draw, SpeechCollator, SpeechDataset
from hf_components.whisper.audio_context import fit_audio_context

pytestmark = pytest.mark.unit
SYSTEMS = [(None, "weights"), *((r, mixture) for r in ("soft", "top_k", "hard") for mixture in ("weights", "logits"))]


def whole_batch() -> dict[str, torch.Tensor]:
    family, processor = family_of(tiny_whisper()), tiny_processor()
    dataset = SpeechDataset(rows(8, seconds=0.6), family, processor)
    return SpeechCollator(family, processor)([dataset[Draw(i, 0, False)] for i in range(8)])


def by_hand(routing: str | None, mixture: str) -> dict[str, torch.Tensor]:
    """The gradient of the whole batch in one piece, from the loss written out."""
    batch = whole_batch()
    tokens = (batch["labels"] != -100).sum(-1)
    if routing is None:
        model = tiny_whisper().train()
        logits = model(**batch).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten(), ignore_index=-100)
    else:
        model = tiny_moe(mixture=mixture, experts_per_utterance=2, routing=routing, router_temperature=2.0,
                         min_expert_usage_fraction=0.02 if routing == "soft" else 0.0)
        model.train_only(experts=True, router=True)
        per_expert, _ = model.expert_losses(batch["input_features"], batch["labels"], batch["attention_mask"])
        output = model.train()(**batch)
        terms = routing_losses(output.gates, torch.tensor([0.5, 0.3, 0.2]), per_expert if routing == "soft" else None, 0.1)
        added = 0.5 * terms["load_balance"] - 0.5 * terms["entropy"] + 0.5 * terms.get("alignment", 0)
        kl = kl_from_base(batch, output.logits)
        loss = output.loss + (added * tokens).sum() / tokens.sum() + 0.5 * kl.sum() / tokens.sum()
    loss.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


def kl_from_base(batch: dict[str, torch.Tensor], logits: torch.Tensor) -> torch.Tensor:
    """KL(base || model) of each token, the base hearing 30 s."""
    model = tiny_whisper().eval()
    features = fit_audio_context(batch["input_features"], 2 * model.config.max_source_positions)
    with torch.no_grad():
        base = model(features, labels=batch["labels"]).logits.softmax(-1)
    return (base * (base.log() - logits.log_softmax(-1))).sum(-1)[batch["labels"] != -100]


def assert_equal(actual: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert actual.keys() == expected.keys()
    scale = max(float(gradient.abs().max()) for gradient in expected.values())
    assert scale > 1e-3
    for name, gradient in expected.items():
        torch.testing.assert_close(actual[name], gradient, atol=2e-5 * scale, rtol=1e-3, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize(("routing", "mixture"), SYSTEMS)
def test_every_split_gives_the_gradient_of_the_whole(tmp_path, routing, mixture):
    expected = by_hand(routing, mixture)
    for batch_size, accumulation in ((8, 1), (4, 2), (2, 4)):
        assert_equal(gradient_of_one_step(tmp_path, batch_size, accumulation, routing=routing, mixture=mixture), expected)
