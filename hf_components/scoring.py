"""Score transcripts: the `whisper_wer` metric for recipes, and paired comparisons of two systems."""

from collections.abc import Iterable, Sequence

from hf_components.metrics.whisper_wer.bootstrap import paired_bootstrap
from hf_components.metrics.whisper_wer.counting import utterance_errors
from hf_components.metrics.whisper_wer.whisper_wer import WhisperWer


def score(predictions: Iterable[str], references: Iterable[str | Sequence[str]],
          groups: Iterable[str] | None = None, speakers: Iterable[str] | None = None, **options) -> dict:
    """Corpus WER and CER with error types, per group, with a bootstrap interval over speakers.

    Args:
        predictions, references, groups, speakers: one per utterance; columns of a `Dataset` will do.
        options: `normalizer`, `num_bootstrap`, `confidence`, `seed` of `hf_components/metrics/whisper_wer`.
    Returns:
        the metric's result (see its README), ready for JSON.
    Raises:
        ValueError: no utterances, or inputs of different lengths.
    """
    # In memory: the metric's usual cache file is locked by one process, and evaluations may run side by side.
    metric = WhisperWer(keep_in_memory=True)
    return metric.compute(predictions=list(predictions), references=list(references), groups=groups,
                          speakers=speakers, **options)


def compare(predictions_a: Iterable[str], predictions_b: Iterable[str], references: Iterable[str | Sequence[str]],
            speakers: Iterable[str] | None = None, normalizer: str = "english", **options) -> dict:
    """Difference in WER of system b against system a on the same utterances, with a paired bootstrap interval.

    Args:
        speakers: speaker per utterance, which are resampled; the utterances if None.
        options: `num_bootstrap`, `confidence`, `seed` of `paired_bootstrap`.
    Returns:
        `wer_a`, `wer_b`, `difference` (b - a: negative if b is better), `interval`, `utterances`, `units`.
    """
    references = list(references)
    return paired_bootstrap(utterance_errors(predictions_a, references, normalizer),
                            utterance_errors(predictions_b, references, normalizer),
                            None if speakers is None else list(speakers), **options)
