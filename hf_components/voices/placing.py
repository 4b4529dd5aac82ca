"""A voice as weights over the experts of a mixture: a handful of numbers, fitted by loss without gradients."""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import torch
from transformers import PreTrainedModel

from hf_components.voices.batches import Batches, losses_of_rows
from hf_components.whisper import DynamicContextWhisper, MoeWhisperConfig, MoeWhisperForConditionalGeneration

ROWS_AT_ONCE = 30


def is_mixture(model: PreTrainedModel) -> bool:
    return isinstance(model.config, MoeWhisperConfig)


def weights_to_try(model: MoeWhisperForConditionalGeneration) -> list[list[float]]:
    """Weights over the experts, `(tries, experts)`: the plain model, each expert, half of each, all pairs, the mean.

    There are few of them on purpose: what is fitted to a handful of sentences must not have many choices.
    """
    experts = model.config.num_experts
    plain = np.array(model.config.plain_weights)
    alone = np.eye(experts)
    tries = [plain, *alone, *(0.5 * (plain + one) for one in alone)]
    tries += [0.5 * (alone[i] + alone[j]) for i, j in combinations(range(experts), 2)]
    tries.append(np.full(experts, 1 / experts))
    distinct = {tuple(np.round(weights, 6)): weights.tolist() for weights in reversed(tries)}
    return list(reversed(distinct.values()))


@torch.no_grad()
def losses_of_weights(
    model: MoeWhisperForConditionalGeneration, batches: Batches, tries: Sequence[Sequence[float]]
) -> np.ndarray:
    """Summed token losses `(tries, sentences)` of each sentence with each of the weights.

    The layers below the experts see each sentence once.
    """
    count = len(batches.sentences)
    found = np.zeros((len(tries), count))
    with model.override(mixture="weights"):
        for rows in parts_of(batches):
            features = batches.clean(rows)
            trunk = model.model.encoder.trunk(features)
            labels = batches.labels_of(rows)
            for number, weights in enumerate(tries):
                given = torch.tensor([weights] * len(rows), device=model.device)
                losses = losses_of_rows(model, features, labels, expert_weights=given, trunk_states=trunk)
                found[number, rows] = losses.cpu().numpy()
    return found


@torch.no_grad()
def losses_of_model(model: PreTrainedModel, batches: Batches) -> np.ndarray:
    """Summed token losses `(sentences,)` of the model as it is; a mixture is routed by its router."""
    found = np.zeros(len(batches.sentences))
    for rows in parts_of(batches):
        routing = {"fit_audio_context": False} if is_mixture(model) else {}
        losses = losses_of_rows(model, batches.clean(rows), batches.labels_of(rows), **routing)
        found[rows] = losses.cpu().numpy()
    return found


@torch.no_grad()
def losses_of_texts(model: PreTrainedModel, batches: Batches) -> np.ndarray:
    """Loss per token of every text on every recording, `(recordings, texts)`."""
    count = len(batches.sentences)
    found = np.zeros((count, count))
    routing = {"fit_audio_context": False} if is_mixture(model) else {}
    for row in range(count):
        features = batches.clean([row])
        for i in range(0, count, ROWS_AT_ONCE):
            texts = list(range(i, min(i + ROWS_AT_ONCE, count)))
            repeated = features.expand(len(texts), -1, -1)
            losses = losses_of_rows(model, repeated, batches.labels_of(texts), **routing)
            found[row, texts] = losses.cpu().numpy() / batches.tokens[texts]
    return found


def parts_of(batches: Batches) -> list[list[int]]:
    """All sentences in parts of similar length."""
    order = sorted(range(len(batches.sentences)), key=lambda row: (len(batches.sentences[row].waveform), row))
    return [order[i : i + ROWS_AT_ONCE] for i in range(0, len(order), ROWS_AT_ONCE)]


def merged(model: MoeWhisperForConditionalGeneration, weights: Sequence[float]) -> DynamicContextWhisper:
    """A plain Whisper with the experts of a mixture merged by fixed weights, in its audio context."""
    plain = model.plain_whisper(weights)
    plain.set_audio_context(model.audio_context, model.min_audio_context)
    plain.name_or_path = model.name_or_path
    return plain
