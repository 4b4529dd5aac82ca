"""`generate` with and without `expert_weights`: batches, sampling, long audio, timestamps, temperature fallback."""

import pytest
import torch
from tiny_whisper import (
    EXPERTS,
    NO_TIMESTAMPS,
    WINDOW,
    FramesHeard,
    extract,
    noise,
    one_hot,
    speech,
    tiny_base,
    tiny_moe,
)
from transformers import GenerationConfig

pytestmark = pytest.mark.unit
MIXTURES = pytest.mark.parametrize("mixture", ["weights", "logits"])
TIMESTAMPS = {"return_timestamps": True, "suppress_tokens": [91, 92, 93, 94], "max_new_tokens": 12}
WEIGHTS = torch.tensor([[1.0, 0, 0, 0], [0, 0, 0.3, 0.7], [0.5, 0.5, 0, 0]])


def rows(result) -> list[list[int]]:
    """Token ids per row without padding."""
    sequences = result["sequences"] if isinstance(result, dict) else result
    return [[token for token in row if token != 90] for row in sequences.tolist()]


@MIXTURES
@pytest.mark.parametrize("options", [{}, {"num_beams": 3}], ids=["greedy", "beams"])
def test_batch_equals_single_runs(mixture, options):
    model, features = tiny_moe(mixture=mixture, routing="soft"), noise(3, WINDOW)
    for weights in (None, WEIGHTS):
        batch = model.generate(features, expert_weights=weights, max_new_tokens=8, **options)
        single = [
            model.generate(
                features[i : i + 1],
                expert_weights=None if weights is None else weights[i : i + 1],
                max_new_tokens=8,
                **options,
            )
            for i in range(3)
        ]
        assert rows(batch) == [rows(one)[0] for one in single]


@MIXTURES
def test_given_weights_are_used_as_given(mixture):
    features, ids = noise(3, WINDOW), torch.full((3, 3), 91)
    given = torch.tensor([[0.2, 0.1, 0, 0], [2, 0, 1, 0], [0.25, 0.25, 0.25, 0.25]])
    model = tiny_moe(mixture=mixture, routing="top_k", experts_per_utterance=1)
    with torch.no_grad():
        output = model(features, decoder_input_ids=ids, expert_weights=given)
    torch.testing.assert_close(output.expert_weights, given)  # neither renormalised nor cut to the best
    if mixture == "logits":
        torch.testing.assert_close(output.logits.exp().sum(-1), given.sum(1, keepdim=True).expand(-1, 3))
    assert model.generate(features, expert_weights=given, max_new_tokens=3).shape == (3, 3)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (torch.ones(2, EXPERTS), r"shape \(batch, experts\) = \(3, 4\), got \(2, 4\)"),
        (torch.ones(3, EXPERTS + 1), r"= \(3, 4\), got \(3, 5\)"),
        (torch.ones(EXPERTS), r"= \(3, 4\), got \(4,\)"),
        (torch.tensor([[-0.1, 1, 0, 0]]).expand(3, -1), "finite and not negative"),
        (torch.tensor([[float("nan"), 1, 0, 0]]).expand(3, -1), "finite and not negative"),
        (torch.tensor([[float("inf"), 1, 0, 0]]).expand(3, -1), "finite and not negative"),
    ],
    ids=["rows", "experts", "flat", "negative", "nan", "inf"],
)
def test_wrong_weights(weights, message):
    model, features = tiny_moe(), noise(3, WINDOW)
    with pytest.raises(ValueError, match=message):
        model(features, decoder_input_ids=torch.full((3, 1), 91), expert_weights=weights)
    with pytest.raises(ValueError, match=message):
        model.generate(features, expert_weights=weights)


def test_no_expert_at_all():
    """Weights of zero are the bare base when LoRA is merged; there is nothing to mix when probabilities are."""
    features, zeros = noise(2, WINDOW), torch.zeros(2, EXPERTS)
    assert torch.equal(
        tiny_moe().generate(features, expert_weights=zeros, max_new_tokens=6),
        tiny_base().generate(features, max_new_tokens=6),
    )
    with pytest.raises(ValueError, match="at least one positive weight"):
        tiny_moe(mixture="logits").generate(features, expert_weights=zeros)


def test_one_row_of_weights_counts_for_the_batch():
    model, features = tiny_moe(), noise(3, WINDOW)
    assert torch.equal(
        model.generate(features, expert_weights=WEIGHTS[1:2], max_new_tokens=6),
        model.generate(features, expert_weights=WEIGHTS[1:2].expand(3, -1), max_new_tokens=6),
    )


@MIXTURES
@pytest.mark.parametrize("as_config", [False, True])
def test_samples_keep_their_experts(mixture, as_config):
    """Samples of each row come from that row's expert: nearly cold, they are its greedy output."""
    model, features = tiny_moe(mixture=mixture), noise(2, WINDOW)
    weights = torch.cat([one_hot(3), one_hot(1)])
    options = {"num_return_sequences": 3, "do_sample": True}
    if as_config:
        options = {"generation_config": GenerationConfig(**{**model.generation_config.to_dict(), **options})}
    cold = model.generate(features, expert_weights=weights, max_new_tokens=6, temperature=1e-3, **options)
    greedy = [model.merge_expert(e).generate(features[i : i + 1], max_new_tokens=6) for i, e in enumerate((3, 1))]
    assert torch.equal(cold, torch.cat(greedy).repeat_interleave(3, 0))
    torch.manual_seed(0)
    warm = model.generate(features, expert_weights=weights, max_new_tokens=6, temperature=1.0, **options)
    torch.manual_seed(0)
    again = model.generate(features, expert_weights=weights, max_new_tokens=6, temperature=1.0, **options)
    assert torch.equal(warm, again) and len({tuple(row) for row in warm.tolist()}) > 2


@MIXTURES
@pytest.mark.parametrize("weights", [None, WEIGHTS[:2]], ids=["routed", "given"])
def test_long_audio_in_a_batch(mixture, weights):
    model = tiny_moe(mixture=mixture, routing="top_k")
    batch = extract([speech(5.3, 0), speech(2.9, 1)], padding="longest", truncation=False)
    recorded = FramesHeard(model)
    result = model.generate(**batch, expert_weights=weights, return_segments=True, **TIMESTAMPS)
    assert len(recorded.frames) >= 3 and set(recorded.frames) == {WINDOW}
    assert len(result["segments"]) == 2 and result["segments"][0][-1]["end"] > 2
    assert result["sequences"].shape[0] == 2 and (result["sequences"] > NO_TIMESTAMPS).any()
    for row in range(2):
        features = batch["input_features"][row : row + 1, :, : int(batch["attention_mask"][row].sum())]
        alone = model.generate(
            features, expert_weights=None if weights is None else weights[row : row + 1], **TIMESTAMPS
        )
        assert rows(alone)[0] == rows(result)[row]


@MIXTURES
@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["routed", "given"])
def test_timestamps_in_a_batch_with_mask(mixture, weights):
    """Windows start later and rows leave the batch: neither mask nor weights may be taken for the wrong rows."""
    model = tiny_moe(mixture=mixture, routing="soft")
    batch = extract([speech(1.8, 0), speech(0.4, 1), speech(1.1, 2)])
    together = model.generate(**batch, expert_weights=weights, **TIMESTAMPS)
    for row in range(3):
        alone = model.generate(
            batch["input_features"][row : row + 1],
            **TIMESTAMPS,
            expert_weights=None if weights is None else weights[row : row + 1],
        )
        assert rows(alone)[0] == rows(together)[row]


@MIXTURES
@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["routed", "given"])
@pytest.mark.parametrize("num_return_sequences", [1, 2])
def test_temperature_fallback(mixture, weights, num_return_sequences):
    model = tiny_moe(mixture=mixture, routing="soft")
    batch = extract([speech(1.8, 0), speech(0.4, 1), speech(1.1, 2)])
    options = {
        "temperature": (0.0, 0.8, 1.0),
        "logprob_threshold": 0.0,
        "compression_ratio_threshold": 0.01,
        "num_return_sequences": num_return_sequences,
        "do_sample": num_return_sequences > 1,
        "max_new_tokens": 6,
    }  # nothing passes: every row falls back
    torch.manual_seed(0)
    result = model.generate(**batch, expert_weights=weights, **options)
    sequences = result["sequences"] if isinstance(result, dict) else result
    assert sequences.shape[0] == 3 * num_return_sequences
    if weights is not None and num_return_sequences == 1:
        torch.manual_seed(0)
        single = [
            model.generate(batch["input_features"][i : i + 1], expert_weights=weights[i : i + 1], **options)
            for i in range(3)
        ]
        assert rows(result) == [rows(one)[0] for one in single]


def test_only_some_rows_fall_back():
    """The mask has the batch's rows, the second try fewer."""
    model = tiny_moe(routing="soft")
    batch = extract([speech(1.8, 0), speech(0.4, 1), speech(1.1, 2)])
    scores = model.generate(
        batch["input_features"], max_new_tokens=6, return_dict_in_generate=True, output_scores=True
    )
    chosen = torch.stack(scores.scores, 1).log_softmax(-1).amax(-1).mean(-1).sort().values
    threshold = float((chosen[0] + chosen[1]) / 2)
    tries = FramesHeard(model)
    torch.manual_seed(0)
    model.generate(**batch, temperature=(0.0, 0.5), logprob_threshold=threshold, max_new_tokens=6)
    assert len(tries.frames) == 2


def test_no_speech_detection():
    model = tiny_moe(routing="soft", mixture="logits")
    features = extract([speech(5, 0)], truncation=False)["input_features"]
    for weights in (None, one_hot(2)):
        result = model.generate(
            features,
            expert_weights=weights,
            temperature=(0.0,),
            no_speech_threshold=0.99,
            logprob_threshold=-50.0,
            **TIMESTAMPS,
        )
        assert result.shape[0] == 1


def test_weights_need_features():
    model = tiny_moe()
    encoded = model.get_encoder()(noise(1, WINDOW))
    with pytest.raises(ValueError, match="`expert_weights` need `input_features`"):
        model.generate(encoder_outputs=encoded, expert_weights=one_hot(0))
    assert torch.equal(
        model.generate(encoder_outputs=encoded, max_new_tokens=5), model.generate(noise(1, WINDOW), max_new_tokens=5)
    )
    with pytest.raises(ValueError, match="must come from this model's own encoder"):
        model(encoder_outputs=(encoded.last_hidden_state,), decoder_input_ids=torch.full((1, 1), 91))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@MIXTURES
def test_half_precision(dtype, mixture):
    model = tiny_moe(mixture=mixture, routing="soft", shared_expert=True).to(dtype)
    features = extract([speech(1.8, 0), speech(0.4, 1)])["input_features"].to(dtype)
    with torch.no_grad():
        output = model(features, labels=torch.tensor([[3, 4], [5, 6]]))
    assert output.logits.shape == (2, 2, model.config.vocab_size) and output.logits.isfinite().all()
    assert output.gates.dtype == torch.float32 and output.loss.isfinite()
    for beams in (1, 2):
        assert model.generate(features, max_new_tokens=4, num_beams=beams, expert_weights=WEIGHTS[:2]).shape == (2, 4)
    reference = tiny_moe(routing="soft", shared_expert=True).route(features.float())
    torch.testing.assert_close(output.gates, reference, atol=0.05, rtol=0)


def test_autocast():
    model, features = tiny_moe(routing="soft"), noise(2, WINDOW)
    with torch.autocast("cpu", torch.bfloat16):
        loss = model.train()(features, labels=torch.tensor([[3, 4], [5, 6]])).loss
    loss.backward()
    layer = next(iter(model.routed_layers().values()))
    assert loss.isfinite() and layer.lora_a.grad.dtype == torch.float32 and layer.lora_a.grad.isfinite().all()


@pytest.mark.parametrize("beams", [1, 3])
def test_rows_with_given_experts_never_leave_the_batch_for_a_timestamp(beams):
    """Untrained weights write timestamps without being asked, where a row of Whisper's batch would start anew."""
    model = tiny_moe()
    model.generation_config.suppress_tokens = None
    model.set_audio_context("dynamic", 20)
    features = noise(10, WINDOW, seed=0)
    given = torch.eye(EXPERTS)[torch.arange(10) % EXPERTS]
    written = model.generate(features, max_new_tokens=8, num_beams=beams, expert_weights=given)
    assert len(written) == 10 and not (written > NO_TIMESTAMPS).any()
    alone = model.generate(features[3:5], max_new_tokens=8, num_beams=beams, expert_weights=given[3:5])
    assert alone.tolist() == written[3:5, : alone.shape[1]].tolist()
