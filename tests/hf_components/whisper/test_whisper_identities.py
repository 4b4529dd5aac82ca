"""What MoE-Whisper must equal: plain Whisper, PEFT, merged weights."""

import pytest
import torch
from peft import PeftModel
from tiny_whisper import EXPERTS, WINDOW, extract, noise, one_hot, speech, tiny_base, tiny_moe, tokens

from hf_components.whisper import MoeWhisperForConditionalGeneration
from hf_components.whisper.router import UtteranceRouter

pytestmark = pytest.mark.unit

SHARED = pytest.mark.parametrize("shared_expert", [False, True])
FEATURES = {
    "random": lambda: noise(3, WINDOW),
    "padded": lambda: extract([speech(s, i) for i, s in enumerate((0.3, 0.9, 1.7))])["input_features"],
}


@pytest.mark.parametrize("routing", ["hard", "top_k", "soft"])
@pytest.mark.parametrize("mixture", ["weights", "logits"])
@pytest.mark.parametrize("kind", FEATURES)
def test_fresh_experts_compute_plain_whisper(kind, mixture, routing):
    base = tiny_base()
    model = tiny_moe(base, trained=False, mixture=mixture, routing=routing)
    features, labels = FEATURES[kind](), tokens(3, 6)
    with torch.no_grad():
        plain, ours = base(features, labels=labels), model(features, labels=labels)
    reference = plain.logits if mixture == "weights" else plain.logits.log_softmax(-1)
    if mixture == "logits" and routing == "hard":
        reference = plain.logits  # one expert: nothing to mix
    torch.testing.assert_close(ours.logits, reference, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours.loss, plain.loss)


def test_fresh_experts_compute_plain_whisper_on_30_s():
    base = tiny_base(window=3000)
    model = tiny_moe(base, trained=False)
    for features in (noise(1, 3000), extract([speech(3)], window=3000)["input_features"]):
        with torch.no_grad():
            torch.testing.assert_close(
                model(features, labels=tokens(1, 6)).logits,
                base(features, labels=tokens(1, 6)).logits,
                atol=1e-5,
                rtol=1e-5,
            )
        assert torch.equal(model.generate(features, max_new_tokens=8), base.generate(features, max_new_tokens=8))


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}], ids=["greedy", "beams"])
@pytest.mark.parametrize("kind", FEATURES)
def test_fresh_experts_generate_as_plain_whisper(kind, options):
    base = tiny_base()
    features = FEATURES[kind]()
    plain = base.generate(features, max_new_tokens=10, **options)
    for config in ({}, {"mixture": "logits", "routing": "top_k"}):
        assert torch.equal(
            tiny_moe(base, trained=False, **config).generate(features, max_new_tokens=10, **options), plain
        )
    assert len({tuple(row) for row in plain.tolist()}) > 1  # the tiny model hears its input


@SHARED
def test_one_expert_equals_its_peft_adapter(tmp_path, shared_expert):
    model = tiny_moe(shared_expert=shared_expert)
    folders = model.save_experts(tmp_path)
    features, labels = noise(2, WINDOW), tokens(2, 5)
    assert [folder.name for folder in folders] == [f"expert_{i}" for i in range(EXPERTS)]
    for expert, folder in enumerate(folders):
        peft = PeftModel.from_pretrained(tiny_base(), folder).eval()
        with torch.no_grad():
            ours = model(features, labels=labels, expert_weights=one_hot(expert, 2)).logits
            theirs = peft(input_features=features, labels=labels).logits
            bare = tiny_base()(features, labels=labels).logits
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
        assert (ours - bare).abs().max() > 0.1


@SHARED
def test_merged_expert_equals_one_hot(shared_expert):
    model = tiny_moe(shared_expert=shared_expert)
    features, labels = noise(2, WINDOW), tokens(2, 5)
    for expert in range(EXPERTS):
        merged = model.merge_expert(expert)
        with torch.no_grad():
            torch.testing.assert_close(
                merged(features, labels=labels).logits,
                model(features, labels=labels, expert_weights=one_hot(expert, 2)).logits,
                atol=1e-4,
                rtol=1e-4,
            )
    assert (
        type(merged).__name__ == "WhisperForConditionalGeneration" and type(merged.config).__name__ == "WhisperConfig"
    )
    assert not any("expert" in key or "lora" in key or "rout" in key for key in merged.config.to_dict())
    with pytest.raises(ValueError, match=r"`expert` must lie in \[0, 3\], got 4"):
        model.merge_expert(4)


@SHARED
def test_experts_and_router_come_back(tmp_path, shared_expert):
    model = tiny_moe(shared_expert=shared_expert, router_layer=2)
    model.save_experts(tmp_path / "experts")
    model.model.encoder.router.save(tmp_path / "router", router_layer=2)
    again = MoeWhisperForConditionalGeneration.from_experts(tiny_base(), tmp_path / "experts", tmp_path / "router")
    features, labels = noise(2, WINDOW), tokens(2, 5)
    with torch.no_grad():
        for expert in range(EXPERTS):
            ours, theirs = (m(features, labels=labels, expert_weights=one_hot(expert, 2)) for m in (again, model))
            torch.testing.assert_close(ours.logits, theirs.logits, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(again.route(features), model.route(features))
    assert not again.training


def test_row_of_weights_equals_weighted_delta():
    """A soft row is a merge: the plain model with the weighted sum of the experts' deltas in its weights."""
    model, weights = tiny_moe(), torch.tensor([[0.5, 0.0, 1.5, 0.25]])
    merged = tiny_base()
    for name, layer in model.routed_layers().items():
        merged.get_submodule(name).weight.data += layer.delta(weights[0].tolist()).detach()
    with torch.no_grad():
        torch.testing.assert_close(
            model(noise(1, WINDOW), labels=tokens(1, 5), expert_weights=weights).logits,
            merged(noise(1, WINDOW), labels=tokens(1, 5)).logits,
            atol=1e-4,
            rtol=1e-4,
        )


def test_router_object_and_wrong_number_of_experts(tmp_path):
    model = tiny_moe()
    model.save_experts(tmp_path)
    with pytest.raises(ValueError, match="`router` must score 4 experts, got 3"):
        MoeWhisperForConditionalGeneration.from_experts(tiny_base(), tmp_path, UtteranceRouter(16, 8, 3))
    with pytest.raises(ValueError, match="at least one PEFT adapter"):
        MoeWhisperForConditionalGeneration.from_experts(tiny_base(), tmp_path / "empty")
