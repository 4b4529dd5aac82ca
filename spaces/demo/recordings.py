"""Recordings as input of the models, and their spectrograms."""

import numpy as np
import soundfile
import soxr
from matplotlib import mlab
from matplotlib.figure import Figure

SAMPLING_RATE = 16_000
LONGEST = 30  # seconds; the window of Whisper
DYNAMIC_RANGE = 70  # dB below the loudest bin at which a spectrogram is black


def read_recording(file: str | None) -> tuple[np.ndarray, str]:
    """Read the first 30 s of a recording, mixed down and resampled.

    Returns:
        float32 waveform (samples,) at 16 kHz, and a remark if something was left out, else "".
    Raises:
        ValueError: no file is given, or it cannot be read.
    """
    if file is None:
        raise ValueError("Record something or choose a file first.")
    try:
        with soundfile.SoundFile(file) as sound:
            rate = sound.samplerate
            seconds = sound.frames / sound.samplerate
            channels = sound.read(LONGEST * rate, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise ValueError(
            f"The file cannot be read as audio ({error.error_string.rstrip('.')}). Use WAV, FLAC, MP3 or OGG."
        ) from error
    waveform = soxr.resample(channels.mean(axis=1), rate, SAMPLING_RATE)
    if len(waveform) < SAMPLING_RATE // 10:
        raise ValueError(f"The recording lasts {seconds:.2f} s, which is too short; record at least 0.1 s.")
    if not np.isfinite(waveform).all():
        raise ValueError("The recording has samples that are no numbers; export it again.")
    return (
        waveform,
        f"The recording lasts {seconds:.0f} s; its first {LONGEST} s were used." if seconds > LONGEST else "",
    )


def spectrograms(waveforms: dict[str, np.ndarray]) -> Figure:
    """Spectrograms below each other, with the same scales of time and loudness.

    Args:
        waveforms: waveforms by title, (samples,) at 16 kHz, at least 400 samples each.
    """
    figure = Figure(figsize=(8, 2.4 * len(waveforms)), layout="constrained")
    rows = figure.subplots(len(waveforms), sharex=True, squeeze=False)[:, 0]
    levels = {
        title: 10 * np.log10(mlab.specgram(waveform, NFFT=400, noverlap=240, Fs=SAMPLING_RATE)[0] + 1e-20)
        for title, waveform in waveforms.items()
    }  # (bins, frames) each
    loudest = max(level.max() for level in levels.values())
    for axes, (title, level) in zip(rows, levels.items(), strict=True):
        extent = (0, len(waveforms[title]) / SAMPLING_RATE, 0, SAMPLING_RATE / 2000)
        axes.imshow(
            level,
            origin="lower",
            aspect="auto",
            extent=extent,
            cmap="magma",
            vmin=loudest - DYNAMIC_RANGE,
            vmax=loudest,
        )
        axes.set(ylabel="kHz", title=title)
    rows[-1].set(xlabel="seconds", xlim=(0, max(map(len, waveforms.values())) / SAMPLING_RATE))
    return figure
