"""Learn a voice: place it in several ways, and choose among them by sentences that were held out."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from transformers import PreTrainedModel, WhisperProcessor

from hf_components.checkpoints import CONTEXT, LORA, NO_CHANGE, WEIGHTS, Voice, base_model_id, digest_of_model
from hf_components.metrics.whisper_wer.counting import normalize
from hf_components.runtime import UserError
from hf_components.scoring import normalizer_of
from hf_components.voices.arguments import VoiceArguments
from hf_components.voices.batches import Batches
from hf_components.voices.choosing import Candidate, choose, folds_of, gain_of
from hf_components.voices.context import Judged, best_examples, judge, try_examples
from hf_components.voices.lora import LoraTraining, planned_steps, scaled
from hf_components.voices.placing import is_mixture, losses_of_model, losses_of_weights, merged, weights_to_try
from hf_components.voices.sentences import Sentence
from hf_components.whisper.adapters import Lora

logger = logging.getLogger(__name__)


@dataclass
class Learned:
    """A learned voice, and what it is compared with.

    Args:
        voice: the voice that was chosen.
        of_way: the best voice of each way, chosen or not, except "no change".
        controls: the same of other people's sentences: a LoRA of the same steps and strength, another's example.
        candidates: held-out loss per token of each candidate, for the record.
        seconds: time that it took.
    """

    voice: Voice
    of_way: dict[str, Voice]
    controls: dict[str, Voice]
    candidates: list[dict] = field(default_factory=list)
    seconds: float = 0.0


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


def learn_voice(
    model: PreTrainedModel,
    processor: WhisperProcessor,
    name: str,
    sentences: Sequence[Sentence],
    args: VoiceArguments,
    seed: int,
    others: Sequence[Sentence] = (),
    *,
    all_ways: bool = False,
) -> Learned:
    """Learn the voice of one person.

    The same sentences, settings and seed give the same bits. With one sentence nothing can be held out, so that the
    choice is no change.

    Args:
        model: the base, a Whisper or a mixture, in evaluation mode.
        name: name of the person.
        others: sentences of other people, for the control.
        all_ways: also train a LoRA that will not be chosen, because examples help.
    Raises:
        UserError: there is no sentence, or one is too long.
    """
    if not sentences:
        raise UserError(f"the voice of {name} needs at least one sentence, got none")
    started = time.perf_counter()
    enrolment = Enrolment(model, processor, name, sentences, others, args, seed)
    no_change = Candidate(NO_CHANGE, losses_of_model(model, enrolment.batches)[: len(sentences)])
    of_way: dict[str, Voice] = {}
    controls: dict[str, Voice] = {}

    # 1 Weights over the experts of a mixture; then a plain model for what follows
    of_weights = []
    plain = model
    weights = None
    if is_mixture(model):
        weights = model.config.plain_weights
        if WEIGHTS in args.ways:
            candidate, weights = best_weights(enrolment)
            of_weights = [candidate]
            of_way[WEIGHTS] = replace(enrolment.voice, way=WEIGHTS, expert_weights=weights)
        plain = merged(model, weights)

    # 2 Examples of the voice before each recording
    judged = Judged(False, 0, 0)
    if CONTEXT in args.ways and enrolment.folds:
        tried = try_examples(model, processor, sentences, 2 * args.max_examples)
        judged = judge(tried, args.context_certainty)
        if examples := best_examples(tried, sentences, args.max_examples):
            of_way[CONTEXT] = with_examples(enrolment, [sentences[i] for i in examples])
            if others:
                controls[CONTEXT] = with_examples(enrolment, others[: len(examples)])

    # 3 A LoRA over the plain model
    of_lora: list[Candidate] = []
    if LORA in args.ways and (all_ways or not judged.helps):
        of_lora, own, control = train_loras(enrolment, plain)
        best = min(of_lora, key=lambda one: one.losses.sum())
        first_layer = args.settings(model.config.encoder_layers).first_layer
        for voices, loras in ((of_way, own), (controls, control)):
            if best.step in loras:
                lora = scaled(loras[best.step], best.scale)
                placed = {"lora": lora, "first_layer": first_layer, "expert_weights": weights}
                voices[LORA] = replace(enrolment.voice, way=LORA, **placed)

    # 4 The choice, by what was held out
    candidates = [no_change, *of_weights, *(of_lora if enrolment.folds else ())]
    chosen = no_change
    if enrolment.folds and judged.helps:  # found by errors, which count more than loss
        chosen = replace(no_change, way=CONTEXT)
    elif enrolment.folds:
        chosen = choose(candidates, enrolment.tokens, min_gain=args.min_gain, certainty=args.certainty)
    shown = [_shown(one, no_change, enrolment.tokens) for one in candidates] if enrolment.folds else []
    figures = {
        "chosen": _shown(chosen, no_change, enrolment.tokens) if enrolment.folds else {"way": NO_CHANGE},
        "folds": len(enrolment.folds),
        "errors_before": judged.errors_before,
        "errors_after": judged.errors_after,
        "candidates": shown,
    }
    voice = replace({NO_CHANGE: enrolment.voice, **of_way}[chosen.way], figures=figures)
    return Learned(voice, of_way, controls, shown, time.perf_counter() - started)


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


def _shown(candidate: Candidate, no_change: Candidate, tokens: np.ndarray) -> dict[str, Any]:
    gain, error = gain_of(candidate, no_change, tokens)
    return {
        "way": candidate.way,
        "step": candidate.step,
        "scale": candidate.scale,
        "held_out_loss": round(float(candidate.losses.sum() / tokens.sum()), 5),
        "gain": round(gain, 5),
        "standard_error": round(error, 5),
    }
