"""Crops of speech and their units: aligned to the frame, drawn by seed and epoch alone, refused where they do not
fit."""

import datasets
import numpy as np
import pytest
import torch
from tiny_units import write_tiny_segments, write_tiny_units

from hf_components.runtime.errors import UserError
from hf_components.speech.audio import encode_flac
from hf_components.speech.corpus import load_corpus
from hf_components.unit_hifigan import UnitHifiGanConfig
from hf_components.units.table import read_units
from hf_components.units.vocoder.crops import Crop, CropSampler, UnitCrops

pytestmark = pytest.mark.unit
HOP = 320


def levelled(frames: list[int], extra: int = 80) -> datasets.Dataset:
    """Segments whose frame i of segment s has the level (s + 1) / 10 + i / 1000 throughout."""
    rows = []
    for segment, count in enumerate(frames):
        levels = (segment + 1) / 10 + np.arange(count) / 1000
        wave = np.concatenate([np.repeat(levels, HOP), np.zeros(extra)]).astype(np.float32)
        rows.append(
            {
                "id": f"s{segment}",
                "audio": {"bytes": encode_flac(wave), "path": None},
                "speaker_id": f"v{segment}",
                "duration": len(wave) / 16_000,
            }
        )
    return datasets.Dataset.from_list(rows)


def numbered(frames: list[int]) -> dict[str, np.ndarray]:
    """Unit of frame i of segment s: 100 s + i, so that it tells where it comes from."""
    return {f"s{segment}": 100 * segment + np.arange(count) for segment, count in enumerate(frames)}


def crops_of(frames: list[int], crop_frames: int = 10, **fields) -> UnitCrops:
    return UnitCrops(levelled(frames), numbered(frames), crop_frames, UnitHifiGanConfig(**fields))


def test_every_sample_of_a_crop_is_under_its_unit():
    crops = crops_of([25, 40])
    for crop in [Crop(0, 0), Crop(0, 15), Crop(1, 7), *CropSampler(crops, 20, seed=3)]:
        item = crops[crop]
        assert item["units"].shape == (10,) and item["waveform"].shape == (10 * HOP,)
        levels = 0.1 + item["units"] // 100 / 10 + item["units"] % 100 / 1000
        torch.testing.assert_close(item["waveform"], levels.float().repeat_interleave(HOP), atol=1e-4, rtol=0)
    whole = crops.whole(1)
    assert whole["units"].tolist() == list(range(100, 140)) and len(whole["waveform"]) == 40 * HOP


def test_draws_depend_on_seed_and_epoch_alone():
    crops, sampler = crops_of([25, 9, 40]), None
    sampler = CropSampler(crops, 50, seed=1)
    first = list(sampler)
    np.random.default_rng().random(), torch.rand(1)
    assert list(sampler) == first == list(CropSampler(crops, 50, seed=1))
    sampler.set_epoch(1)
    assert list(sampler) != first != list(CropSampler(crops, 50, seed=2))
    assert len(sampler) == len(first) == 50


def test_every_place_is_as_likely(caplog):
    crops = crops_of([25, 9, 40])
    assert "1 of 3 segments are shorter than a crop of 10 frames" in caplog.text
    places = [crops.place(number) for number in range(len(crops))]
    assert places == [Crop(0, i) for i in range(16)] + [Crop(2, i) for i in range(31)]
    drawn = list(CropSampler(crops, 4700, seed=0))
    counts = [drawn.count(place) for place in places]
    assert min(counts) > 60 and max(counts) < 140  # 100 each, by chance


def test_held_out_crops_lie_side_by_side():
    crops = crops_of([25, 40])
    assert crops.held_out(99, seed=0) == [Crop(0, 0), Crop(0, 10), *(Crop(1, i) for i in (0, 10, 20, 30))]
    some = crops.held_out(3, seed=0)
    assert len(set(some)) == 3 and some == sorted(some) == crops.held_out(3, seed=0)


def test_speaker_and_pitch_go_with_the_crop():
    item = crops_of([25, 40], speakers=["v0", "v1"])[Crop(1, 0)]
    assert item["speaker_ids"].item() == 1
    with pytest.raises(UserError, match="the speaker v1 has no recording to train on"):
        crops_of([25, 40], speakers=["v0"])
    rows, time = levelled([50, 50]).to_list(), np.arange(50 * HOP + 80) / 16_000
    for row, pitch in zip(rows, (120, 240), strict=True):
        tone = sum(np.sin(2 * np.pi * pitch * k * time) / k for k in range(1, 8))
        row["audio"]["bytes"] = encode_flac(0.2 * tone)
    crops = UnitCrops(datasets.Dataset.from_list(rows), numbered([50, 50]), 40, UnitHifiGanConfig(use_f0=True))
    for segment, pitch in enumerate((120, 240)):
        f0 = crops[Crop(segment, 4)]["f0"]
        assert f0.shape == (40,) and abs(f0[5:-5].median() - pitch) < 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda units: units.pop("s1"), "1 of 2 segments have no units, s1 first"),
        (lambda units: units.update(s1=units["s1"][:-2]), r"s1 has 38 units for 0.81 s of audio"),
        (lambda units: units.update(s1=np.arange(41)), r"s1 has 41 units for 0.81 s of audio"),
    ],
)
def test_units_of_another_corpus_are_refused(change, message):
    units = numbered([25, 40])
    change(units)
    with pytest.raises(UserError, match=message):
        UnitCrops(levelled([25, 40]), units, 10, UnitHifiGanConfig())


def test_segments_that_are_all_too_short():
    with pytest.raises(UserError, match="none of 2 segments has the 50 frames of a crop; lower --crop_seconds"):
        crops_of([25, 40], crop_frames=50)


def test_units_as_the_recipe_writes_them_fit_their_corpus(tmp_path):
    segments = write_tiny_segments(tmp_path / "segments")
    table = read_units(write_tiny_units(tmp_path / "units", segments))
    units = dict(zip(table.rows["id"].to_pylist(), table.rows["units"].to_numpy(), strict=True))
    crops = UnitCrops(load_corpus(segments, "train"), units, 50, UnitHifiGanConfig())
    assert crops[crops.place(0)]["units"].dtype == torch.int64
