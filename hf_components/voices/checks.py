"""What is wrong with sentences before a voice is learned from them: errors that are named, and warnings."""

from collections import defaultdict
from collections.abc import Sequence
from functools import cache

import numpy as np
from sklearn.cluster import AgglomerativeClustering
from sklearn.metrics import silhouette_score
from transformers import PreTrainedModel, WhisperFeatureExtractor, WhisperProcessor

from hf_components.metrics.whisper_wer.counting import normalize
from hf_components.runtime import UserError, first_few, visible
from hf_components.scoring import normalizer_of
from hf_components.speech import SAMPLING_RATE, has_words, log_mel
from hf_components.voices.batches import Batches
from hf_components.voices.placing import losses_of_texts
from hf_components.voices.sentences import Sentence

FEWEST = 2
FRAME = SAMPLING_RATE // 50
SILENT_DB = -50.0  # of the loudest 20 ms, against full scale
FULL_SCALE = 0.998  # of the loudest sample; clipped ones lie above it
CLIPPED_SHARE = 0.002  # of the samples; speech that is not clipped has a hundredth of it
# Two people in one folder. On 61 speakers, six sentences each, 75 % of the mixed folders and 5 % of the others exceed
# this silhouette, for distances of mean spectra, their spread and the pitch, each divided by its spread over people.
MIXED = 0.30
SPREADS = (0.148, 0.064, 0.41)  # of Whisper's log-mel bins (mean, standard deviation) and of octaves
PITCH_WEIGHT = 0.7
FEWEST_OF_TWO = 4  # sentences; two of each person at least
# Loss per token that the text of a recording seldom has, even of a voice that the model gets wrong; of a text of
# something else it is about 5.
WRONG_TEXT = 4.0
BETTER_TEXT = 1.0  # nats per token by which the text of another sentence fits better


def check_sentences(name: str, sentences: Sequence[Sentence]) -> list[str]:
    """Look at recordings and texts of one person.

    Returns:
        warnings, ready to print.
    Raises:
        UserError: there are too few sentences, one is silent, or one has no words.
    """
    if len(sentences) < FEWEST:
        raise UserError(
            f"the voice of {visible(name)} needs at least {FEWEST} sentences, because one is held out to see whether "
            f"the voice helps; got {len(sentences)}: record more, five or more are better"
        )
    if silent := [one.id for one in sentences if loudest_db(one.waveform) < SILENT_DB]:
        raise UserError(
            f"{visible(first_few(silent))} of {visible(name)} is silent: its loudest 20 ms lie below {SILENT_DB:.0f} "
            "dB of full scale; record it again, or leave it out"
        )
    if empty := [one.id for one in sentences if one.text is not None and not has_words(one.text)]:
        raise UserError(f"the text of {visible(first_few(empty))} has no words; write down what was said")
    warnings = []
    if clipped := [one.id for one in sentences if clipped_share(one.waveform) > CLIPPED_SHARE]:
        warnings.append(
            f"{first_few(clipped)} of {name} is clipped: the loudest samples are cut off; record it again with less "
            "gain, or further from the microphone"
        )
    if repeated := [ids for ids in same_sentences(sentences).values() if len(ids) > 1]:
        warnings.append(
            f"{first_few(repeated[0])} of {name} say the same sentence; they are held out together, and other "
            "sentences would teach more"
        )
    if (mixed := how_mixed(sentences)) > MIXED:
        warnings.append(
            f"the recordings of {name} fall into two groups that sound like two people (silhouette {mixed:.2f}, and "
            f"{MIXED:g} is rare for one person); a voice is for one person: listen, and give each their own folder"
        )
    return [visible(warning) for warning in warnings]


def check_texts(
    model: PreTrainedModel, processor: WhisperProcessor, name: str, sentences: Sequence[Sentence]
) -> list[str]:
    """Warnings of texts that do not match their recordings, by the loss of the model.

    A text is suspect if nearly every token surprises the model, or if the text of another sentence fits better.
    """
    losses = losses_of_texts(model, Batches(model, processor, sentences, seed=0))  # (recordings, texts)
    warnings = []
    for row, own in enumerate(losses.diagonal()):
        best = int(losses[row].argmin())
        other = sentences[best]
        if own - losses[row, best] > BETTER_TEXT and _said(other) != _said(sentences[row]):
            fits = f"that of {other.id} fits it better (loss {losses[row, best]:.1f}, not {own:.1f} nats per token)"
            warnings.append(f"the text of {sentences[row].id} of {name} does not match its recording: {fits}")
        elif own > WRONG_TEXT:
            warnings.append(
                f"the text of {sentences[row].id} of {name} hardly matches the recording: listen to it, and correct "
                f"the one or the other (the loss is {own:.1f} nats per token; above {WRONG_TEXT:g} is rare)"
            )
    return [visible(warning) for warning in warnings]


def same_sentences(sentences: Sequence[Sentence]) -> dict[str, list[str]]:
    """Ids of sentences by what they say; those without text by their own id."""
    found: dict[str, list[str]] = defaultdict(list)
    for one in sentences:
        found[_said(one) if one.text is not None else one.id].append(one.id)
    return dict(found)


def loudest_db(waveform: np.ndarray) -> float:
    """Level of the loudest 20 ms of `(samples,)`, dB of full scale."""
    frames = waveform[: len(waveform) // FRAME * FRAME].reshape(-1, FRAME)
    power = float((frames.astype(np.float64) ** 2).mean(1).max()) if len(frames) else 0.0
    return 10 * np.log10(max(power, 1e-12))


def clipped_share(waveform: np.ndarray) -> float:
    """Share of the samples `(samples,)` that lie in a run of three or more at the loudest level."""
    loudest = float(np.abs(waveform).max())
    if loudest == 0:
        return 0.0
    at_top = np.abs(waveform) >= FULL_SCALE * loudest
    same_side = np.sign(waveform[1:]) == np.sign(waveform[:-1])
    pairs = at_top[1:] & at_top[:-1] & same_side
    return float((pairs[1:] & pairs[:-1]).mean()) if len(pairs) > 1 else 0.0


def how_mixed(sentences: Sequence[Sentence]) -> float:
    """Silhouette of the best division of the recordings into two groups of two or more, 0 without one."""
    if len(sentences) < FEWEST_OF_TWO:
        return 0.0
    points = np.stack([sound_of(one.waveform) for one in sentences])
    groups = AgglomerativeClustering(2, linkage="ward").fit_predict(points)
    if min(np.bincount(groups)) < 2:
        return 0.0
    return float(silhouette_score(points, groups))


def sound_of(waveform: np.ndarray) -> np.ndarray:
    """Mean spectrum, its spread and the pitch of `(samples,)`, each divided by its spread over people."""
    mel = log_mel(_extractor(), [waveform[: 30 * SAMPLING_RATE]])[0].numpy()
    level = mel.mean(0)
    spoken = mel[:, level > np.quantile(level, 0.4)]
    if spoken.shape[1] == 0:
        spoken = mel
    mean = spoken.mean(1) - spoken.mean()
    sizes = np.sqrt(2 * len(mean))
    pitch = pitch_of(waveform)
    return np.concatenate(
        [mean / SPREADS[0] / sizes, spoken.std(1) / SPREADS[1] / sizes, [PITCH_WEIGHT * pitch / SPREADS[2]]]
    )


def pitch_of(waveform: np.ndarray) -> float:
    """Median pitch of the loud, voiced frames of `(samples,)`, octaves above 1 Hz; 150 Hz if none is voiced."""
    size = SAMPLING_RATE // 25
    if len(waveform) < 2 * size:
        return float(np.log2(150))
    frames = np.lib.stride_tricks.sliding_window_view(waveform - waveform.mean(), size)[:: size // 2] * np.hanning(
        size
    )
    energy = (frames**2).sum(1)
    frames = frames[energy > np.median(energy)]
    alike = np.fft.irfft(np.abs(np.fft.rfft(frames, 2048)) ** 2)
    shortest = SAMPLING_RATE // 400
    longest = SAMPLING_RATE // 60
    alike = alike[:, :longest] / (alike[:, :1] + 1e-9)
    periods = alike[:, shortest:].argmax(1) + shortest
    voiced = alike[:, shortest:].max(1) > 0.3 if len(alike) else np.zeros(0, bool)
    return float(np.median(np.log2(SAMPLING_RATE / periods[voiced]))) if voiced.sum() > 3 else float(np.log2(150))


def _said(sentence: Sentence) -> str:
    return normalize(sentence.text or "", normalizer_of(None))


@cache
def _extractor() -> WhisperFeatureExtractor:
    return WhisperFeatureExtractor(feature_size=80)
