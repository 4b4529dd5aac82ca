"""Gates must not depend on padding, mask or entry point."""

import numpy as np
import pytest
import torch
from tiny_whisper import TEXT, WINDOW, extract, speech, tiny_moe
from transformers import WhisperFeatureExtractor, WhisperTokenizer, pipeline

from hf_components.whisper.mel_frames import count_real_frames, pool_real_frames

pytestmark = pytest.mark.unit
CLIPS = [speech(0.3, 0), speech(1.1, 1), speech(0.62, 2)]
CONTEXTS = pytest.mark.parametrize(
    "context",
    [{"audio_context": "full"}, {"audio_context": "dynamic", "min_audio_context": 2}],
    ids=["full", "dynamic"],
)


class GatesSeen:
    """Records the gates of every call to the encoder."""

    def __init__(self, model):
        self.gates: list[torch.Tensor] = []
        model.get_encoder().register_forward_hook(lambda module, args, output: self.gates.append(output.gates))


def tiny_pipeline(model):
    vocabulary = {chr(0x100 + i): i for i in range(TEXT)} | {"<|endoftext|>": TEXT}
    tokenizer = WhisperTokenizer(
        vocab=vocabulary, merges=[], unk_token="<|endoftext|>", bos_token="<|endoftext|>", eos_token="<|endoftext|>"
    )
    return pipeline(
        "automatic-speech-recognition",
        model=model,
        tokenizer=tokenizer,
        feature_extractor=WhisperFeatureExtractor(feature_size=80, chunk_length=WINDOW // 100),
    )


@CONTEXTS
def test_gates_agree_everywhere(context):
    model = tiny_moe(routing="soft", **context)
    for clip in CLIPS:
        batch = extract([clip])
        padded, mask = batch["input_features"], batch["attention_mask"]
        real = int(count_real_frames(padded))
        cut, ids = padded[..., : real + real % 2], torch.full((1, 1), 91)
        with torch.no_grad():
            expected = model(padded, decoder_input_ids=ids).gates
            masked = [model(padded, attention_mask=mask, decoder_input_ids=ids).gates, model.route(padded, mask)]
            others = [model(cut, decoder_input_ids=ids).gates, model.route(padded), model.route(cut)]
        seen = GatesSeen(model)
        for features, given_mask in ((padded, None), (padded, mask), (cut, None), (cut, mask[:, : cut.shape[-1]])):
            model.generate(features, attention_mask=given_mask, max_new_tokens=2, num_beams=2)
        tiny_pipeline(model)(clip.copy(), generate_kwargs={"max_new_tokens": 2})
        assert len(seen.gates) == 5
        for gates in others + seen.gates:
            torch.testing.assert_close(gates, expected, atol=1e-5, rtol=0)
        for gates in masked:  # the extractor's mask ends 1 or 2 frames before the last window that hears the clip
            torch.testing.assert_close(gates, expected, atol=0.05, rtol=0)


def test_embedding_is_what_the_router_reads():
    model = tiny_moe(router_layer=2)
    batch = extract(CLIPS)
    with torch.no_grad():
        output = model(**batch, decoder_input_ids=torch.full((3, 1), 91), output_hidden_states=True)
        states = output.encoder_hidden_states[2]  # after two layers, before the final norm
        embedding = pool_real_frames(states, batch["attention_mask"].sum(-1))
        torch.testing.assert_close(model.embed(**batch), embedding, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(model.model.encoder.router(embedding), output.router_logits, atol=1e-4, rtol=1e-4)


def test_pooling_is_a_mean_over_real_positions():
    states = torch.arange(12.0).view(1, 6, 2).repeat(2, 1, 1)
    pooled = pool_real_frames(states, torch.tensor([3, 12]))  # frames 1 to 3 are positions 0 and 1
    torch.testing.assert_close(pooled, torch.stack([states[0, :2].mean(0), states[1].mean(0)]))


def test_gates_ignore_batch_mates_in_a_full_context():
    model = tiny_moe(routing="soft")
    features = extract(CLIPS)["input_features"]
    together = model.route(features)
    for row in range(3):
        torch.testing.assert_close(model.route(features[row : row + 1])[0], together[row], atol=1e-5, rtol=0)


def test_unmasked_mean_would_follow_the_padding():
    """The contrast: without knowledge of padding, a short clip's embedding is that of silence."""
    model = tiny_moe()
    clips = extract([speech(0.2, seed) for seed in range(6)])["input_features"]
    with torch.no_grad():
        states = model.model.encoder.run_layers(
            model.model.encoder.embed_frames(clips), model.model.encoder.layers[:1]
        )
    unmasked, masked = states.mean(1), model.embed(clips)
    assert (unmasked - unmasked.mean(0)).norm() < 0.5 * (masked - masked.mean(0)).norm()


def test_odd_and_empty_waveforms():
    model = tiny_moe(routing="soft", audio_context="dynamic", min_audio_context=2)
    silence = extract([np.zeros(8000, dtype=np.float32)])["input_features"]
    assert model.route(silence).isfinite().all()
    assert model.generate(silence, max_new_tokens=2).shape == (1, 2)
