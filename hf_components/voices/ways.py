"""The ways of placing a voice, each tried on the sentences of one person: weights, examples, a LoRA."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from transformers import PreTrainedModel, WhisperProcessor

from hf_components.checkpoints import (
    CONTEXT,
    LORA,
    NO_CHANGE,
    VOTE,
    WEIGHTS,
    Voice,
    base_model_id,
    digest_of_model,
)
from hf_components.metrics.whisper_wer.counting import normalize
from hf_components.scoring import normalizer_of
from hf_components.voices.arguments import VoiceArguments
from hf_components.voices.batches import Batches
from hf_components.voices.choosing import Candidate, folds_of
from hf_components.voices.context import Judged, best_examples, judge, try_examples
from hf_components.voices.lora import LoraTraining, planned_steps, scaled
from hf_components.voices.placing import is_mixture, losses_of_model, losses_of_weights, merged, weights_to_try
from hf_components.voices.sentences import Sentence
from hf_components.whisper.adapters import Lora

logger = logging.getLogger(__name__)


@dataclass
class Enrolment:
    """What a voice is learned from: a model, sentences of one person, and sentences of others for the control."""

    model: PreTrainedModel
    processor: WhisperProcessor
    name: str
    sentences: Sequence[Sentence]
    others: Sequence[Sentence]
    args: VoiceArguments
    seed: int

    @cached_property
    def batches(self) -> Batches:
        """The sentences, then those of others."""
        return Batches(self.model, self.processor, [*self.sentences, *self.others], self.seed)

    @cached_property
    def folds(self) -> list[list[int]]:
        said = [normalize(one.text, normalizer_of(None)) for one in self.sentences]
        return folds_of(said, self.args.max_folds, self.seed)

    @property
    def tokens(self) -> np.ndarray:
        """Tokens of each sentence, `(sentences,)`."""
        return self.batches.tokens[: len(self.sentences)]

    @cached_property
    def no_change(self) -> Candidate:
        """The model as it is."""
        return Candidate(NO_CHANGE, losses_of_model(self.model, self.batches)[: len(self.sentences)])

    @cached_property
    def voice(self) -> Voice:
        """A voice that changes nothing, which every other one of this person begins as."""
        return Voice(
            way=NO_CHANGE,
            name=self.name,
            base=base_model_id(self.model.name_or_path),
            base_digest=digest_of_model(self.model),
            sentences=len(self.sentences),
            seconds_of_speech=round(sum(one.seconds for one in self.sentences), 2),
        )


@dataclass
class Tries:
    """What the ways that were tried so far have found.

    Attributes:
        of_way: the best voice of each way.
        controls: the same of other people's sentences.
        candidates: how each way does on sentences that were held out.
    """

    of_way: dict[str, Voice] = field(default_factory=dict)
    controls: dict[str, Voice] = field(default_factory=dict)
    candidates: list[Candidate] = field(default_factory=list)


def try_weights(enrolment: Enrolment, tries: Tries) -> tuple[PreTrainedModel, list[float] | None]:
    """Try weights over the experts of a mixture; return the plain model of the best ones, and these.

    What is no mixture is returned as it is.
    """
    model = enrolment.model
    if not is_mixture(model):
        return model, None
    weights = model.config.plain_weights
    if WEIGHTS in enrolment.args.ways:
        candidate, weights = best_weights(enrolment)
        tries.candidates.append(candidate)
        tries.of_way[WEIGHTS] = replace(enrolment.voice, way=WEIGHTS, expert_weights=weights)
    return merged(model, weights), weights


def try_context(enrolment: Enrolment, tries: Tries) -> Judged:
    """Try examples of the voice before each recording; return whether they help. Nothing is held out of one sentence.

    The control takes sentences of others as examples.
    """
    args = enrolment.args
    sentences = enrolment.sentences
    if CONTEXT not in args.ways or not enrolment.folds:
        return Judged(False, 0, 0)
    tried = try_examples(enrolment.model, enrolment.processor, sentences, 2 * args.max_examples)
    if examples := best_examples(tried, sentences, args.max_examples):
        tries.of_way[CONTEXT] = with_examples(enrolment, [sentences[i] for i in examples])
        if enrolment.others:
            tries.controls[CONTEXT] = with_examples(enrolment, enrolment.others[: len(examples)])
    return judge(tried, args.context_certainty)


def try_lora(enrolment: Enrolment, tries: Tries, plain: PreTrainedModel, weights: Sequence[float] | None) -> None:
    """Try a LoRA over the plain model of some weights, also in a vote with examples.

    The control is trained on sentences of others.
    """
    candidates, own, control = train_loras(enrolment, plain)
    tries.candidates += candidates
    best = min(candidates, key=lambda one: one.losses.sum())
    first_layer = enrolment.args.settings(enrolment.model.config.encoder_layers).first_layer
    for voices, loras in ((tries.of_way, own), (tries.controls, control)):
        if best.step in loras:
            lora = scaled(loras[best.step], best.scale)
            placed = {"lora": lora, "first_layer": first_layer, "expert_weights": weights}
            voices[LORA] = replace(enrolment.voice, way=LORA, **placed)
            if CONTEXT in voices:
                voices[VOTE] = replace(voices[CONTEXT], way=VOTE, **placed)


def best_weights(enrolment: Enrolment) -> tuple[Candidate, list[float]]:
    """The weights over experts with the least loss, and a candidate with what they lose on held-out sentences."""
    tries = weights_to_try(enrolment.model)
    losses = losses_of_weights(enrolment.model, enrolment.batches, tries)[:, : len(enrolment.sentences)]
    held_out = losses[losses.sum(-1).argmin()].copy()
    for fold in enrolment.folds:  # the weights that are best for the sentences of the other folds
        rest = np.setdiff1d(np.arange(losses.shape[1]), fold)
        held_out[fold] = losses[losses[:, rest].sum(-1).argmin()][fold]
    return Candidate(WEIGHTS, held_out), tries[int(losses.sum(-1).argmin())]


def with_examples(enrolment: Enrolment, examples: Sequence[Sentence]) -> Voice:
    """A voice of recordings that are heard before each one."""
    model = enrolment.model
    return replace(
        enrolment.voice,
        way=CONTEXT,
        examples=[one.waveform for one in examples],
        example_texts=[one.text for one in examples],
        expert_weights=model.config.plain_weights if is_mixture(model) else None,
    )


def train_loras(
    enrolment: Enrolment, plain: PreTrainedModel
) -> tuple[list[Candidate], dict[int, Lora], dict[int, Lora]]:
    """Train a LoRA per fold, one on all sentences, and one on those of others, all at once.

    Returns:
        a candidate for each number of steps and strength (with no fold, only the last), and by number of steps the
        LoRA of all sentences and that of others.
    """
    args = enrolment.args
    batches = enrolment.batches
    folds = enrolment.folds
    own = range(len(enrolment.sentences))
    jobs = [[row for row in own if row not in fold] for fold in folds] + [list(own)]
    if others := range(len(own), len(batches.sentences)):
        jobs.append(list(others))
    settings = args.settings(plain.config.encoder_layers)
    per_step = sum(
        min(1.0, settings.sentences_per_step / len(job)) * sum(map(batches.heard_seconds, job)) for job in jobs
    )
    most = planned_steps(plain, per_step, max(args.voice_marks), args.budget_seconds)
    marks = sorted({min(mark, most) for mark in args.voice_marks})
    if most < max(args.voice_marks):
        logger.info("%g s allow %d steps of training; raise --budget_seconds for more", args.budget_seconds, most)
    training = LoraTraining(plain, batches, jobs, settings, enrolment.seed)
    fold_of = {row: number for number, fold in enumerate(folds) for row in fold}
    candidates = [] if folds else [Candidate(LORA, enrolment.tokens, marks[-1])]
    trained: dict[int, Lora] = {}
    control: dict[int, Lora] = {}
    for step in training.steps(marks):
        trained[step] = training.lora(len(folds))
        if others:
            control[step] = training.lora(len(folds) + 1)
        for scale in args.voice_scales if folds else ():
            losses = training.losses([(fold_of[row], row) for row in own], scale)
            candidates.append(Candidate(LORA, losses, step, scale))
    return candidates, trained, control
