"""Score transcripts with the `whisper_wer` metric, and compare two systems."""

import tempfile
from collections.abc import Iterable, Sequence

import numpy as np

from hf_components.metrics.whisper_wer import counting
from hf_components.metrics.whisper_wer.bootstrap import paired_bootstrap
from hf_components.metrics.whisper_wer.whisper_wer import WhisperWer
from hf_components.runtime import PHONETIC
from hf_components.speech import WORDS, language_code

NORMALIZERS = {"en": "english", "tr": "turkic", "az": "turkic", "crh": "turkic"}


def normalizer_of(language: str | None, target: str = WORDS) -> str:
    """Name of the normaliser that is applied before scoring.

    Args:
        language: decides for words, see `language_code`; None means English.
        target: what the texts are, words or IPA; IPA must be spelled as by `normalize_ipa` already.

    Raises:
        UserError: the language is none.
    """
    return "none" if target == PHONETIC else NORMALIZERS.get(language_code(language or "en"), "unicode")


def score(
    predictions: Iterable[str],
    references: Iterable[str | Sequence[str]],
    groups: Iterable[str] | None = None,
    speakers: Iterable[str] | None = None,
    *,
    language: str | None = None,
    target: str = WORDS,
    **options,
) -> dict:
    """Corpus WER and CER with error types, per group, with a bootstrap interval over speakers.

    Args:
        predictions, references, groups, speakers: one item per utterance, such as columns of a `Dataset`.
        language, target: see `normalizer_of`.
        options: `num_bootstrap`, `confidence`, `seed` of `hf_components/metrics/whisper_wer`.
    Returns:
        the metric's result (see its README) and `normalizer`, ready for JSON.
    Raises:
        ValueError: there are no utterances, or the inputs have different lengths.
    """
    normalizer = normalizer_of(language, target)
    # In memory, because one process locks the metric's usual cache file, and evaluations may run in parallel. The
    # cache is not used then, but its folder is made, also where it cannot be.
    with tempfile.TemporaryDirectory(prefix="metric") as cache:
        found = WhisperWer(keep_in_memory=True, cache_dir=cache).compute(
            predictions=list(predictions),
            references=list(references),
            groups=groups,
            speakers=speakers,
            normalizer=normalizer,
            **options,
        )
    return {**found, "normalizer": normalizer}


def word_error_rate(
    predictions: Iterable[str], references: Iterable[str | Sequence[str]], language: str | None = None
) -> float:
    """Corpus WER alone, see `score`."""
    return score(predictions, references, num_bootstrap=0, language=language)["wer"]


def utterance_errors(
    predictions: Iterable[str],
    references: Iterable[str | Sequence[str]],
    language: str | None = None,
    target: str = WORDS,
) -> dict[str, np.ndarray]:
    """Errors of every utterance after the normaliser, see `normalizer_of` and `counting.utterance_errors`."""
    return counting.utterance_errors(predictions, references, normalizer_of(language, target))


def compare(
    predictions_a: Iterable[str],
    predictions_b: Iterable[str],
    references: Iterable[str | Sequence[str]],
    speakers: Iterable[str] | None = None,
    *,
    language: str | None = None,
    **options,
) -> dict:
    """Difference in WER of system b against system a on the same utterances, with a paired bootstrap interval.

    Args:
        speakers: speaker of each utterance; speakers are resampled, or utterances if None.
        language: language code of the texts, see `normalizer_of`.
        options: `num_bootstrap`, `confidence`, `seed` of `paired_bootstrap`.
    Returns:
        `wer_a`, `wer_b`, `difference` (b - a: negative if b is better), `interval`, `utterances`, `units`.
    """
    references = list(references)
    return paired_bootstrap(
        utterance_errors(predictions_a, references, language),
        utterance_errors(predictions_b, references, language),
        None if speakers is None else list(speakers),
        **options,
    )
