"""Features are those of the whole encoder, and of each clip alone, whatever it is batched with."""

import numpy as np
import pytest
import torch
import torchaudio
from tiny_ssl import CONFIGS, LAYERS, save_tiny_ssl
from tiny_units import babble
from transformers import AutoFeatureExtractor, AutoModel

from hf_components.acoustic_units import AcousticUnitsModel
from hf_components.units.learning.features import pad_waveforms

pytestmark = pytest.mark.unit

CLIPS = [babble(seconds, seed) for seed, seconds in enumerate((1.0, 0.613, 0.3, 0.9999, 0.025))]


@pytest.fixture(scope="module", params=sorted(CONFIGS))
def checkpoint(request, tmp_path_factory):
    return save_tiny_ssl(tmp_path_factory.mktemp("ssl") / request.param, CONFIGS[request.param])


def whole_encoder(checkpoint, clip: np.ndarray):
    """transformers' own: the hidden states and the last one."""
    model, extractor = AutoModel.from_pretrained(checkpoint).eval(), AutoFeatureExtractor.from_pretrained(checkpoint)
    if model.config.model_type == "wav2vec2-bert":  # two windows to a frame: as many samples as whole pairs hear
        samples = 400 + 160 * (2 * ((len(clip) - 400) // 320 + 1) - 1)
        clip = np.pad(clip, (0, max(0, samples - len(clip))))[:samples]
    with torch.no_grad():
        output = model(**extractor(clip, sampling_rate=16_000, return_tensors="pt"), output_hidden_states=True)
    return model, output.hidden_states, output.last_hidden_state


@pytest.mark.parametrize("layer", [1, 2])
def test_a_layer_is_the_hidden_state_of_the_whole_encoder(checkpoint, layer):
    model = AcousticUnitsModel.from_encoder(str(checkpoint), layer, num_units=4)
    features, frames = model.features(*pad_waveforms(CLIPS[:1]))
    _, hidden_states, _ = whole_encoder(checkpoint, CLIPS[0])
    assert frames.tolist() == [hidden_states[layer].shape[1]] == [(len(CLIPS[0]) - 400) // 320 + 1]
    torch.testing.assert_close(features, hidden_states[layer], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(features, hidden_states[layer + 1], atol=0.05)


def test_the_last_layer_is_taken_before_the_norm_that_follows_it(checkpoint):
    features, _ = AcousticUnitsModel.from_encoder(str(checkpoint), LAYERS, num_units=4).features(
        *pad_waveforms(CLIPS[:1])
    )
    model, _, last = whole_encoder(checkpoint, CLIPS[0])
    if getattr(model.config, "do_stable_layer_norm", False):
        assert not torch.allclose(features, last, atol=0.05)
        features = model.encoder.layer_norm(features)
    torch.testing.assert_close(features, last, rtol=1e-4, atol=1e-4)


def test_layers_above_are_neither_built_nor_saved(checkpoint, tmp_path):
    model = AcousticUnitsModel.from_encoder(str(checkpoint), 1, num_units=4)
    assert len(model.encoder.encoder.layers) == 1
    assert not any(tensor.is_meta for tensor in model.state_dict().values())
    model.save_pretrained(tmp_path)
    saved = AcousticUnitsModel.from_pretrained(tmp_path).state_dict()
    assert not [name for name in saved if "encoder.encoder.layers.1." in name]


def test_a_clip_is_the_same_alone_and_in_a_batch(checkpoint):
    model = AcousticUnitsModel.from_encoder(str(checkpoint), 2, num_units=16)
    features, frames = model.features(*pad_waveforms(CLIPS))
    model.set_centroids(features[0, :16])
    units = model(*pad_waveforms(CLIPS))
    for row, clip in enumerate(CLIPS):
        alone, _ = model.features(*pad_waveforms([clip]))
        torch.testing.assert_close(features[row, : frames[row]], alone[0], rtol=1e-4, atol=1e-4)
        assert units[row].tolist() == model.encode(clip).units.tolist() + [-1] * (units.shape[1] - int(frames[row]))


def test_waveforms_are_normalised_as_the_feature_extractor_says(tmp_path):
    centred, offset = pad_waveforms([CLIPS[0]]), pad_waveforms([CLIPS[0] + np.float32(0.5)])
    for do_normalize in (True, False):
        checkpoint = save_tiny_ssl(tmp_path / str(do_normalize), do_normalize=do_normalize)
        model = AcousticUnitsModel.from_encoder(str(checkpoint), 1, num_units=4)
        assert torch.allclose(model.features(*centred)[0], model.features(*offset)[0], atol=1e-3) == do_normalize


def test_mfcc_is_torchaudios_whatever_the_padding():
    model = AcousticUnitsModel.from_encoder("mfcc")
    features, frames = model.features(*pad_waveforms(CLIPS))
    reference = torchaudio.transforms.MFCC(
        16_000, n_mfcc=13, log_mels=True, melkwargs={"n_fft": 400, "hop_length": 320, "n_mels": 40, "center": False}
    )
    for row, clip in enumerate(CLIPS):
        static = reference(torch.from_numpy(clip))
        slope = torchaudio.functional.compute_deltas(static)
        expected = torch.cat([static, slope, torchaudio.functional.compute_deltas(slope)]).T
        assert len(expected) == frames[row]
        torch.testing.assert_close(features[row, : frames[row]], expected, rtol=1e-4, atol=1e-4)
