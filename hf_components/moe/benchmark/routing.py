"""A MoE-Whisper on the sample: the router's choice, each expert alone, none, combined, at random, the best choice."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import comb

import datasets
import numpy as np
import torch
from accelerate import PartialState
from transformers import WhisperProcessor

from hf_components.moe.benchmark.combining import run_combinations
from hf_components.moe.benchmark.rows import BASELINES, EXPERT, SHARED, Row, run_row
from hf_components.runtime import Progress, gathered, share_of
from hf_components.scoring import disagreement, utterance_errors, word_error_rate
from hf_components.speech import duration_batches, log_mel, waveforms
from hf_components.whisper import MoeWhisperForConditionalGeneration

TOP_1 = "top1"


@dataclass
class Mixture:
    """The results of a MoE-Whisper; experts by number, utterances in the order of the sample."""

    shared: Row | None  # the shared expert alone; None if there is none
    routed: dict[str, Row]  # "top1", and "topk<k>" for k > 1
    weights: dict[str, np.ndarray]  # expert weights of the same rows: (utterances, experts)
    experts: list[Row]  # every expert alone
    gates: np.ndarray  # (utterances, experts)
    errors: np.ndarray  # (experts, utterances) word errors
    oracle: np.ndarray  # (utterances,) expert with the fewest word errors, the lowest number of equals
    random: np.ndarray  # (utterances,) expert drawn at random
    combined: list[Row] = field(default_factory=list)  # combinations of the experts

    @property
    def rows(self) -> list[Row]:
        """The rows of the shared expert alone, the router, the combinations, the random choice and the oracle.

        Baselines come first, because the others are compared with them. The oracle reads the references. It is a
        bound, not a system: no router that takes one expert can be better. Its time is the sum over all experts; the
        time of the random choice is their mean.
        """
        seconds = [row.seconds for row in self.experts]
        return [
            *([self.shared] if self.shared else []),
            *(row for row in self.combined if row.name in BASELINES),
            *self.routed.values(),
            *(row for row in self.combined if row.name not in BASELINES),
            self._composed("moe_random", self.random, float(np.mean(seconds))),
            self._composed("moe_oracle", self.oracle, sum(seconds), decodes=len(self.experts)),
        ]

    def _composed(self, name: str, chosen: np.ndarray, seconds: float, decodes: int = 1) -> Row:
        texts = [self.experts[expert].texts[i] for i, expert in enumerate(chosen)]
        return Row(name, self.experts[0].audio_context, texts, seconds, self.experts[0].language, decodes)


def run_mixture(
    model: MoeWhisperForConditionalGeneration,
    processor: WhisperProcessor,
    corpus: datasets.Dataset,
    *,
    experts_per_utterance: int,
    mixture: str,
    seed: int,
    combine: Sequence[str] = (),
    beta: float = 0.5,
    **options,
) -> Mixture:
    """Transcribe with the best expert, the best `experts_per_utterance`, each expert alone, none, and combinations.

    Args:
        mixture: "weights" or "logits", how the best `experts_per_utterance` are mixed.
        seed: seed of the random choice.
        combine: combinations of the experts to run, see `combining`.
        beta: weight of the router's best expert in the combination `beta`.
        options: options of `run_row`.
    """
    gates = corpus_gates(model, processor, corpus, options["batch_size"])
    routed = {}
    weights = {}
    for key, (name, fields) in _routings(experts_per_utterance, mixture).items():
        with model.override(**fields):
            routed[key] = run_row(name, model, processor, corpus, **options)
            weights[key] = model.model.encoder.select(gates).numpy()
    experts, shared = _run_experts(model, processor, corpus, **options)
    errors = np.stack([utterance_errors(row.texts, corpus["text"][:], row.language)["errors"] for row in experts])
    return Mixture(
        shared,
        routed,
        weights,
        experts,
        gates.numpy(),
        errors,
        errors.argmin(axis=0),
        random_experts(corpus["id"][:], len(experts), seed),
        run_combinations(combine, model, processor, corpus, gates=gates, experts=experts, beta=beta, **options),
    )


def _routings(experts_per_utterance: int, mixture: str) -> dict[str, tuple[str, dict]]:
    """Name of the row, and settings of the model, of each routing."""
    routings = {TOP_1: ("moe_top1", {"routing": "hard", "mixture": "weights", "beta": 1.0})}
    if experts_per_utterance > 1:
        several = {"routing": "top_k", "experts_per_utterance": experts_per_utterance, "mixture": mixture, "beta": 1.0}
        routings[f"topk{experts_per_utterance}"] = (f"moe_top{experts_per_utterance}_{mixture}", several)
    return routings


def _run_experts(
    model: MoeWhisperForConditionalGeneration, processor: WhisperProcessor, corpus: datasets.Dataset, **options
) -> tuple[list[Row], Row | None]:
    """Every expert alone, and none: the shared expert, if there is one."""
    one_hot = torch.eye(model.config.num_experts)[:, None].expand(-1, len(corpus), -1)  # (experts, rows, experts)
    with model.override(mixture="weights"):
        experts = [
            run_row(f"{EXPERT}{i}", model, processor, corpus, expert_weights=rows, **options)
            for i, rows in enumerate(one_hot)
        ]
        if not model.config.shared_expert:
            return experts, None
        none = torch.zeros(len(corpus), model.config.num_experts)
        return experts, run_row(SHARED, model, processor, corpus, expert_weights=none, **options)


@torch.inference_mode()
def corpus_gates(
    model: MoeWhisperForConditionalGeneration, processor: WhisperProcessor, corpus: datasets.Dataset, batch_size: int
) -> torch.Tensor:
    """The router's gates `(utterances, experts)`, in the order of the corpus; every process gets all of them."""
    state = PartialState()
    found: list[tuple[int, np.ndarray]] = []
    batches = share_of(duration_batches(corpus["duration"], batch_size))
    for indices in Progress(batches, desc="gates", unit="batch", disable=not state.is_main_process):
        features = log_mel(processor.feature_extractor, waveforms(corpus.select(indices)))
        gates = model.route(features.to(model.device, model.dtype))
        found += zip(indices, gates.cpu().numpy(), strict=True)
    return torch.from_numpy(np.stack([gate for _, gate in sorted(gathered(found), key=lambda pair: pair[0])]))


def random_experts(ids: Sequence[str], num_experts: int, seed: int) -> np.ndarray:
    """Draw one expert per utterance, `(utterances,)`; it depends only on the seed and the utterance's id."""
    digests = [hashlib.sha256(f"random expert:{seed}:{name}".encode()).digest() for name in ids]
    return np.array([int.from_bytes(digest[:8]) % num_experts for digest in digests])


def routing_summary(mixture: Mixture, key: str, corpus: datasets.Dataset) -> dict:
    """Summarise what the router chooses under one routing.

    Args:
        key: "top1" or "topk<k>".
    Returns:
        `usage` (mean weight of each expert; under top-1 the share of utterances), `usage_per_group`, `gate_entropy`
        (mean, nats), `wer_of_each_expert` (each alone on all utterances), `oracle_wer` (of the best expert for each
        utterance), `disagreement` (of the experts' texts, see `scoring.disagreement`), and three shares of utterances:
        `oracle_chosen` (the oracle's expert is chosen), `as_good_as_oracle` (a chosen expert makes as few errors) and
        `as_good_by_chance` (the expected value of the latter for as many experts drawn at random).
    """
    weights = mixture.weights[key]
    groups = np.asarray(corpus["group"])
    references = corpus["text"][:]
    oracle = mixture.rows[-1]
    chosen = weights > 0
    is_best = (mixture.errors == mixture.errors.min(axis=0)).T  # (utterances, experts)
    experts = chosen.shape[1]
    by_lot = [
        1 - comb(experts - best, drawn) / comb(experts, drawn)
        for best, drawn in zip(is_best.sum(axis=1), chosen.sum(axis=1), strict=True)
    ]
    return {
        "usage": weights.mean(axis=0).tolist(),
        "usage_per_group": {group: weights[groups == group].mean(axis=0).tolist() for group in sorted(set(groups))},
        "gate_entropy": float(-(mixture.gates * np.log(mixture.gates.clip(min=1e-9))).sum(axis=1).mean()),
        "wer_of_each_expert": [word_error_rate(row.texts, references, row.language) for row in mixture.experts],
        "oracle_wer": word_error_rate(oracle.texts, references, oracle.language),
        "disagreement": disagreement([row.texts for row in mixture.experts], oracle.language),
        "oracle_chosen": float(chosen[np.arange(len(chosen)), mixture.oracle].mean()),
        "as_good_as_oracle": float((chosen & is_best).any(axis=1).mean()),
        "as_good_by_chance": float(np.mean(by_lot)),
    }
