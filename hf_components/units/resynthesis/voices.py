"""Whose voice is heard: of a resynthesis, and of the same units spoken in the voice of another speaker."""

import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import datasets
import numpy as np

from hf_components.speech import decode, known_speakers, sample_rows, waveforms
from hf_components.units.resynthesis.speaker_encoder import SpeakerEncoder

REFERENCES = 10  # most real segments that a speaker is known by
OWN_VOICE = "voice_similarity"
OTHER_VOICE = (
    "voice_similarity_target",
    "voice_similarity_source",
    "voice_on_target_side",
    "voice_same_speaker",
    "voice_other_speaker",
)

Embeddings = Mapping[str, np.ndarray]  # by segment: (256,), of length 1


def other_voices(
    voices: Sequence[str], corpus: datasets.Dataset, sample: datasets.Dataset, seed: int
) -> list[str] | None:
    """A voice for each segment of a sample that is not its own, drawn at random by the seed and its name.

    Args:
        voices: speakers of the vocoder.
        corpus: real segments to compare with, of all splits.
        sample: segments that are spoken.
    Returns:
        names of speakers; None if there are not two known voices with real segments.
    """
    candidates = sorted(known_speakers(corpus.unique("speaker_id")) & set(voices))
    if len(candidates) < 2:
        return None
    chosen = []
    for name, speaker in zip(sample["id"], sample["speaker_id"], strict=True):
        others = [candidate for candidate in candidates if candidate != speaker]
        chosen.append(others[np.random.default_rng([seed, zlib.crc32(name.encode())]).integers(len(others))])
    return chosen


def compare_voices(rows: list[dict], corpus: datasets.Dataset, folder: Path, seed: int) -> None:
    """Add to each row of `resynthesise` how near voices are: cosines of the embeddings of `SpeakerEncoder`.

    `voice_similarity` compares resynthesis and original. Where the segment was also spoken in another voice, that
    recording is compared with the mean of real segments of its target and of its source, the original itself left out:
    `voice_similarity_target`, `voice_similarity_source`, and `voice_on_target_side` (1 if the target is nearer, else
    0). `voice_same_speaker` and `voice_other_speaker` are what the original has with the same
    segments. All are None without the encoder.

    Args:
        corpus: real segments, of all splits.
        folder: folder of the files that the rows name.
        seed: seed of the choice of real segments.
    """
    encoder = SpeakerEncoder()
    if encoder.missing:
        for row in rows:
            row |= dict.fromkeys((OWN_VOICE, *(OTHER_VOICE if "other_voice" in row else ())))
        return
    speakers = {row[key] for row in rows if "other_voice" in row for key in ("speaker_id", "other_voice")}
    real = {speaker: embed_speaker(encoder, corpus, speaker, seed) for speaker in sorted(speakers)}
    for row in rows:
        original = encoder(decode(folder / row["original"]))
        row[OWN_VOICE] = nearness(encoder(decode(folder / row["resynthesis"])), {"original": original})
        if "other_voice" in row:
            row |= sides_of(
                encoder(decode(folder / row["in_other_voice"])),
                original,
                real[row["other_voice"]],
                {name: one for name, one in real[row["speaker_id"]].items() if name != row["id"]},
            )


def sides_of(spoken: np.ndarray, original: np.ndarray, target: Embeddings, source: Embeddings) -> dict:
    """The figures `OTHER_VOICE` of speech in another voice.

    Args:
        spoken, original: embeddings of it, and of the recording of its units.
        target, source: those of real segments of both speakers.
    """
    to_target = nearness(spoken, target)
    to_source = nearness(spoken, source)
    side = None if to_target is None or to_source is None else float(to_target > to_source)
    figures = (to_target, to_source, side, nearness(original, source), nearness(original, target))
    return dict(zip(OTHER_VOICE, figures, strict=True))


def nearness(embedding: np.ndarray | None, references: Embeddings) -> float | None:
    """Cosine of an embedding and the mean of others; None if one of them is missing."""
    known = [reference for reference in references.values() if reference is not None]
    if embedding is None or not known:
        return None
    mean = np.mean(known, axis=0)
    return float(embedding @ mean / np.linalg.norm(mean))


def embed_speaker(encoder: SpeakerEncoder, corpus: datasets.Dataset, speaker: str, seed: int) -> Embeddings:
    """Embeddings of at most `REFERENCES` real segments of a speaker, drawn at random by the seed."""
    own = corpus.select([i for i, name in enumerate(corpus["speaker_id"]) if name == speaker])
    chosen = sample_rows(own, REFERENCES, seed)
    return {row["id"]: encoder(waveform) for row, waveform in zip(chosen, waveforms(chosen), strict=True)}
