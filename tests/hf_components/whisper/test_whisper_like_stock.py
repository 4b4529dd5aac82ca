"""What stock Whisper can do, and ours can too: parameters, outputs, caches, assistants, compiled encoders."""

import copy
import inspect

import pytest
import torch
from tiny_whisper import NO_TIMESTAMPS, WINDOW, extract, noise, one_hot, speech, tiny_base, tiny_moe, tokens
from transformers import AutoModel, WhisperForConditionalGeneration, WhisperModel
from transformers.modeling_outputs import BaseModelOutput

from hf_components.whisper import DynamicContextWhisper, MoeWhisperConfig, MoeWhisperForConditionalGeneration

pytestmark = pytest.mark.unit
ALIGNMENT_HEADS = [[0, 0], [1, 1]]
FREE = {"max_new_tokens": 8, "min_new_tokens": 8}


def plain(context="dynamic", **config):
    base = tiny_base(**config)
    model = DynamicContextWhisper(base.config).eval()
    model.load_state_dict(base.state_dict())
    model.generation_config = base.generation_config
    model.set_audio_context(context, 2)
    return model


def mixture(context="dynamic", **config):
    model = tiny_moe(**{"routing": "top_k", "experts_per_utterance": 2, **config})
    model.set_audio_context(context, 2)
    return model


def logits_mixture(context="dynamic", **config):
    return mixture(context, mixture="logits", **config)


EVERY = pytest.mark.parametrize("make", [plain, mixture, logits_mixture])
BOTH = pytest.mark.parametrize("make", [plain, mixture])
CONTEXT = pytest.mark.parametrize("context", ["full", "dynamic"])


@BOTH
def test_parameters_are_at_stocks_places(make):
    """Also what Trainer keeps of a batch: it drops columns that `forward` does not name."""
    for ours, stock in ((make(), WhisperForConditionalGeneration), (make().model, WhisperModel)):
        expected = list(inspect.signature(stock.forward).parameters)[:-1]  # without **kwargs
        assert list(inspect.signature(type(ours).forward).parameters)[: len(expected)] == expected


@EVERY
@torch.no_grad()
def test_a_positional_mask_is_a_mask(make):
    model, ids, mask = make(), tokens(2, 4).clamp(min=0), torch.ones(2, 60)
    assert torch.equal(model(noise(2, 60), mask, ids).logits, model(noise(2, 60), decoder_input_ids=ids).logits)


@EVERY
@torch.no_grad()
def test_tuples_instead_of_dictionaries(make):
    model, inputs = make(), {"decoder_input_ids": tokens(2, 4).clamp(min=0), "labels": tokens(2, 4)}
    given = model(noise(2, 60), **inputs)
    as_tuple = model(noise(2, 60), **inputs, return_dict=False)
    assert isinstance(as_tuple, tuple) and torch.equal(as_tuple[0], given.loss) and torch.equal(as_tuple[1], given[1])
    del inputs["labels"]
    assert isinstance(model.model(noise(2, 60), **inputs, return_dict=False), tuple)
    states = model.get_encoder()(noise(2, 60), return_dict=False)
    assert isinstance(states, tuple) and torch.equal(states[0], model.get_encoder()(noise(2, 60)).last_hidden_state)


@torch.no_grad()
def test_states_as_a_tuple_keep_their_silence():
    model, ids = plain(), tokens(2, 4).clamp(min=0)
    states = model.get_encoder()(noise(2, 60), output_hidden_states=True, return_dict=False)
    assert torch.equal(
        model(encoder_outputs=states, decoder_input_ids=ids).logits, model(noise(2, 60), decoder_input_ids=ids).logits
    )


def test_states_without_routing_are_refused():
    with pytest.raises(ValueError, match="own encoder, which adds the routing, called with `return_dict=True`; got"):
        mixture()(encoder_outputs=BaseModelOutput(torch.zeros(1, 30, 16)), decoder_input_ids=tokens(1, 3))


@EVERY
@pytest.mark.parametrize("beams", [1, 2])
def test_generate_takes_states_of_the_encoder(make, beams):
    model, features = make(), noise(2, 60)
    expected = model.generate(features, num_beams=beams, **FREE)
    encoded = model.get_encoder()(features)
    # Like stock Whisper's, generating from states returns the tokens before the first one too.
    got = model.generate(encoder_outputs=encoded, num_beams=beams, **FREE)
    assert got[:, -expected.shape[1] :].tolist() == expected.tolist()


@EVERY
@torch.no_grad()
def test_all_that_is_shown_has_stocks_shape(make):
    """Of the silence, and of each active expert, nothing is shown."""
    base = tiny_base()
    base.set_attn_implementation("eager")
    stock = base(
        noise(2, WINDOW),
        decoder_input_ids=tokens(2, 4).clamp(min=0),
        output_hidden_states=True,
        output_attentions=True,
    )
    model = make()
    model.set_attn_implementation("eager")
    for frames in (60, WINDOW):
        ours = model(
            noise(2, frames),
            decoder_input_ids=tokens(2, 4).clamp(min=0),
            output_hidden_states=True,
            output_attentions=True,
        )
        for name in ("encoder_hidden_states", "encoder_attentions", "decoder_hidden_states", "cross_attentions"):
            expected = [
                [frames // 2 if size == WINDOW // 2 else size for size in layer.shape] for layer in stock[name]
            ]
            assert [list(layer.shape) for layer in ours[name]] == expected, name


@torch.no_grad()
def test_what_is_shown_of_mixed_outputs_is_the_mean_of_the_experts():
    model = logits_mixture("full")
    model.set_attn_implementation("eager")
    ids = tokens(1, 4).clamp(min=0)

    def attention(weights):
        return model(noise(1, 60), decoder_input_ids=ids, expert_weights=weights, output_attentions=True)

    mixed = attention(0.25 * one_hot(0) + 0.75 * one_hot(2)).cross_attentions[1]
    one, other = (attention(one_hot(expert)).cross_attentions[1] for expert in (0, 2))
    torch.testing.assert_close(mixed, 0.25 * one + 0.75 * other)
    assert not torch.allclose(one, other)


@EVERY
@CONTEXT
@pytest.mark.parametrize("beams", [1, 2])
def test_static_cache(make, context, beams):
    model, features = make(context), extract([speech(0.9, 1), speech(0.5, 2)]).input_features
    expected = model.generate(features, num_beams=beams, **FREE)
    assert torch.equal(model.generate(features, num_beams=beams, cache_implementation="static", **FREE), expected)


@EVERY
@pytest.mark.parametrize(
    ("context", "assistant"),
    [("full", "merged"), ("dynamic", "itself"), ("dynamic", "merged"), ("dynamic", "stock"), ("dynamic", "mixture")],
)
def test_an_assistant_changes_no_token(make, context, assistant):
    model, features = make(context), extract([speech(0.9, 1)]).input_features
    expected = model.generate(features, num_beams=1, **FREE)
    helper = {
        "itself": lambda: copy.deepcopy(model),
        "merged": lambda: model.merge_expert(0) if hasattr(model, "merge_expert") else plain(context),
        "stock": lambda: tiny_base(seed=4),
        "mixture": lambda: mixture(context, seed=7),
    }[assistant]()
    given = {"expert_weights": one_hot(1)} if hasattr(model, "routed_layers") else {}
    assert torch.equal(model.generate(features, num_beams=1, assistant_model=helper, **FREE), expected)
    routed = model.generate(features, num_beams=1, **given, **FREE)
    assert torch.equal(model.generate(features, num_beams=1, assistant_model=helper, **given, **FREE), routed)


@BOTH
def test_stock_whisper_with_ours_as_assistant(make):
    stock, features = tiny_base(seed=4), extract([speech(0.9, 1)]).input_features
    expected = stock.generate(features, num_beams=1, **FREE)
    assert torch.equal(stock.generate(features, num_beams=1, assistant_model=make(), **FREE), expected)


@pytest.mark.parametrize("beams", [1, 2])
@EVERY
@CONTEXT
def test_word_timestamps_of_a_batch_are_those_of_each_utterance(make, context, beams):
    """In a dynamic context, whose length is the batch's, this can be so only of clips of one length."""
    model = make(context)
    model.generation_config.alignment_heads = ALIGNMENT_HEADS
    seconds = (1.6, 0.9, 1.3) if context == "full" else (1.3, 1.3, 1.3)
    features = extract([speech(length, seed) for seed, length in enumerate(seconds)]).input_features

    def stamps(features):
        return model.generate(features, num_beams=beams, return_token_timestamps=True, **FREE)["token_timestamps"]

    together = stamps(features)
    for row, length in enumerate(seconds):
        alone = stamps(features[row : row + 1])[0]
        torch.testing.assert_close(together[row, : len(alone)], alone)
        assert alone.max() > 0 and (context == "full" or alone.max() <= length)


@EVERY
@pytest.mark.parametrize("beams", [1, 2])
@pytest.mark.parametrize("masked", [False, True])
def test_no_timestamp_lies_after_the_audio(make, beams, masked):
    model, seconds = make(), (0.515, 1.27, 0.3)
    batch = extract([speech(length, seed) for seed, length in enumerate(seconds)])
    options = {"return_timestamps": True, "suppress_tokens": [91, 92, 93, 94], "max_new_tokens": 24}
    if masked:
        options["attention_mask"] = batch.attention_mask
    result = model.generate(batch.input_features, num_beams=beams, return_segments=True, **options)
    for sequence, segments, length in zip(result["sequences"], result["segments"], seconds, strict=True):
        stamps = sequence[sequence > NO_TIMESTAMPS] - NO_TIMESTAMPS - 1
        assert len(stamps) and 0.02 * stamps.max() <= length + 1e-6
        assert all(segment["end"] <= length + 1e-6 for segment in segments)


def test_timestamps_of_a_full_context_are_stocks():
    base, features = tiny_base(), extract([speech(0.5, 1), speech(1.2, 2)]).input_features
    options = {"return_timestamps": True, "suppress_tokens": [91, 92, 93, 94], "force_unique_generate_call": True}
    assert torch.equal(plain("full").generate(features, **options), base.generate(features, **options))


@BOTH
def test_positions_are_sinusoids_that_do_not_train(make):
    stock = WhisperForConditionalGeneration(tiny_base().config).model.encoder.embed_positions.weight
    config = make().config
    new = type(make())(config).model.encoder.embed_positions.weight
    assert torch.equal(new, stock) and not new.requires_grad


@pytest.mark.parametrize("kind", [DynamicContextWhisper, MoeWhisperForConditionalGeneration])
def test_checkpointing_by_configuration(kind):
    fields = tiny_base().config.to_dict()
    config = (MoeWhisperConfig if kind is MoeWhisperForConditionalGeneration else type(tiny_base().config))(**fields)
    config.gradient_checkpointing = True
    model = kind(config).train()
    assert (
        model.model.encoder.layers[0].gradient_checkpointing and model.model.decoder.layers[0].gradient_checkpointing
    )
    model(noise(2, 60), labels=tokens(2, 4)).loss.backward()


@pytest.mark.parametrize("make", [mixture, logits_mixture])
def test_a_row_of_tokens_for_each_utterance(make):
    with pytest.raises(ValueError, match="`decoder_input_ids` .* must have a row for each of the 3 utterances, got 2"):
        make()(noise(3, 60), labels=tokens(2, 4))


@EVERY
@torch.no_grad()
def test_one_text_for_several_utterances(make):
    model, features, labels = make(), noise(3, 60), tokens(1, 4)
    one, each = (model(features, labels=given) for given in (labels, labels.repeat(3, 1)))
    assert torch.equal(one.logits, each.logits) and torch.equal(one.loss, each.loss)


def test_rows_of_weights_for_other_rows_of_input():
    """The message names the mismatch, and guesses no reason."""
    layer = next(iter(mixture().routed_layers().values()))
    layer.state.set(torch.eye(4))
    with pytest.raises(ValueError, match="got 4 rows of weights for 3 rows of input.$"):
        layer(torch.zeros(3, 5, layer.in_features))


@BOTH
def test_labels_may_be_as_long_as_the_decoder_not_as_the_configuration(make):
    model = make()
    model.config.max_target_positions += 100
    with pytest.raises(ValueError, match="`labels` must have at most 64 tokens, got 70"):
        model(noise(1, 60), labels=tokens(1, 70))


def soft_mixture():
    return mixture(routing="soft", shared_expert=True, base=tiny_base(encoder_layers=2))


@pytest.mark.parametrize(("make", "frames"), [(plain, 60), (logits_mixture, 60), (soft_mixture, WINDOW)])
@torch.no_grad()
def test_encoder_compiles_to_one_graph(make, frames):
    """Other audio and other experts go through the same graph."""
    torch._dynamo.reset()
    encoder = make().get_encoder()
    compiled = torch.compile(encoder, fullgraph=True, backend="eager")
    given = [{}] if make is plain else [{"expert_weights": one_hot(1, 2)}, {"expert_weights": one_hot(3, 2)}]
    for seed, options in enumerate(given):
        features = noise(2, frames, seed)
        torch.testing.assert_close(compiled(features, **options)[0], encoder(features, **options)[0])


@pytest.mark.parametrize("make", [plain, logits_mixture])
@torch.no_grad()
def test_encoder_is_exported(make):
    encoder = make().get_encoder()
    program = torch.export.export(encoder, (noise(2, 60),)).module()
    torch.testing.assert_close(program(noise(2, 60, 1))[0], encoder(noise(2, 60, 1))[0])


@torch.no_grad()
def test_auto_model_gives_the_model_without_its_head(tmp_path):
    model, ids = mixture(), tokens(2, 4).clamp(min=0)
    model.save_pretrained(tmp_path)
    bare = AutoModel.from_pretrained(tmp_path, trust_remote_code=True)
    assert type(bare).__name__ == "MoeWhisperModel"
    torch.testing.assert_close(
        bare(noise(2, 60), decoder_input_ids=ids).last_hidden_state,
        model.model(noise(2, 60), decoder_input_ids=ids).last_hidden_state,
    )
