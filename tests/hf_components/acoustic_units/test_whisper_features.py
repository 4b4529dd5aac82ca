"""Whisper's encoder as a source of units: its own hidden states, on the grid of the units, at any length."""

import numpy as np
import pytest
import torch
from tiny_units import babble
from tiny_whisper import tiny_base
from transformers import WhisperFeatureExtractor

from hf_components.acoustic_units import AcousticUnitsModel
from hf_components.acoustic_units.whisper_encoder import log_mel
from hf_components.units.learning.features import pad_waveforms

pytestmark = pytest.mark.unit

WINDOW = 0.64  # seconds that this Whisper hears: 32 positions
CLIPS = [babble(seconds, seed) for seed, seconds in enumerate((0.6, 0.413, 0.3, 0.025))]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whisper")
    model = tiny_base(window=64, encoder_layers=3)
    with torch.no_grad():
        for parameter in model.parameters():  # far enough from zero that layers differ
            if parameter.ndim > 1:
                parameter.mul_(3)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def whisper(checkpoint):
    return type(tiny_base(window=64)).from_pretrained(checkpoint).eval()


def features_of(checkpoint, layer: int, clips: list[np.ndarray]):
    return AcousticUnitsModel.from_encoder(str(checkpoint), layer, num_units=4).features(*pad_waveforms(clips))


@pytest.mark.parametrize("layer", [1, 2, 3])
def test_a_layer_is_the_hidden_state_of_whisper(checkpoint, whisper, layer):
    clip = babble(0.65, seed=5)  # 32 frames: all that it hears, so that transformers' own encoder takes it
    features, frames = features_of(checkpoint, layer, [clip])
    assert frames.tolist() == [32]
    states = []
    for block in whisper.model.encoder.layers:
        block.register_forward_hook(lambda module, inputs, output: states.append(output))
    with torch.no_grad():
        whisper.model.encoder(log_mel(torch.from_numpy(clip), 32, whisper.config.num_mel_bins).mT[None])
    torch.testing.assert_close(features, states[layer - 1], rtol=1e-3, atol=1e-3)


def test_mel_frames_are_whispers_own_moved_by_half_a_window():
    clip = babble(1.0, seed=1)
    own = WhisperFeatureExtractor(chunk_length=1)(clip, sampling_rate=16_000, return_tensors="pt").input_features[0].T
    padded = np.pad(clip, (200, 0), mode="reflect")  # the first window of the extractor is centred on sample 0
    ours = log_mel(torch.from_numpy(padded), 49, 80)
    torch.testing.assert_close(ours[:98], own[:98], rtol=1e-3, atol=1e-3)


def test_a_clip_is_the_same_alone_and_in_a_batch(checkpoint):
    features, frames = features_of(checkpoint, 2, CLIPS)
    for row, clip in enumerate(CLIPS):
        alone, _ = features_of(checkpoint, 2, [clip])
        assert alone.shape[1] == frames[row] == (len(clip) - 400) // 320 + 1
        torch.testing.assert_close(features[row, : frames[row]], alone[0], rtol=1e-3, atol=1e-3)


def test_a_long_clip_is_heard_piece_by_piece(checkpoint):
    clip = babble(1.5, seed=3)
    clip[8000:] *= 0.5  # the floor of a mel band follows the loudest sound of the clip, which is in its first piece
    features, frames = features_of(checkpoint, 2, [clip, CLIPS[1]])
    assert frames.tolist() == [74, (len(CLIPS[1]) - 400) // 320 + 1] and features.shape[1] == 74
    first, _ = features_of(checkpoint, 2, [clip[: 400 + 160 * 63]])
    torch.testing.assert_close(features[0, :32], first[0], rtol=1e-3, atol=1e-3)
    assert bool(torch.isfinite(features).all())


def test_it_is_saved_without_decoder_and_later_layers(checkpoint, tmp_path):
    model = AcousticUnitsModel.from_encoder(str(checkpoint), 2, num_units=4)
    model.set_centroids(model.features(*pad_waveforms(CLIPS[:1]))[0][0, :4])
    model.save_pretrained(tmp_path)
    again = AcousticUnitsModel.from_pretrained(tmp_path).eval()
    names = list(again.state_dict())
    assert not [name for name in names if "decoder" in name or ".layers.2." in name]
    assert again.encode(CLIPS[0]).units.tolist() == model.encode(CLIPS[0]).units.tolist()
    assert again.identity() == model.identity()


def test_a_layer_that_it_lacks_is_named(checkpoint):
    with pytest.raises(ValueError, match=r"`layer` must lie in \[1, 3\]"):
        AcousticUnitsModel.from_encoder(str(checkpoint), 4, num_units=4)
