"""The figures of all segments together, the good range for each, and their table."""

from collections.abc import Sequence
from itertools import groupby

from rich.table import Table

from hf_components.metrics.speech_resynthesis.figures import FIGURES, bitrate, mean_and_interval
from hf_components.scoring import score
from hf_components.speech import count_speakers, say_speakers
from hf_components.units.resynthesis.naturalness import Dnsmos
from hf_components.units.resynthesis.speaker_encoder import SpeakerEncoder
from hf_components.units.resynthesis.voices import OTHER_VOICE, OWN_VOICE

RATES = ("cer", "wer")
DECIMALS = {"dB": 1, "bit/s": 0}  # 3 for other units

# Unit, lowest and highest value of the good range, and the source of that range.
GOOD = {
    "mcd": (
        "dB",
        None,
        6.0,
        "mel-cepstral distortion: how different the spectra are. Measured on one narrator: each frame replaced by the "
        "mean spectrum of its unit (one of 100) 4.3, another sentence of the same voice 7.3, those units shuffled "
        "7.6, noise 10.2",
    ),
    "mcd_shuffled_units": (
        "dB",
        None,
        None,
        "the control: the same units in random order, spoken by the same vocoder",
    ),
    "mcd_to_shuffled": ("", None, 0.85, "mcd / mcd_shuffled_units; 1 if the order of the units meant nothing"),
    "dnsmos": ("", None, None, "predicted rating by listeners, 1 to 5, without a reference (DNSMOS P.835, overall)"),
    "dnsmos_original": ("", None, None, "the same rating of the original recordings"),
    OWN_VOICE: ("", None, None, "cosine of the speaker embeddings of resynthesis and original (GE2E, Resemblyzer)"),
    "snr": (
        "dB",
        5.0,
        None,
        "signal-to-noise ratio, usual for waveform coders. A vocoder chooses its phase freely: perfect speech in "
        "another phase has -3 dB, silence 0, so a good vocoder does not reach it",
    ),
    "si_sdr": ("dB", None, None, "snr after the best gain; it also depends on the phase"),
    "length_ratio": (
        "",
        0.98,
        1.02,
        "length of the speech from units / length of the original; at most the last 25 ms have no unit",
    ),
    "log_f0_rmse": (
        "ln Hz",
        None,
        0.3,
        "error of the logarithm of the pitch; a rule of thumb, five semitones, since units carry little pitch",
    ),
    "voicing_error": (
        "",
        None,
        0.2,
        "share of frames that are voiced in one of the two only; a rule of thumb, one frame of five",
    ),
    "bitrate": (
        "bit/s",
        None,
        365.0,
        "bits that the units take; the codec of units, pitch and speaker of Polyak et al. 2021 (arXiv 2104.00355)",
    ),
    "bitrate_deduplicated": ("bit/s", None, None, "the same without repeated units, so without durations"),
}

# The same of segments that were also spoken in the voice of another speaker, the target.
GOOD_OTHER_VOICE = dict(
    zip(
        OTHER_VOICE,
        (
            ("", None, None, "units spoken in another voice, compared with real segments of that voice"),
            ("", None, None, "the same, compared with real segments of the speaker whose units they are"),
            ("", None, None, "share of these segments that are nearer to the other voice; 0 if the voice stays"),
            ("", None, None, "the original, compared with other real segments of its speaker: the best to expect"),
            ("", None, None, "the original, compared with real segments of the other voice: how like both voices are"),
        ),
        strict=True,
    )
)


def summarise(rows: list[dict], num_bootstrap: int, seed: int, language: str | None = None) -> dict:
    """The figures of all segments, computed from the rows of `resynthesise` (and `hear`) alone.

    The recogniser is scored against the texts of the corpus. If not all segments have a text, the reference is its
    transcript of the originals.

    Args:
        rows: rows of `resynthesise`.
        num_bootstrap: resamples for each interval.
        seed: seed of the resampling.
        language: language code of the recogniser's transcripts.
    Returns:
        the figures and `<figure>_interval` (bootstrap over segments); `cer`, `wer`, `cer_original`, `wer_original` of
        the recogniser; `missing` (why a figure is None, or of fewer segments); `good` (unit, range, source of the
        range, and whether it is `reached`, of each figure); `sample` (size of the evaluation; `speakers` is None if
        nobody is known).
    """
    of_voices = (OWN_VOICE, *(OTHER_VOICE if "other_voice" in rows[0] else ()))
    means = {
        name: mean_and_interval([row[name] for row in rows], num_bootstrap, seed=seed)
        for name in (*FIGURES, "mcd_shuffled_units", "dnsmos", "dnsmos_original", *of_voices)
    }
    figures = {name: mean for name, (mean, _) in means.items()}
    figures |= {f"{name}_interval": interval for name, (_, interval) in means.items()}
    figures["mcd_to_shuffled"] = figures["mcd"] / figures["mcd_shuffled_units"]
    seconds = sum(row["duration"] for row in rows)
    figures["bitrate"] = bitrate([row["units"] for row in rows], seconds)
    figures["bitrate_deduplicated"] = bitrate([[unit for unit, _ in groupby(row["units"])] for row in rows], seconds)
    rates, missing = recognition(rows, num_bootstrap, seed, language)
    figures |= rates
    if unvoiced := sum(row["log_f0_rmse"] is None for row in rows):
        missing["log_f0_rmse"] = f"{unvoiced} of {len(rows)} segments have no frame that is voiced on both sides"
    if any(row["dnsmos"] is None for row in rows):
        missing |= dict.fromkeys(("dnsmos", "dnsmos_original"), Dnsmos().missing or "a segment is silent")
    missing |= missing_voices(rows, of_voices)
    ranges = {**GOOD, **(GOOD_OTHER_VOICE if "other_voice" in rows[0] else {}), **good_error_rates(rates)}
    return {
        **figures,
        "missing": missing,
        "good": {name: _in_range(figures[name], *expected) for name, expected in ranges.items()},
        "sample": {
            "segments": len(rows),
            "speakers": count_speakers(row["speaker_id"] for row in rows),
            "voices": say_speakers(row["speaker_id"] for row in rows),
            "seconds": seconds,
            "frames": sum(len(row["units"]) for row in rows),
            "num_bootstrap": num_bootstrap,
            "seed": seed,
        },
    }


def _in_range(value: float | None, unit: str, low: float | None, high: float | None, source: str) -> dict:
    return {"unit": unit, "low": low, "high": high, "reached": reached(value, low, high), "source": source}


def missing_voices(rows: list[dict], figures: Sequence[str]) -> dict[str, str]:
    """Why figures of voices are None, or of fewer segments."""
    lacking = {name: sum(row[name] is None for row in rows) for name in figures}
    if lacking[OWN_VOICE] == len(rows) and (why := SpeakerEncoder().missing):
        return dict.fromkeys(figures, why)
    return {
        name: f"{count} of {len(rows)} segments are silent, or their speakers have no other real segment"
        for name, count in lacking.items()
        if count
    }


def recognition(rows: list[dict], num_bootstrap: int, seed: int, language: str | None) -> tuple[dict, dict[str, str]]:
    """Error rates of the recogniser on the resynthesis and on the original, and why some are None."""
    names = [f"{rate}{side}" for rate in RATES for side in ("", "_original")]
    rates = dict.fromkeys([*names, *(f"{name}_interval" for name in names)])
    if "heard_original" not in rows[0]:
        return rates, dict.fromkeys(names, "no recogniser was given")
    with_text = all(row["text"] for row in rows)
    references = [row["text" if with_text else "heard_original"] for row in rows]
    for side, heard in (("", "heard_resynthesis"), *([("_original", "heard_original")] if with_text else [])):
        scored = score(
            [row[heard] for row in rows], references, num_bootstrap=num_bootstrap, seed=seed, language=language
        )
        rates |= {f"{rate}{side}{part}": scored[f"{rate}{part}"] for rate in RATES for part in ("", "_interval")}
    why = "not all segments have a text: the reference is the recogniser's transcript of the originals"
    return rates, {} if with_text else {f"{rate}_original": why for rate in RATES}


def good_error_rates(rates: dict) -> dict[str, tuple]:
    """The good ranges of the recogniser's error rates, which depend on its error rates on the originals."""
    ranges = {}
    for rate in RATES:
        of_original = rates[f"{rate}_original"]
        ranges[rate] = (
            "",
            None,
            0.1 + (of_original or 0),
            "a recogniser's errors on the speech from units; a rule of thumb, 0.1 "
            + ("against its transcript of the originals" if of_original is None else f"more than {rate}_original"),
        )
        ranges[f"{rate}_original"] = ("", None, None, "the recogniser on the originals: the best possible value")
    return ranges


def reached(value: float | None, low: float | None, high: float | None) -> bool | None:
    """Whether a figure lies in its range; None without a figure or without a range."""
    if value is None or (low is None and high is None):
        return None
    return (low is None or value >= low) and (high is None or value <= high)


def figure_rows(results: dict) -> list[dict[str, str]]:
    """Each figure as text: `name`, `value`, `interval`, `good`, `reached` and `source`."""
    return [
        {
            "name": name,
            "value": shown(results[name], good["unit"]),
            "good": shown_range(good),
            "interval": shown_interval(results.get(f"{name}_interval"), good["unit"]),
            "reached": {True: "yes", False: "no", None: ""}[good["reached"]],
            "source": results["missing"].get(name, good["source"]),
        }
        for name, good in results["good"].items()
    ]


def shown(value: float | None, unit: str = "") -> str:
    """A figure with its unit, and with the decimals that are useful in that unit."""
    return "-" if value is None else f"{value:z.{DECIMALS.get(unit, 3)}f} {unit}".rstrip()


def shown_interval(bounds: list[float] | None, unit: str) -> str:
    return "-" if bounds is None else " to ".join(shown(bound, unit).removesuffix(f" {unit}") for bound in bounds)


def shown_range(good: dict) -> str:
    low = good["low"]
    high = good["high"]
    if low is not None and high is not None:
        return f"{low:.3g} to {high:.3g}"
    return "-" if low is None and high is None else f"<= {high:.3g}" if low is None else f">= {low:.3g}"


def table(results: dict) -> Table:
    """One line per figure: value, interval, and good range."""
    sample = results["sample"]
    lines = Table(
        title=f"Resynthesis of {sample['segments']} segments ({sample['seconds']:.0f} s) from their units",
        caption="95 % bootstrap over segments; results.json names the source of each range",
    )
    for heading in ("figure", "value", "interval", "good range", "reached"):
        lines.add_column(heading, justify="left" if heading == "figure" else "right", no_wrap=True)
    for row in figure_rows(results):
        lines.add_row(row["name"], row["value"], row["interval"], row["good"], row["reached"])
    return lines
