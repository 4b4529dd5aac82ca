"""One optimizer step has one gradient, and a training one result, however its utterances are split."""

import pytest
import torch
from tiny_speech import gradient_of_one_step, rows, tiny_moe, tiny_processor, tiny_whisper, training_arguments

from hf_components.asr.families import family_of
from hf_components.moe.curriculum import routing_losses
from hf_components.training.data import Draw, SpeechCollator, SpeechDataset
from hf_components.training.trainer import SpeechTrainer
from hf_components.whisper.mel_frames import fit_audio_context

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
        model = tiny_moe(
            mixture=mixture,
            experts_per_utterance=2,
            routing=routing,
            router_temperature=2.0,
            min_expert_usage_fraction=0.02 if routing == "soft" else 0.0,
        )
        model.train_only(experts=True, router=True)
        per_expert, _ = model.expert_losses(batch["input_features"], batch["labels"], batch["attention_mask"])
        output = model.train()(**batch)
        terms = routing_losses(
            output.gates, torch.tensor([0.5, 0.3, 0.2]), per_expert if routing == "soft" else None, 0.1
        )
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
        torch.testing.assert_close(
            actual[name], gradient, atol=2e-5 * scale, rtol=1e-3, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize(("routing", "mixture"), SYSTEMS)
def test_every_split_gives_the_gradient_of_the_whole(tmp_path, routing, mixture):
    expected = by_hand(routing, mixture)
    for batch_size, accumulation in ((8, 1), (4, 2), (2, 4)):
        assert_equal(
            gradient_of_one_step(tmp_path, batch_size, accumulation, routing=routing, mixture=mixture), expected
        )


def test_a_training_learns_the_same_however_its_steps_are_split(tmp_path):
    """At 30 s, where padding does not depend on the neighbours; 19 utterances leave the last step of an epoch
    incomplete."""
    trained = []
    for batch_size, accumulation in ((4, 1), (2, 2), (1, 4)):
        args = training_arguments(
            tmp_path,
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=accumulation,
            full_context_fraction=1.0,
            num_train_epochs=2,
            learning_rate=0.1,
            optim="sgd",
            time_masks=2,
        )
        trainer = SpeechTrainer(tiny_whisper(), args, tiny_processor(), rows(19))
        trainer.train()
        assert trainer.state.global_step == 10
        trained.append(dict(trainer.model.named_parameters()))
    start = dict(tiny_whisper().named_parameters())
    assert max(float((trained[0][name] - start[name]).abs().max().detach()) for name in start) > 1e-2
    for other in trained[1:]:
        for name, weights in trained[0].items():
            torch.testing.assert_close(other[name], weights, atol=1e-5, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}")
