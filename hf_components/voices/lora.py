"""A small LoRA for one voice, and its folds: all are trained at once, as experts of one mixture."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from hf_components.asr import with_slots
from hf_components.voices.batches import Batches, losses_of_rows
from hf_components.whisper import DynamicContextWhisper, MoeWhisperForConditionalGeneration
from hf_components.whisper.adapters import Lora

ROWS_AT_ONCE = 30  # rows of one forward pass
# Seconds on two cores for a second of audio through a model of a million parameters, forward and backward.
SECONDS_PER_WORK = 3.1e-4


@dataclass(frozen=True)
class LoraSettings:
    """How the LoRA of a voice is trained.

    Args:
        rank: rank of the LoRA.
        target_modules: names of the linear layers with a LoRA.
        first_layer: index of the first encoder layer with a LoRA; the number of layers leaves the encoder alone.
        in_decoder: whether the decoder has a LoRA.
        learning_rate: step size of Adam.
        l2_to_start: strength of the pull towards the start, at which the LoRA changes nothing.
        sentences_per_step: sentences of one step; all of them, if there are fewer.
    """

    rank: int
    target_modules: tuple[str, ...]
    first_layer: int
    in_decoder: bool
    learning_rate: float
    l2_to_start: float
    sentences_per_step: int = 8


class LoraTraining:
    """Several LoRAs over one base, each trained on its own sentences in the same steps.

    A row of a batch is a sentence with one of the LoRAs. The layers below the LoRAs see a sentence once for all. The
    LoRAs do not see each other: their gradients are separate, and so is every step of Adam.

    Args:
        base: the plain model at which the LoRAs start.
        batches: sentences of all jobs.
        jobs: indices of the sentences of each LoRA.
        seed: seed of the start and of the order of sentences.
    """

    def __init__(
        self,
        base: DynamicContextWhisper,
        batches: Batches,
        jobs: Sequence[Sequence[int]],
        settings: LoraSettings,
        seed: int,
    ):
        self.batches = batches
        self.jobs = [list(job) for job in jobs]
        self.settings = settings
        self.seed = seed
        self.model = with_slots(base, len(jobs), settings.rank, settings.target_modules, settings.first_layer)
        self.slots = torch.eye(len(jobs), device=base.device)
        trained = {
            name: layer
            for name, layer in self.model.routed_layers().items()
            if settings.in_decoder or ".decoder." not in name
        }
        self.layers = trained
        generator = torch.Generator().manual_seed(seed)
        for layer in trained.values():  # every LoRA has the same start
            bound = layer.in_features**-0.5
            start = torch.empty(layer.rank, layer.in_features).uniform_(-bound, bound, generator=generator)
            layer.lora_a.data.copy_(start.expand_as(layer.lora_a))
            layer.lora_b.data.zero_()
        self.parameters = [p for layer in trained.values() for p in (layer.lora_a, layer.lora_b)]
        self.start = [p.detach().clone() for p in self.parameters]

    def steps(self, marks: Sequence[int]) -> Iterator[int]:
        """Train up to the last mark; yields each mark when its step is done."""
        optimizer = torch.optim.Adam(self.parameters, lr=self.settings.learning_rate, betas=(0.9, 0.98))
        frozen = [
            p for p in self.model.parameters() if p.requires_grad and not any(p is one for one in self.parameters)
        ]
        for parameter in frozen:
            parameter.requires_grad_(False)
        try:
            for step in range(1, max(marks) + 1):
                optimizer.zero_grad()
                self._backward(step)
                for parameter, start in zip(self.parameters, self.start, strict=True):
                    parameter.grad.add_(parameter.detach() - start, alpha=self.settings.l2_to_start)
                optimizer.step()
                if step in marks:
                    yield step
        finally:
            for parameter in frozen:  # they are those of the base
                parameter.requires_grad_(True)

    def _backward(self, step: int) -> None:
        rows = [(slot, row) for slot, job in enumerate(self.jobs) for row in self._drawn(job, step)]
        tokens = np.zeros(len(self.jobs))
        for slot, row in rows:
            tokens[slot] += self.batches.tokens[row]
        rows.sort(key=lambda pair: (len(self.batches.sentences[pair[1]].waveform), pair[1], pair[0]))
        for i in range(0, len(rows), ROWS_AT_ONCE):
            part = rows[i : i + ROWS_AT_ONCE]
            sentences = sorted({row for _, row in part})
            features = self.batches.changed(sentences, step)
            with torch.no_grad():
                trunk = self.model.model.encoder.trunk(features)
            places = [sentences.index(row) for _, row in part]
            losses = losses_of_rows(
                self.model,
                features[places],
                self.batches.labels_of([row for _, row in part]),
                expert_weights=self.slots[[slot for slot, _ in part]],
                trunk_states=trunk[places],
            )
            share = torch.tensor([1 / tokens[slot] for slot, _ in part], dtype=losses.dtype, device=losses.device)
            (losses * share).sum().backward()

    def _drawn(self, job: Sequence[int], step: int) -> list[int]:
        """The sentences of a LoRA in this step: passes through all of them, each in an order of its own."""
        size = min(self.settings.sentences_per_step, len(job))
        if size == len(job):
            return list(job)
        drawn: list[int] = []
        first = (step - 1) * size
        while len(drawn) < size:
            turn, place = divmod(first + len(drawn), len(job))
            order = np.random.default_rng([self.seed, turn]).permutation(len(job))
            drawn.append(job[order[place]])
        return drawn

    @torch.no_grad()
    def losses(self, pairs: Sequence[tuple[int, int]], scale: float = 1.0) -> np.ndarray:
        """Summed token losses of (LoRA, sentence) pairs with the LoRA at `scale` of its strength, `(pairs,)`."""
        found = np.zeros(len(pairs))
        order = sorted(range(len(pairs)), key=lambda i: len(self.batches.sentences[pairs[i][1]].waveform))
        for i in range(0, len(order), ROWS_AT_ONCE):
            part = order[i : i + ROWS_AT_ONCE]
            rows = [pairs[one][1] for one in part]
            found[part] = (
                losses_of_rows(
                    self.model,
                    self.batches.clean(rows),
                    self.batches.labels_of(rows),
                    expert_weights=scale * self.slots[[pairs[one][0] for one in part]],
                )
                .cpu()
                .numpy()
            )
        return found

    def lora(self, slot: int) -> Lora:
        """A copy of one LoRA, with a scaling of 1."""
        return {
            name: (layer.lora_a[slot].detach().clone(), layer.lora_b[slot].detach() * layer.scaling)
            for name, layer in self.layers.items()
        }


def planned_steps(
    model: DynamicContextWhisper | MoeWhisperForConditionalGeneration,
    seconds_of_audio: float,
    most: int,
    budget_seconds: float,
) -> int:
    """Steps of training that a budget of time allows on two cores, 1 to `most`.

    The budget is planned from the amount of work and not from a clock: the same sentences give the same voice on any
    machine.

    Args:
        seconds_of_audio: audio of one step, all folds together.
    """
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    return max(1, min(most, math.floor(budget_seconds / (seconds_of_audio * millions * SECONDS_PER_WORK))))


def scaled(lora: Lora, scale: float) -> Lora:
    """The LoRA at a part of its strength, in half precision, so that its file is half as large."""
    return {name: (a.half(), (b * scale).half()) for name, (a, b) in lora.items()}
