"""Samples, log and curves of the training of a vocoder."""

import shutil
from pathlib import Path

import numpy as np
import torch

from hf_components.reporting import plot_curves, plot_spectrograms
from hf_components.runtime import place_for, read_record, sync_folder, write_json
from hf_components.speech import decode, encode_wav
from hf_components.unit_hifigan import UnitHifiGanModel
from hf_components.units.vocoder.crops import UnitCrops

LOG = "training_log.json"
SAMPLES = "samples"
ORIGINAL = "original"  # folder of the recordings, beside those of the vocoder
CURVES = {  # file: (keys of the log, y label)
    "curves.png": (("mel_loss", "validation_mel_loss"), "log-mel distance x 45"),
    "adversarial.png": (("discriminator_loss", "adversarial_loss", "feature_loss"), "loss"),
}


class Listener:
    """Lets a vocoder speak the same held-out segments each time.

    Args:
        crops: crops of the held-out split.
        count: number of segments, drawn at random by the seed.
        folder: gets `samples/<name>/<segment>.wav` and, with `plot`, `.png`, see `place_for`; the originals are in
            `samples/original`.
    """

    def __init__(self, crops: UnitCrops, count: int, seed: int, folder: Path, plot: bool):
        self.crops = crops
        self.folder = folder / SAMPLES
        self.plot = plot
        self.segments = sorted(np.random.default_rng(seed).permutation(len(crops.units))[:count].tolist())

    @torch.no_grad()
    def hear(self, model: UnitHifiGanModel, name: str) -> None:
        for segment in self.segments:
            item = self.crops.whole(segment)
            name_of_segment = self.crops.corpus[segment]["id"]
            place = place_for(name_of_segment)
            original = item.pop("waveform").numpy()
            spoken = (
                model(**{key: value[None].to(model.device) for key, value in item.items()})[0].float().cpu().numpy()
            )
            for folder, waveform in ((ORIGINAL, original), (name, spoken)):
                file = self.folder / folder / f"{place}.wav"
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(encode_wav(waveform))
            if self.plot:
                sides = {"original": original, "resynthesis": spoken}
                plot_spectrograms(self.folder / name / f"{place}.png", sides, name_of_segment)


def save_vocoder(model: UnitHifiGanModel, folder: Path) -> None:
    """Save a vocoder, complete or not at all."""
    temporary = folder.with_name(f".{folder.name}.tmp")
    model.save_pretrained(temporary)
    sync_folder(temporary)
    shutil.rmtree(folder, ignore_errors=True)  # an interrupted run may have saved it after its last checkpoint
    temporary.rename(folder)


def write_log(folder: Path, history: list[dict], plot: bool) -> None:
    """Write `training_log.json` and, with `plot`, the curves."""
    write_json(folder / LOG, history)
    if plot:
        plot_log(folder, history)


def plot_finished(finished: Path, folder: Path) -> None:
    """Draw the curves and the samples of a training that has ended without plots.

    Args:
        finished: folder with `training_log.json` and `samples`.
        folder: gets the plots.
    """
    plot_log(folder, read_record(finished / LOG, [dict], "the plots need it; leave out --plot"))
    samples = finished / SAMPLES
    for file in sorted(samples.rglob("*.wav")):
        name, _, place = file.relative_to(samples).as_posix().partition("/")
        if name != ORIGINAL:
            sides = {"original": decode(samples / ORIGINAL / place), "resynthesis": decode(file)}
            drawn = (folder / SAMPLES / name / place).with_suffix(".png")
            drawn.parent.mkdir(parents=True, exist_ok=True)
            plot_spectrograms(drawn, sides, place.removesuffix(".wav"))


def plot_log(folder: Path, history: list[dict]) -> None:
    for file, (keys, unit) in CURVES.items():
        entries = [entry for entry in history if keys[0] in entry]
        if entries:
            curves = {key.replace("_", " "): [entry[key] for entry in entries] for key in keys}
            plot_curves(
                folder / file,
                curves,
                "epoch",
                unit,
                "Training of the unit vocoder",
                x=[entry["epoch"] for entry in entries],
            )
