"""Combinations of a mixture's experts that need no training, as rows of the benchmark.

`merge`, `soft`, `beta` and `speaker` decode once, with the experts merged by weights. `logits`, `mbr`, `rover` and
`choose` decode with every expert. docs/how_it_works.md lists them all.
"""

from collections.abc import Callable, Iterable, Sequence

import datasets
import torch
from transformers import WhisperProcessor

from hf_components.moe.benchmark.rows import Row, run_row
from hf_components.scoring import nearest_to_all, vote
from hf_components.speech import is_known
from hf_components.whisper import MoeWhisperForConditionalGeneration

COMBINATIONS = ("merge", "soft", "beta", "speaker", "logits", "mbr", "rover", "choose")
ALL = "all"
MIXTURES = {"logits": "logits", "choose": "choose"}  # the others that decode have "weights"


def choose_combinations(asked: Iterable[str]) -> list[str]:
    """The combinations in the order of their rows; "all" asks for all."""
    asked = set(asked)
    return [name for name in COMBINATIONS if asked & {name, ALL}]


def run_combinations(
    names: Sequence[str],
    model: MoeWhisperForConditionalGeneration,
    processor: WhisperProcessor,
    corpus: datasets.Dataset,
    *,
    gates: torch.Tensor,
    experts: list[Row],
    beta: float,
    **options,
) -> list[Row]:
    """One row for each of the combinations.

    Args:
        names: some of `COMBINATIONS`; without `merge` for a model with a shared expert, whose own row it would repeat.
        gates: the router's gates, `(utterances, experts)`.
        experts: row of every expert alone, whose texts `mbr` and `rover` combine. Their time is that of all experts.
        beta: weight of the router's best expert in `beta`, 0 to 1.
        options: options of `run_row`.
    """
    by_text = {"mbr": _nearest, "rover": vote}
    weights = {}
    if set(names) - by_text.keys():
        names = [name for name in names if name != "merge" or not model.config.shared_expert]
        plain = gates.new_tensor(model.config.plain_weights)
        weights = weights_of_combinations(gates, corpus["speaker_id"][:], beta, plain)
    rows = []
    for name in names:
        if name in by_text:
            rows.append(_combine_texts(f"moe_{name}", by_text[name], experts))
            continue
        row_name = f"moe_beta{beta:g}" if name == "beta" else f"moe_{name}"
        with model.override(mixture=MIXTURES.get(name, "weights")):
            rows.append(run_row(row_name, model, processor, corpus, expert_weights=weights.get(name), **options))
    return rows


def weights_of_combinations(
    gates: torch.Tensor, speakers: Sequence[str], beta: float, plain: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Weights over experts `(utterances, experts)` of each combination that is defined by them.

    `merge` is the plain model: the mean of E experts, 1 / E each, or the shared expert alone. `soft` and `logits`
    have the gates. `beta` is `beta` times the best expert, plus `1 - beta` times the plain model. `speaker` is
    one-hot: the best expert by `gates_of_speakers`.

    Args:
        gates: the router's gates, `(utterances, experts)`.
        speakers: `speaker_id` of each utterance.
        beta: weight of the router's best expert in `beta`.
        plain: weights of the experts in the plain model, `(experts,)`.
    """
    mean = plain.expand(gates.shape)
    return {
        "merge": mean,
        "soft": gates,
        "beta": beta * _best(gates) + (1 - beta) * mean,
        "speaker": _best(gates_of_speakers(gates, speakers)),
        "logits": gates,
    }


def gates_of_speakers(gates: torch.Tensor, speakers: Sequence[str]) -> torch.Tensor:
    """The mean gates of all utterances of the same speaker, `(utterances, experts)`; its own if nobody is named.

    So all utterances of a speaker must be known before the first is transcribed.
    """
    found = gates.clone()
    for speaker in filter(is_known, set(speakers)):
        own = torch.tensor([name == speaker for name in speakers], device=gates.device)
        found[own] = gates[own].mean(0)
    return found


def _best(gates: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.one_hot(gates.argmax(-1), gates.shape[1]).to(gates.dtype)


def _nearest(texts: Sequence[str], language: str) -> str:
    return texts[nearest_to_all(texts, language)]


def _combine_texts(name: str, combine: Callable[[Sequence[str], str], str], experts: list[Row]) -> Row:
    first = experts[0]
    texts = [combine(texts, first.language) for texts in zip(*(row.texts for row in experts), strict=True)]
    seconds = sum(row.seconds for row in experts)
    return Row(name, first.audio_context, texts, seconds, first.language, decodes=len(experts))
