"""How close resynthesised speech is to its original: SNR, mel-cepstral distortion, length, pitch, voicing, bitrate."""

from collections.abc import Sequence

import evaluate
import numpy as np
from datasets import Features, List, Value

# evaluate copies only the siblings that this file imports, so it must name all of the folder.
from .cepstra import SAMPLING_RATE
from .figures import FIGURES, bitrate, mean_and_interval, measure
from .pitch import CEILING, FLOOR

_DESCRIPTION = f"""
Resynthesised speech against its original: SNR and scale-invariant SDR over samples, mel-cepstral distortion over
frames aligned by dynamic time warping, ratio of lengths, error of log F0 and of voicing (Praat, {FLOOR:g} to
{CEILING:g} Hz), and the bitrate of its units. Means over pairs, with bootstrap intervals.
"""

_INPUTS = f"""
Args:
    predictions (list of list of float): resynthesised waveforms, mono, {SAMPLING_RATE} Hz.
    references (list of list of float): the originals, in the same order.
    units (list of list of int, optional): the units that each prediction was made from.
    num_bootstrap (int): resamples over pairs for the intervals; 0 leaves them out.
    confidence (float): coverage of the intervals.
    seed (int): seed of the resampling.
Returns:
    snr, si_sdr, mcd (dB), length_ratio, log_f0_rmse (nepers), voicing_error (share): means over the pairs that have
        them;
    bitrate (bits per second), None without `units`;
    <figure>_interval ([low, high]) of each mean, None below two values;
    pairs (int), segments (list of the figures of each pair).
Examples:
    >>> speech_resynthesis = evaluate.load("hf_components/metrics/speech_resynthesis")
    >>> result = speech_resynthesis.compute(predictions=[resynthesis], references=[original])
    >>> result["length_ratio"]
    1.0
"""

_CITATION = """
@inproceedings{kubichek1993mel,
  title = {Mel-Cepstral Distance Measure for Objective Speech Quality Assessment},
  author = {Kubichek, Robert F.},
  booktitle = {IEEE Pacific Rim Conference on Communications, Computers and Signal Processing},
  year = {1993}
}
"""


class SpeechResynthesis(evaluate.Metric):
    """`evaluate.load("<path>/speech_resynthesis")`; arguments and results are described in `inputs_description`."""

    def _info(self) -> evaluate.MetricInfo:
        waveform = List(Value("float32"))
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=Features({"predictions": waveform, "references": waveform}),
            reference_urls=["https://www.fon.hum.uva.nl/praat/", "https://zerospeech.com"],
        )

    def _compute(
        self,
        predictions: Sequence[Sequence[float]],
        references: Sequence[Sequence[float]],
        units: Sequence[Sequence[int]] | None = None,
        num_bootstrap: int = 1000,
        confidence: float = 0.95,
        seed: int = 0,
    ) -> dict:
        if not len(predictions):
            raise ValueError("there are no waveforms to measure")
        if units is not None and len(units) != len(predictions):
            raise ValueError(f"units must give one sequence per prediction, got {len(units)} for {len(predictions)}")
        segments = [_judge(i, *pair) for i, pair in enumerate(zip(predictions, references, strict=True))]
        means = {
            name: mean_and_interval([row[name] for row in segments], num_bootstrap, confidence, seed)
            for name in FIGURES
        }
        seconds = sum(map(len, references)) / SAMPLING_RATE
        return {
            **{name: mean for name, (mean, _) in means.items()},
            **{f"{name}_interval": interval for name, (_, interval) in means.items()},
            "bitrate": None if units is None else bitrate(units, seconds),
            "pairs": len(segments),
            "segments": segments,
        }


def _judge(index: int, prediction: Sequence[float], reference: Sequence[float]) -> dict[str, float | None]:
    try:
        return measure(np.asarray(prediction), np.asarray(reference))
    except ValueError as error:
        raise ValueError(f"pair {index}: {error}") from error
