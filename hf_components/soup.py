"""Model soups (Wortsman et al. 2022, arXiv 2203.05482): several trained weights averaged into one model."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from hf_components.errors import UserError
from hf_components.training.trainer import BASE, COMPLETE, TRAINED_WEIGHTS

Weights = dict[str, torch.Tensor]


@dataclass
class Soup:
    """What greedy selection found.

    Args:
        members: candidates in the soup, in the order in which they were added.
        score: of the soup, the smaller the better.
        candidate_scores: of each candidate alone.
    """

    members: list[int]
    score: float
    candidate_scores: list[float]


def average(candidates: Sequence[Weights]) -> Weights:
    """Mean of every parameter over the candidates, in its own type.

    Of a LoRA the parameters are A and B, and the product of their means is not the mean of their products: checkpoints
    of one run lie close enough together for that (Wortsman et al. average parameters likewise), LoRAs with separate
    beginnings do not. Those are averaged exactly by `hf_components.merging.merge_experts`.
    """
    return {name: torch.stack([weights[name] for weights in candidates]).float().mean(0).to(value.dtype)
            for name, value in candidates[0].items()}


def greedy_soup(candidates: int, evaluate: Callable[[list[int]], float]) -> Soup:
    """Greedy soup (recipe 1 of the paper): from best to worst, a candidate joins if the soup does not get worse.

    So the soup is never worse than its best candidate on what `evaluate` scores, and that score is optimistic.

    Args:
        candidates: how many there are.
        evaluate: error of the average of the candidates with these indices.
    """
    alone = [evaluate([candidate]) for candidate in range(candidates)]
    best, *others = sorted(range(candidates), key=alone.__getitem__)
    members, score = [best], alone[best]
    for candidate in others:
        together = evaluate([*members, candidate])
        if together <= score:
            members, score = [*members, candidate], together
    return Soup(members, score, alone)


def load_checkpoints(folder: str | Path, last: int | None = None) -> dict[str, Weights]:
    """What was trained, by name of the checkpoint, oldest first; incomplete checkpoints are passed over.

    Args:
        folder: where a training wrote its `checkpoint-<step>`.
        last: how many to take, the newest ones; all by default.
    Raises:
        UserError: fewer than two checkpoints are complete or asked for, or they adapt different base models.
    """
    found = sorted((path.parent for path in Path(folder).glob(f"{PREFIX_CHECKPOINT_DIR}-*/{COMPLETE}")),
                   key=lambda path: int(path.name.split("-")[1]))
    if len(found) < 2:
        raise UserError(f"a soup needs at least 2 complete checkpoints, {folder} holds {len(found)}; train more epochs with a "
                        "larger --save_total_limit")
    if last is not None and last < 2:
        raise UserError(f"--last must be at least 2, got {last}")
    chosen = found if last is None else found[-last:]
    bases = {path.name: json.loads((path / BASE).read_text()) for path in chosen}
    foreign = [name for name, base in bases.items() if base != bases[chosen[-1].name]]
    if foreign:
        raise UserError(f"the checkpoints in {folder} adapt different base models: {foreign[0]} and {chosen[-1].name}; "
                        "a soup is of one run")
    return {path.name: load_file(path / TRAINED_WEIGHTS) for path in chosen}
