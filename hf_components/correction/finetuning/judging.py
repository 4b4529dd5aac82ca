"""Whether a trained recogniser is better than before, by the truth or by judges."""

from collections.abc import Mapping, Sequence

import numpy as np

from hf_components.correction.finetuning.listening import FEWEST, listeners
from hf_components.correction.finetuning.samples import Sample
from hf_components.reporting import interval
from hf_components.scoring import disagreement, paired_bootstrap, utterance_errors

TRUTH = "truth"
JUDGES = "judges"
NOBODY = "nobody"
# A judge whose words differ so much from the base's does not hear the same speech, as far as few recordings can tell.
UNLIKE = 0.8
SILENT = 0.5  # below this share of the characters of before, fewer errors only mean fewer words


def judge(
    samples: Sequence[Sample],
    heard: Sequence[str],
    judges: Mapping[str, Sequence[str]],
    *,
    num_bootstrap: int,
    seed: int,
) -> dict:
    """Decide whether the trained recogniser may replace its base, on recordings that were held out.

    The truth decides where it is known. Else the judges decide, which neither voted on the gold nor were trained: the
    trained recogniser must come closer to their texts. It is released if the whole 95 % interval of the decrease, by
    paired bootstrap over recordings, is above 0, and if it does not owe that to writing less.

    Args:
        samples: recordings that were held out.
        heard: text of each by the base.
        judges: texts of each by the judges, by name.
    Returns:
        `released`, `by` (truth, judges or nobody), `reason`, `difference` (decrease of the error rate) and `interval`
        (None where nobody can judge), `recordings`, `judges`, and `left_out` (judges that hear something else).
    """
    unlike = sorted(name for name, texts in judges.items() if not _hears(heard, texts))
    usable = {name: texts for name, texts in judges.items() if name not in unlike}
    known = [i for i, sample in enumerate(samples) if sample.truth is not None]
    rows = known or list(range(len(samples)))
    found = {"released": False, "by": NOBODY, "judges": sorted(usable), "left_out": unlike, "recordings": len(rows)}
    found |= {"difference": None, "interval": None}
    if not rows:
        return {**found, "reason": "no recording was held out to judge it by"}
    if not (known or usable):
        told = f"; {', '.join(unlike)} hear something else than the base" if unlike else ""
        return {**found, "reason": f"there is no truth and no --judges that could tell whether it became better{told}"}
    references = (
        [[samples[i].truth for i in rows]] if known else [[texts[i] for i in rows] for texts in usable.values()]
    )
    old = [heard[i] for i in rows]
    new = [samples[i].finetuned for i in rows]
    drawn = paired_bootstrap(
        _errors(new, references), _errors(old, references), num_bootstrap=num_bootstrap, seed=seed
    )
    found |= {"by": TRUTH if known else JUDGES, "difference": drawn["difference"], "interval": drawn["interval"]}
    points = 100 * drawn["difference"]
    direction = "closer to" if points >= 0 else "further from"
    whom = "the truth" if known else ", ".join(sorted(usable))
    change = f"it is {abs(points):.1f} points {direction} {whom} (interval of the gain {interval(drawn['interval'])})"
    problem = _problem(old, new, references, drawn["interval"], change)
    return {**found, "released": problem is None, "reason": problem or change}


def _problem(
    old: Sequence[str],
    new: Sequence[str],
    references: Sequence[Sequence[str]],
    gain: Sequence[float] | None,
    change: str,
) -> str | None:
    """Why the new texts do not replace the old ones; None if they do.

    Args:
        gain: interval of the decrease of the error rate.
        change: the decrease in words.
    """
    written = [int(utterance_errors(texts, texts)["reference_characters"].sum()) for texts in (old, new)]
    if written[1] < SILENT * written[0]:
        return f"it writes {written[1]} characters, the base {written[0]}"
    common = [_in_common(texts, references) for texts in (old, new)]
    if common[1] < common[0]:
        return f"{change}, but has {common[1]} words in common with it, the base {common[0]}"
    if gain is None or gain[0] <= 0:
        return f"{change}, which is no sure gain"
    return None


def _hears(heard: Sequence[str], texts: Sequence[str]) -> bool:
    """Whether a judge hears the same speech as the base."""
    if len(heard) < FEWEST:
        return disagreement([heard, texts]) < UNLIKE
    return 1 in listeners([heard, texts])


def _in_common(texts: Sequence[str], references: Sequence[Sequence[str]]) -> int:
    """Words of the references that the texts have, too: who writes less comes closer, but has fewer of them."""
    counts = [utterance_errors(texts, judged) for judged in references]
    return int(sum((c["reference_words"] - c["substitutions"] - c["deletions"]).sum() for c in counts))


def _errors(texts: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, np.ndarray]:
    """Errors and reference words of each recording, added up over all who judge."""
    counts = [utterance_errors(texts, judged) for judged in references]
    return {name: np.sum([count[name] for count in counts], axis=0) for name in ("errors", "reference_words")}
