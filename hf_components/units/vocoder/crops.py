"""Crops of speech with their aligned units. Random choices depend only on seed and epoch."""

import logging
from collections.abc import Iterator
from typing import NamedTuple

import datasets
import numpy as np
import torch

from hf_components.metrics.speech_resynthesis.pitch import unit_pitch
from hf_components.runtime import UserError
from hf_components.speech import unreadable_explained, waveforms
from hf_components.unit_hifigan import UnitHifiGanConfig

logger = logging.getLogger(__name__)


class Crop(NamedTuple):
    """A position in the corpus: number of the segment, and first frame."""

    segment: int
    frame: int


class UnitCrops(torch.utils.data.Dataset):
    """Segments of a corpus and their units; `self[Crop]` is a piece of them.

    Args:
        corpus: rows of the data contract, audio not decoded.
        units: id of a segment -> units per frame.
        crop_frames: length of a crop; shorter segments are left out.
        config: configuration of the vocoder, with the inputs that it needs beside units; unit i belongs to samples
            `[i * hop_length, (i + 1) * hop_length)`.
    Raises:
        UserError: a segment has no units, or too many or too few for its length, or an unknown speaker; or no segment
            is long enough.
    """

    def __init__(
        self, corpus: datasets.Dataset, units: dict[str, np.ndarray], crop_frames: int, config: UnitHifiGanConfig
    ):
        self.corpus = corpus
        self.crop_frames = crop_frames
        self.config = config
        hop_length = config.hop_length
        speakers = config.speakers
        if missing := [name for name in corpus["id"] if name not in units]:
            raise UserError(
                f"{len(missing)} of {len(corpus)} segments have no units, {missing[0]} first; "
                "run recipes/learn_units.py on this corpus"
            )
        for name, duration in zip(corpus["id"], corpus["duration"], strict=True):
            samples = round(duration * config.sampling_rate)
            if not 0 <= samples - hop_length * len(units[name]) < 2 * hop_length:
                raise UserError(
                    f"{name} has {len(units[name])} units for {duration:.2f} s of audio, at {hop_length} samples per "
                    "unit: they are of another version of this corpus; run recipes/learn_units.py again"
                )
        self.units = [units[name] for name in corpus["id"]]
        if speakers:
            if strangers := sorted(set(corpus["speaker_id"]) - set(speakers)):
                raise UserError(
                    f"the speaker {strangers[0]} has no recording to train on, so the vocoder has no voice for it; "
                    "segment the recordings by --split_by recording"
                )
            self.speaker_ids = [speakers.index(name) for name in corpus["speaker_id"]]
        # Number of possible crops in all segments up to each.
        self.places = np.cumsum([max(0, len(row) - crop_frames + 1) for row in self.units])
        if (short := sum(len(row) < crop_frames for row in self.units)) == len(self.units):
            raise UserError(f"none of {short} segments has the {crop_frames} frames of a crop; lower --crop_seconds")
        if short:
            logger.warning(
                "%d of %d segments are shorter than a crop of %d frames and are left out; a smaller --crop_seconds "
                "includes them",
                short,
                len(self.units),
                crop_frames,
            )

    def __len__(self) -> int:
        return int(self.places[-1])

    def place(self, number: int) -> Crop:
        """The crop of that number, from 0 to `len(self) - 1`."""
        segment = int(np.searchsorted(self.places, number, side="right"))
        return Crop(segment, int(number - (self.places[segment - 1] if segment else 0)))

    def held_out(self, count: int, seed: int) -> list[Crop]:
        """At most `count` crops that do not overlap, drawn at random by the seed."""
        tiled = [
            Crop(segment, frame)
            for segment, row in enumerate(self.units)
            for frame in range(0, len(row) - self.crop_frames + 1, self.crop_frames)
        ]
        chosen = np.random.default_rng(seed).permutation(len(tiled))[:count]
        return [tiled[i] for i in sorted(chosen)]

    def __getitem__(self, crop: Crop) -> dict[str, torch.Tensor]:
        """`units (crop_frames,)` and `waveform (crop_frames * hop_length,)`.

        If the vocoder needs them, also `speaker_ids ()` and `f0 (crop_frames,)` in Hz.
        """
        return self.piece(crop, self.crop_frames)

    def whole(self, segment: int) -> dict[str, torch.Tensor]:
        """The same for a whole segment."""
        return self.piece(Crop(segment, 0), len(self.units[segment]))

    def piece(self, crop: Crop, frames: int) -> dict[str, torch.Tensor]:
        with unreadable_explained():
            (waveform,) = waveforms([self.corpus[crop.segment]], self.config.sampling_rate)
        first = crop.frame
        last = crop.frame + frames
        waveform = waveform[first * self.config.hop_length : last * self.config.hop_length]
        item = {
            "units": torch.from_numpy(self.units[crop.segment][first:last].astype(np.int64)),
            "waveform": torch.from_numpy(waveform),
        }
        if self.config.use_f0:
            item["f0"] = torch.from_numpy(unit_pitch(waveform, frames)).float()
        if self.config.speakers:
            item["speaker_ids"] = torch.tensor(self.speaker_ids[crop.segment])
        return item


class CropSampler(torch.utils.data.Sampler):
    """Draw crops at random, every position in the corpus with the same probability.

    Args:
        crops: crops to draw from.
        samples: crops per epoch.
        seed: seed of the choice, together with the epoch.
    """

    def __init__(self, crops: UnitCrops, samples: int, seed: int):
        self.crops = crops
        self.samples = samples
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.samples

    def __iter__(self) -> Iterator[Crop]:
        for number in np.random.default_rng([self.seed, self.epoch]).integers(len(self.crops), size=self.samples):
            yield self.crops.place(int(number))
