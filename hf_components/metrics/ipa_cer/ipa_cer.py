"""Character error rate of IPA strings after one spelling of both sides."""

from collections.abc import Sequence

import evaluate
import jiwer
from datasets import Features, Value

# evaluate copies only the siblings that this file imports, so it must name all of the folder.
from .ipa import normalize_ipa, unknown_symbols

_DESCRIPTION = """
IPA character error rate: all insertions, deletions and substitutions of symbols divided by all symbols of the
references, spaces included, after one spelling of both sides. It is the figure of the phonetic track of DrivenData's
children's speech recognition challenge.
"""

_INPUTS = """
Args:
    predictions (list of str): IPA of the system, one string per utterance.
    references (list of str): IPA that was said.
Returns:
    ipa_cer (float); substitutions, deletions, insertions, hits, reference_symbols, utterances (int);
    unknown_symbols (list of str): symbols of the predictions that the challenge does not accept.
Examples:
    >>> ipa_cer = evaluate.load("hf_components/metrics/ipa_cer")
    >>> ipa_cer.compute(predictions=["k\u00e6t"], references=["\u02c8k\u00e6ts"])["ipa_cer"]
    0.25
"""


class IpaCer(evaluate.Metric):
    """`evaluate.load("<path>/ipa_cer")`; arguments and results are described in `inputs_description`."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_INPUTS,
            features=Features({"predictions": Value("string"), "references": Value("string")}),
            reference_urls=["https://github.com/drivendataorg/childrens-speech-recognition-runtime"],
        )

    def _compute(self, predictions: Sequence[str], references: Sequence[str]) -> dict:
        said = [normalize_ipa(text) for text in references]
        if not any(said):
            raise ValueError("no reference has a symbol to compare with")
        output = jiwer.process_characters(said, [normalize_ipa(text) for text in predictions])
        return {
            "ipa_cer": output.cer,
            "substitutions": output.substitutions,
            "deletions": output.deletions,
            "insertions": output.insertions,
            "hits": output.hits,
            "reference_symbols": sum(map(len, said)),
            "utterances": len(said),
            "unknown_symbols": sorted({symbol for text in predictions for symbol in unknown_symbols(text)}),
        }
