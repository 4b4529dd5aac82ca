"""Speak segments from their units, measure each against its original, and write both to listen to."""

import zlib
from collections.abc import Sequence
from pathlib import Path

import datasets
import numpy as np
from accelerate import PartialState

from hf_components.asr import Transcriber
from hf_components.metrics.speech_resynthesis.cepstra import mel_cepstra, mel_cepstral_distortion
from hf_components.metrics.speech_resynthesis.figures import measure
from hf_components.reporting import plot_spectrograms
from hf_components.runtime import Progress, UserError, gathered, share_of
from hf_components.speech import encode_wav, seconds_batches, waveforms
from hf_components.unit_hifigan import UnitHifiGanModel
from hf_components.units.resynthesis.naturalness import Dnsmos
from hf_components.units.resynthesis.speaking import pitches_of, speak, voices_of
from hf_components.units.table import SECONDS_PER_UNIT, UnitTable

SIDES = ("original", "resynthesis")


def units_of(table: UnitTable, corpus: datasets.Dataset) -> list[list[int]]:
    """The units of each segment of a corpus, in its order.

    Raises:
        UserError: a segment has none.
    """
    units = dict(zip(table.rows["id"].to_pylist(), table.rows["units"].to_pylist(), strict=True))
    if missing := [name for name in corpus["id"] if not units.get(name)]:
        raise UserError(
            f"{len(missing)} of {len(corpus)} segments have no units, such as {missing[0]}; the units are of another "
            "corpus, or of an earlier state of it: run learn_units again"
        )
    return [units[name] for name in corpus["id"]]


def shuffled(units: Sequence[int], name: str, seed: int) -> list[int]:
    """The units of a segment in random order, which depends only on `seed` and its name."""
    return np.random.default_rng([seed, zlib.crc32(name.encode())]).permutation(units).tolist()


def resynthesise(
    vocoder: UnitHifiGanModel,
    corpus: datasets.Dataset,
    units: Sequence[Sequence[int]],
    folder: Path,
    *,
    others: Sequence[str] | None = None,
    seed: int,
    batch_seconds: float,
) -> list[dict]:
    """Speak segments from their units and from the same units shuffled, and measure both.

    Each process does its share, and all return all rows.

    Args:
        corpus: rows of the data contract, audio not decoded.
        units: units of each row.
        folder: gets `audio/orig_0000.wav`, `audio/synth_0000.wav` and `spectrograms/0000.png`, numbered as the rows.
        others: another voice for each row, see `other_voices`; its recording is `audio/other_0000.wav`.
        seed: seed of the shuffling.
        batch_seconds: seconds of speech that are spoken at once, with padding.
    Returns:
        a row per segment, in order: `id`, `speaker_id`, `duration`, `text`, the three files, the figures of the metric
        `speech_resynthesis`, `mcd_shuffled_units`, `dnsmos` and `dnsmos_original`, and `units`; with `others`
        also `other_voice` and `in_other_voice`, the speaker and the file.
    Raises:
        UserError: a segment or its resynthesis cannot be measured, or the vocoder has no voice for its speaker.
    """
    state = PartialState()
    dnsmos = Dnsmos()
    rows = []
    for name in ("audio", "spectrograms"):
        (folder / name).mkdir(exist_ok=True)
    batches = seconds_batches([len(sequence) * SECONDS_PER_UNIT for sequence in units], batch_seconds)
    for batch in Progress(share_of(batches), desc="resynthesising", unit="batch", disable=not state.is_main_process):
        segments = [corpus[i] for i in batch]
        originals = waveforms(segments)
        voices = voices_of(vocoder, [row["speaker_id"] for row in segments])
        sequences = [units[i] for i in batch]
        pitches = pitches_of(vocoder, originals, sequences)
        spoken = speak(vocoder, sequences, voices, pitches)
        shuffles = [shuffled(units[i], row["id"], seed) for i, row in zip(batch, segments, strict=True)]
        controls = speak(vocoder, shuffles, voices, pitches)
        in_other_voices = {}
        if others:
            converted = speak(vocoder, sequences, voices_of(vocoder, [others[i] for i in batch]), pitches)
            in_other_voices = {
                i: write_other(folder, i, others[i], waveform) for i, waveform in zip(batch, converted, strict=True)
            }
        for i, row, original, resynthesis, control in zip(batch, segments, originals, spoken, controls, strict=True):
            rows.append(
                {
                    "index": i,
                    **{key: row[key] for key in ("id", "speaker_id", "duration", "text")},
                    **measure_segment(row["id"], original, resynthesis, control),
                    "dnsmos": dnsmos(resynthesis),
                    "dnsmos_original": dnsmos(original),
                    **write_pair(folder, i, original, resynthesis),
                    **in_other_voices.get(i, {}),
                    "units": list(units[i]),
                }
            )
    return sorted(gathered(rows), key=lambda row: row["index"])


def measure_segment(
    name: str, original: np.ndarray, resynthesis: np.ndarray, control: np.ndarray
) -> dict[str, float | None]:
    """The figures of one segment. Raises `UserError` if a waveform cannot be measured."""
    try:
        figures = measure(prediction=resynthesis, reference=original)
    except ValueError as error:
        raise UserError(
            f"segment {name} cannot be measured: {error} (the vocoder makes the prediction, the reference is recorded)"
        ) from error
    return {**figures, "mcd_shuffled_units": mel_cepstral_distortion(mel_cepstra(control), mel_cepstra(original))[0]}


def write_pair(folder: Path, index: int, original: np.ndarray, resynthesis: np.ndarray) -> dict[str, str]:
    """Write both sides as 16-bit WAV and their spectrograms as one PNG; returns their paths within the folder."""
    files = {
        "original": f"audio/orig_{index:04d}.wav",
        "resynthesis": f"audio/synth_{index:04d}.wav",
        "spectrogram": f"spectrograms/{index:04d}.png",
    }
    (folder / files["original"]).write_bytes(encode_wav(original))
    (folder / files["resynthesis"]).write_bytes(encode_wav(resynthesis))
    plot_spectrograms(folder / files["spectrogram"], {"original": original, "resynthesis": resynthesis})
    return files


def write_other(folder: Path, index: int, voice: str, waveform: np.ndarray) -> dict[str, str]:
    """Write a segment in another voice as 16-bit WAV; returns the speaker and the path within the folder."""
    file = f"audio/other_{index:04d}.wav"
    (folder / file).write_bytes(encode_wav(waveform))
    return {"other_voice": voice, "in_other_voice": file}


def hear(rows: list[dict], transcriber: Transcriber, folder: Path) -> None:
    """Add a recogniser's transcripts of both files to each row: `heard_original` and `heard_resynthesis`."""
    heard = iter(transcriber.transcribe_files([folder / row[side] for side in SIDES for row in rows]))
    for side in SIDES:
        for row in rows:
            row[f"heard_{side}"] = next(heard).text
