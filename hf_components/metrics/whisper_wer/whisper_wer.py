"""Word and character error rate after Whisper's `EnglishTextNormalizer`, per group, with bootstrap intervals."""

from collections.abc import Sequence

import evaluate
import numpy as np
from datasets import Features, List, Value

# evaluate copies only the siblings that this file imports, so it must name all of the folder.
from .bootstrap import error_rate, intervals, sum_by_unit
from .counting import utterance_errors

_DESCRIPTION = """
Corpus word error rate: total errors / total reference words, after Whisper's EnglishTextNormalizer on both sides. Also
character error rate, error types, rates with clipped errors, and bootstrap intervals over speakers; all per group.
"""

_INPUTS = """
Args:
    predictions (list of str): text of the system, one per utterance.
    references (list of str or of lists of str): correct text; of several texts the one with the fewest errors counts.
    groups (list of str, optional): a label per utterance; `per_group` has the same figures for each label.
    speakers (list of str, optional): speaker per utterance; intervals and `wer_speaker_mean` are over speakers.
    normalizer (str): "english" or "basic" (Whisper's EnglishTextNormalizer or BasicTextNormalizer), "unicode" (lower
        case, no punctuation; for other languages), "turkic" (the same with dotted and dotless i, for Turkish and
        Azerbaijani) or "none" (text that is already normalised).
    num_bootstrap (int): resamples for the intervals; 0 leaves them out.
    confidence (float): coverage of the intervals.
    seed (int): seed of the resampling.
Returns:
    wer, cer, wer_clipped, cer_clipped, wer_speaker_mean (float);
    substitutions, deletions, insertions, hits, reference_words, reference_characters, utterances, speakers (int);
    wer_interval, cer_interval, wer_clipped_interval, cer_clipped_interval ([low, high]);
    per_group ({group: the same figures}).
    wer_speaker_mean and speakers are None without `speakers`. Intervals are None below two speakers, or below two
    utterances without `speakers`.
Examples:
    >>> whisper_wer = evaluate.load("hf_components/metrics/whisper_wer")
    >>> result = whisper_wer.compute(predictions=["Mr. Brown won't go."], references=["mister brown will not come"])
    >>> result["wer"]
    0.2
"""

_CITATION = """
@inproceedings{radford2023robust,
  title = {Robust Speech Recognition via Large-Scale Weak Supervision},
  author = {Radford, Alec and Kim, Jong Wook and Xu, Tao and Brockman, Greg and McLeavey, Christine and
            Sutskever, Ilya},
  booktitle = {International Conference on Machine Learning},
  year = {2023}
}
"""


class WhisperWer(evaluate.Metric):
    """`evaluate.load("<path>/whisper_wer")`; arguments and results are described in `inputs_description`."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=Features({"predictions": Value("string"), "references": List(Value("string"))}),
            reference_urls=["https://github.com/openai/whisper", "https://github.com/jitsi/jiwer"],
        )

    def add(
        self,
        *,
        prediction: str | None = None,
        reference: str | Sequence[str] | None = None,
        group: str | None = None,
        speaker: str | None = None,
    ) -> None:
        """Add one utterance; `reference` is a text or a list of alternative texts."""
        super().add(prediction=prediction, reference=_alternatives(reference))
        self._keep_labels(1, [group], [speaker])

    def add_batch(
        self,
        *,
        predictions: Sequence[str] | None = None,
        references: Sequence[str | Sequence[str]] | None = None,
        groups: Sequence[str] | None = None,
        speakers: Sequence[str] | None = None,
    ) -> None:
        """Add several utterances; each reference is a text or a list of alternative texts.

        Labels go here or to `compute`. In a distributed evaluation they go to `compute`, for all processes at once.
        """
        # With both forms as alternative features, evaluate would decide by the first utterance, and write later lists
        # as strings "['a', 'b']".
        references = references if references is None else [_alternatives(reference) for reference in references]
        count = 0 if predictions is None else len(predictions)
        for name, labels in (("groups", groups), ("speakers", speakers)):
            _labels(name, labels, count)
        super().add_batch(predictions=predictions, references=references)
        self._keep_labels(count, groups, speakers)

    def _keep_labels(self, count: int, groups: Sequence[str] | None, speakers: Sequence[str] | None) -> None:
        kept = self.__dict__.setdefault("_added", {"groups": [], "speakers": []})
        for name, labels in (("groups", groups), ("speakers", speakers)):
            kept[name] += [None] * count if labels is None else list(labels)

    def _added_labels(self, name: str) -> list[str] | None:
        labels = self.__dict__.get("_added", {}).get(name, [])
        if None in labels and any(label is not None for label in labels):
            raise ValueError(f"{name} must be given with every added utterance or with none")
        return labels if any(label is not None for label in labels) else None

    def _compute(
        self,
        predictions: Sequence[str],
        references: Sequence[str | Sequence[str]],
        groups: Sequence[str] | None = None,
        speakers: Sequence[str] | None = None,
        normalizer: str = "english",
        num_bootstrap: int = 1000,
        confidence: float = 0.95,
        seed: int = 0,
    ) -> dict:
        groups = self._added_labels("groups") if groups is None else groups
        speakers = self._added_labels("speakers") if speakers is None else speakers
        self.__dict__.pop("_added", None)
        if not len(predictions):
            raise ValueError("there are no utterances to score")
        counts = utterance_errors(predictions, references, normalizer)
        speakers = _labels("speakers", speakers, len(counts["errors"]))
        groups = _labels("groups", groups, len(counts["errors"]))

        def figures(rows: np.ndarray) -> dict:
            return _figures(
                {name: values[rows] for name, values in counts.items()},
                None if speakers is None else speakers[rows],
                num_bootstrap,
                confidence,
                seed,
            )

        per_group = {} if groups is None else {str(group): figures(groups == group) for group in np.unique(groups)}
        return {**figures(np.full(len(counts["errors"]), True)), "per_group": per_group}


def _alternatives(reference: str | Sequence[str]) -> list[str]:
    return [reference] if isinstance(reference, str) else reference


def _labels(name: str, labels: Sequence[str] | None, utterances: int) -> np.ndarray | None:
    if labels is None:
        return None
    labels = list(labels)
    if len(labels) != utterances:
        raise ValueError(f"{name} must give one label per utterance, got {len(labels)} for {utterances} utterances")
    wrong = next((index for index, label in enumerate(labels) if not isinstance(label, str)), None)
    if wrong is not None:
        raise ValueError(f"{name}[{wrong}] must be a string, got {labels[wrong]!r}")
    return np.array(labels, dtype=str)


def _figures(
    counts: dict[str, np.ndarray], speakers: np.ndarray | None, num_bootstrap: int, confidence: float, seed: int
) -> dict:
    errors = counts["errors"]
    words = counts["reference_words"]
    character_errors = counts["character_errors"]
    characters = counts["reference_characters"]
    by_speaker = None if speakers is None else sum_by_unit(np.stack([errors, words], axis=1), speakers)
    rates = {
        "wer": (errors, words),
        "cer": (character_errors, characters),
        "wer_clipped": (np.minimum(errors, words), words),
        "cer_clipped": (np.minimum(character_errors, characters), characters),
    }
    bounds = intervals(rates, speakers, num_bootstrap, confidence, seed)
    return {
        **{name: float(error_rate(wrong.sum(), length.sum())) for name, (wrong, length) in rates.items()},
        **{f"{name}_interval": bounds[name] for name in rates},
        "wer_speaker_mean": None if speakers is None else float(error_rate(by_speaker[:, 0], by_speaker[:, 1]).mean()),
        **{
            name: int(counts[name].sum())
            for name in ("substitutions", "deletions", "insertions", "hits", "reference_words", "reference_characters")
        },
        "utterances": len(errors),
        "speakers": None if speakers is None else len(by_speaker),
    }
