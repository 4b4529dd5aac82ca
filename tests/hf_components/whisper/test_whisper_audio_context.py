"""How many frames the encoder hears, what padding is, and that checkpoints stay stock."""

import json

import pytest
import torch
from tiny_whisper import WINDOW, FramesHeard, extract, noise, speech, tiny_base, tiny_moe, tokens
from transformers import WhisperForConditionalGeneration

from hf_components.whisper import DynamicContextWhisper
from hf_components.whisper.hooks import check_transformers
from hf_components.whisper.losses import labels_to_decoder_input
from hf_components.whisper.mel_frames import count_real_frames, fit_audio_context
from hf_components.whisper.silence import DynamicContextOutput, divide_context

pytestmark = pytest.mark.unit


def dynamic(base=None):
    base = tiny_base() if base is None else base
    model = DynamicContextWhisper(base.config).eval()
    model.load_state_dict(base.state_dict())
    model.generation_config = base.generation_config
    return model


@pytest.mark.parametrize("frames", [2, 4, 118, 1000, 2998, 3000])
def test_encoder_uses_as_many_positions_as_there_is_audio(frames):
    encoder = dynamic(tiny_base(window=3000)).get_encoder()
    with torch.no_grad():
        assert encoder(noise(1, frames)).last_hidden_state.shape == (1, frames // 2, 16)


@pytest.mark.parametrize("make", [dynamic, tiny_moe])
@pytest.mark.parametrize("frames", [0, 1, 117, 202])
def test_encoder_refuses_odd_and_too_long(frames, make):
    with pytest.raises(ValueError, match=rf"even number of mel frames in \[2, 200\], got {frames}"):
        make().get_encoder()(noise(1, frames))


def set_silence(monkeypatch, positions: int) -> None:
    """So many positions represent the silence."""
    for module in ("silence", "dynamic_encoder"):
        monkeypatch.setattr(f"hf_components.whisper.{module}.silent_positions", lambda config: positions)


@torch.no_grad()
def test_short_audio_is_heard_as_stock_whisper_hears_it_in_silence(monkeypatch):
    """Nearly: its last position hears the window's end too. Without the silence it is another matter."""
    base, ids = tiny_base(), tokens(2, 5).clamp(min=0)
    features = fit_audio_context(noise(2, 50), 60)
    expected = base(fit_audio_context(features, 200), decoder_input_ids=ids).logits

    def distance(silent: int) -> float:
        set_silence(monkeypatch, silent)
        output = dynamic(base).get_encoder()(features)
        assert output.last_hidden_state.shape == (2, 30, 16) and output.silent_states.shape == (2, silent, 16)
        return float((dynamic(base)(features, decoder_input_ids=ids).logits - expected).abs().mean())

    assert distance(70) < 0.01
    monkeypatch.setattr(
        "hf_components.whisper.modeling_dynamic_whisper.whole_context", lambda outputs, config: outputs[0]
    )
    assert distance(70) > 0.1


@pytest.mark.parametrize(
    "make", [dynamic, lambda: tiny_moe(audio_context="dynamic", min_audio_context=2)], ids=["plain", "moe"]
)
@torch.no_grad()
def test_a_position_counts_for_as_many_as_it_stands_for(make, monkeypatch):
    """Where all silent positions are alike, few of them are exactly many."""
    model = make()
    encoder = model.get_encoder()
    encoder.embed_positions.weight.data[30:] = encoder.embed_positions.weight.data[30]
    features, ids, logits = noise(2, 60), tokens(2, 5).clamp(min=0), {}
    for silent in (1, 7, 70):
        set_silence(monkeypatch, silent)
        logits[silent] = model(features, decoder_input_ids=ids).logits
    torch.testing.assert_close(logits[1], logits[70], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(logits[7], logits[70], atol=1e-4, rtol=1e-4)
    set_silence(monkeypatch, 7)
    for module in ("silence", "dynamic_encoder"):
        monkeypatch.setattr(f"hf_components.whisper.{module}.context_bias", lambda states, config: None)
    assert not torch.allclose(model(features, decoder_input_ids=ids).logits, logits[70], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("frames", [60, 200])
@torch.no_grad()
def test_hidden_states_and_attentions_are_given_when_asked(frames):
    asked = {"decoder_input_ids": tokens(1, 4), "output_hidden_states": True, "output_attentions": True}
    base = tiny_base()
    base.set_attn_implementation("eager")
    model = dynamic(base)
    model.set_attn_implementation("eager")
    output, stock = model(noise(1, frames), **asked), base(fit_audio_context(noise(1, frames), 200), **asked)
    for name in (
        "encoder_hidden_states",
        "encoder_attentions",
        "decoder_hidden_states",
        "decoder_attentions",
        "cross_attentions",
    ):
        assert len(output[name]) == len(stock[name]) > 0, name
    positions = frames // 2  # the silence behind the audio is not shown
    assert output.encoder_hidden_states[1].shape == (1, positions, 16)
    assert output.encoder_attentions[0].shape[-2:] == (positions, positions)
    assert output.cross_attentions[0].shape[-1] == positions
    share = output.cross_attentions[0].sum(-1)
    assert (share < 0.99).all() if frames == 60 else torch.allclose(share, torch.ones_like(share))


@torch.no_grad()
def test_attention_that_takes_no_bias_hears_the_whole_window():
    model = dynamic()
    expected = model(fit_audio_context(noise(2, 60), 200), decoder_input_ids=tokens(1, 4).expand(2, -1)).logits
    encoder = model.get_encoder()
    encoder.config._attn_implementation = "flash_attention_2"
    hidden = encoder.embed_frames(noise(2, 60))
    assert hidden.shape == (2, 100, 16)
    encoder.config._attn_implementation = "eager"
    states = encoder.layer_norm(encoder.run_layers(hidden, encoder.layers))
    assert [part.shape[1] for part in divide_context(states, 60).values()] == [30, 70]
    logits = model(
        encoder_outputs=DynamicContextOutput(**divide_context(states, 60)),
        decoder_input_ids=tokens(1, 4).expand(2, -1),
    ).logits
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)


def test_states_without_their_silence_are_refused():
    model = dynamic()
    with pytest.raises(ValueError, match="own encoder, .* got 30 positions of 100 without it"):
        model(encoder_outputs=(torch.zeros(1, 30, 16),), decoder_input_ids=tokens(1, 3))
    stock = model(encoder_outputs=(torch.zeros(1, 100, 16),), decoder_input_ids=tokens(1, 3))
    assert stock.logits.isfinite().all()


@pytest.mark.parametrize("make", [dynamic, tiny_moe])
@pytest.mark.parametrize(
    ("context", "minimum", "frames", "heard"),
    [
        ("full", 2, 61, 200),
        ("dynamic", 2, 61, 62),
        ("dynamic", 2, 200, 200),
        ("dynamic", 101, 61, 102),
        ("dynamic", 500, 61, 200),
        ("dynamic", 2, 1, 2),
    ],
)
def test_generate_hears_the_audio_context(make, context, minimum, frames, heard):
    model = make()
    model.set_audio_context(context, minimum)
    recorded = FramesHeard(model)
    model.generate(noise(2, frames), max_new_tokens=2)
    model.generate(fit_audio_context(noise(2, frames), 200), max_new_tokens=2)  # padded by the caller
    assert recorded.frames == [heard, heard]


def test_longest_clip_of_a_batch_sets_the_context():
    model = tiny_moe(audio_context="dynamic", min_audio_context=2)
    recorded = FramesHeard(model)
    batch = extract([speech(0.3, 0), speech(1.1, 1)])
    model.generate(**batch, max_new_tokens=2)
    assert 110 <= recorded.frames[0] <= 112


def test_wrong_audio_context():
    with pytest.raises(ValueError, match="`audio_context` must be dynamic or full, got 'short'"):
        dynamic().set_audio_context("short")


@pytest.mark.parametrize("level", [0.3, 0.01, 1e-3, 1e-5, 0.0], ids=lambda level: f"level_{level}")
def test_silence_equals_the_extractors_padding(level):
    features = extract([speech(3.21, level=level)], window=3000)["input_features"]
    short = features[..., :400]
    assert torch.equal(fit_audio_context(short, 3000), features)
    assert torch.equal(fit_audio_context(features, 400), short)


@pytest.mark.parametrize("seconds", [0.11, 0.5, 0.777, 1.3, 1.97])
def test_real_frames_against_the_extractors_mask(seconds):
    batch = extract([speech(seconds)])
    features, expected = batch["input_features"], int(batch["attention_mask"].sum())
    assert count_real_frames(features, batch["attention_mask"]).item() == expected
    assert 0 <= count_real_frames(features).item() - expected <= 2  # a window of 25 ms reaches over the end
    zeros = torch.cat([features[..., :expected], torch.zeros(1, 80, 200 - expected)], dim=-1)
    assert count_real_frames(zeros).item() == expected
    assert count_real_frames(features, batch["attention_mask"][:, :50]) == count_real_frames(
        features
    )  # of another length


def test_silence_inside_a_recording_is_real():
    features = noise(2, 60)
    features[:, :, 20:40] = -0.7
    features[1, :, 30:] = 0.0
    assert count_real_frames(features).tolist() == [60, 20]
    assert count_real_frames(torch.zeros(1, 80, 10)).tolist() == [1]


def test_multilingual_language_detection_hears_the_audio_context():
    base = tiny_base()
    config = base.generation_config
    config.is_multilingual, config.lang_to_id, config.task_to_id = (
        True,
        {"<|en|>": 92, "<|fr|>": 93},
        {"transcribe": 94},
    )
    model = dynamic(base)
    for context, heard in (("full", 200), ("dynamic", 62)):
        model.set_audio_context(context, 2)
        recorded = FramesHeard(model)
        model.generate(noise(1, 61), max_new_tokens=2)
        assert recorded.frames == [heard, heard]


def test_checkpoint_is_stock(tmp_path):
    model = dynamic()
    model.set_audio_context("dynamic", 2)
    model.save_pretrained(tmp_path)
    tiny_base().save_pretrained(tmp_path / "stock")
    ours, stock = (json.loads((folder / "config.json").read_text()) for folder in (tmp_path, tmp_path / "stock"))
    assert ours == stock and ours["architectures"] == ["WhisperForConditionalGeneration"]
    again, info = WhisperForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    features, labels = noise(2, WINDOW), tokens(2, 6)
    with torch.no_grad():
        assert torch.equal(again(features, labels=labels).logits, model(features, labels=labels).logits)
    assert torch.equal(again.generate(features, max_new_tokens=6), dynamic().generate(features, max_new_tokens=6))


def test_loss_counts_tokens_of_the_accumulated_batch():
    model, features, labels = dynamic(), noise(4, WINDOW), tokens(4, 6)
    count = (labels != -100).sum()
    whole = model(features, labels=labels).loss
    torch.testing.assert_close(whole, tiny_base()(features, labels=labels).loss)
    halves = [model(features[i : i + 2], labels=labels[i : i + 2], num_items_in_batch=count).loss for i in (0, 2)]
    torch.testing.assert_close(sum(halves), whole)


def test_labels_are_shifted_and_bounded():
    config = tiny_base().config
    assert labels_to_decoder_input(torch.tensor([[5, 6, -100, -100]]), config).tolist() == [[91, 5, 6, 90]]
    with pytest.raises(ValueError, match="at most 64 tokens, got 65"):
        dynamic()(noise(1, WINDOW), labels=tokens(1, 65))


def test_another_transformers_is_refused_or_warned_of(caplog):
    with pytest.raises(
        ImportError, match=r"transformers >= 5.23, < 5.24; found 4.57.6. pip install 'transformers==5.23"
    ):
        check_transformers("4.57.6")
    with pytest.raises(ImportError, match="found 5.30.0, which lacks _get_input_segment"):
        check_transformers("5.30.0", whisper=object)
    check_transformers("5.23.4")
    assert not caplog.text
    check_transformers("5.30.0")
    assert "found 5.30.0, which was not tested" in caplog.text
