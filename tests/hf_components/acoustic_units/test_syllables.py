"""Units as long as syllables: boundaries where the sound changes, one unit between two of them."""

import numpy as np
import pytest
import torch
from tiny_units import babble

from hf_components.acoustic_units import SYLLABLE, AcousticUnitsConfig, AcousticUnitsModel
from hf_components.acoustic_units.syllables import NEAREST, boundaries, pooled
from hf_components.units.learning.features import pad_waveforms

pytestmark = pytest.mark.unit

SOUNDS = torch.randn(4, 12, generator=torch.Generator().manual_seed(0))


def speech(*lengths: int, noise: float = 0.05) -> torch.Tensor:
    """Sounds of so many frames, one after the other."""
    clean = torch.cat([SOUNDS[i % 4].expand(length, -1) for i, length in enumerate(lengths)])
    return clean + noise * torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))


def test_boundaries_are_where_the_sound_changes():
    found = torch.nonzero(boundaries(speech(9, 12, 7, 10))).ravel().tolist()
    assert found == [9, 21, 28]


def test_boundaries_are_never_nearer_than_a_short_syllable():
    found = torch.nonzero(boundaries(torch.randn(400, 12, generator=torch.Generator().manual_seed(2)))).ravel()
    assert len(found) > 10 and int(found.diff().min()) > NEAREST


@pytest.mark.parametrize("clip", [torch.ones(30, 5), torch.ones(1, 5), torch.zeros(3, 5)])
def test_a_clip_without_a_change_is_one_stretch(clip):
    assert not boundaries(clip).any()
    torch.testing.assert_close(pooled(clip[None], torch.tensor([len(clip)]))[0], clip)


def test_frames_of_a_stretch_have_its_mean_whatever_the_padding():
    clip = speech(9, 12, 7)
    padded = torch.cat([clip, torch.full((6, 12), float("nan"))])
    found = pooled(padded[None], torch.tensor([len(clip)]))[0]
    for start, end in ((0, 9), (9, 21), (21, 28)):
        torch.testing.assert_close(found[start:end], clip[start:end].mean(0).expand(end - start, -1))
    assert len(found) == len(clip)


def test_a_model_writes_longer_units():
    clips = [babble(2.0, seed) for seed in range(3)]
    frame = AcousticUnitsModel.from_encoder("mfcc", num_units=20)
    syllable = AcousticUnitsModel.from_encoder("mfcc", num_units=20, unit_rate=SYLLABLE)
    for model in (frame, syllable):
        features, frames = model.features(*pad_waveforms(clips))
        known = torch.cat([clip[:count] for clip, count in zip(features, frames, strict=True)])
        model.set_centroids(known[torch.linspace(0, len(known) - 1, 20).long()])
    runs = [np.mean(model.encode(clips[0], deduplicate=True).durations.numpy()) for model in (frame, syllable)]
    assert runs[1] > max(NEAREST, 1.5 * runs[0])


def test_another_rate_is_refused():
    with pytest.raises(ValueError, match="`unit_rate` must be 'frame' or 'syllable', got 'word'"):
        AcousticUnitsConfig(unit_rate="word")
