"""Learn a voice: place it in several ways, and choose among them by sentences that were held out."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

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
    batches = Batches(model, processor, [*sentences, *others], seed)
    own = range(len(sentences))
    tokens = batches.tokens[: len(sentences)]
    folds = folds_of([normalize(one.text, normalizer_of(None)) for one in sentences], args.max_folds, seed)
    common = {
        "name": name,
        "base": base_model_id(model.name_or_path),
        "base_digest": digest_of_model(model),
        "sentences": len(sentences),
        "seconds_of_speech": round(sum(one.seconds for one in sentences), 2),
    }
    candidates = [Candidate(NO_CHANGE, losses_of_model(model, batches)[: len(sentences)])]
    plain, weights = model, None
    if is_mixture(model) and WEIGHTS in args.ways:
        tries = weights_to_try(model)
        losses = losses_of_weights(model, batches, tries)[:, : len(sentences)]
        candidates.append(Candidate(WEIGHTS, _held_out(losses, folds)))
        best = int(losses.sum(-1).argmin())
        weights = tries[best]
    if is_mixture(model):
        weights = weights or model.config.plain_weights
        plain = merged(model, weights)
    examples = []
    judged = Judged(False, 0, 0)
    if CONTEXT in args.ways and folds:
        tried = try_examples(model, processor, sentences, 2 * args.max_examples)
        examples = best_examples(tried, sentences, args.max_examples)
        judged = judge(tried, args.context_certainty)

    marks, trained, control = [0], {}, {}
    if LORA in args.ways and (all_ways or not judged.helps):
        marks, trained, control = _train_loras(plain, batches, folds, own, args, seed, candidates)

    tokens_of_all = np.asarray(tokens)
    chosen = candidates[0]
    if folds and judged.helps:  # found by errors, which count more than loss
        chosen = Candidate(CONTEXT, candidates[0].losses)
    elif folds:
        chosen = choose(candidates, tokens_of_all, min_gain=args.min_gain, certainty=args.certainty)
    of_way = {}
    if any(one.way == WEIGHTS for one in candidates):
        of_way[WEIGHTS] = Voice(way=WEIGHTS, expert_weights=weights, **common)

    def with_examples(examples: Sequence[Sentence]) -> Voice:
        return Voice(
            way=CONTEXT,
            examples=[one.waveform for one in examples],
            example_texts=[one.text for one in examples],
            expert_weights=model.config.plain_weights if is_mixture(model) else None,
            **common,
        )

    controls = {}
    if examples:
        of_way[CONTEXT] = with_examples([sentences[i] for i in examples])
        if others:
            controls[CONTEXT] = with_examples(others[: len(examples)])
    loras = [one for one in candidates if one.way == LORA]
    best_lora = Candidate(LORA, tokens_of_all, marks[-1], 1.0)
    if loras:
        best_lora = min(loras, key=lambda one: one.losses.sum())

    def with_lora(lora: Lora, candidate: Candidate) -> Voice:
        return Voice(
            way=LORA,
            lora=scaled(lora, candidate.scale),
            first_layer=args.settings(model.config.encoder_layers).first_layer,
            expert_weights=weights,
            **common,
        )

    if trained:
        of_way[LORA] = with_lora(trained[best_lora.step], best_lora)
    if control:
        controls[LORA] = with_lora(control[best_lora.step], best_lora)
    no_change = Voice(way=NO_CHANGE, **common)
    shown = [_shown(one, candidates[0], tokens_of_all) for one in candidates] if folds else []
    voice = {NO_CHANGE: no_change, **of_way}[chosen.way]
    figures = {
        "chosen": _shown(chosen, candidates[0], tokens_of_all) if folds else {"way": NO_CHANGE},
        "folds": len(folds),
        "errors_before": judged.errors_before,
        "errors_after": judged.errors_after,
        "candidates": shown,
    }
    voice = Voice(**{**vars(voice), "figures": figures})
    return Learned(
        voice,
        of_way,
        controls,
        shown,
        time.perf_counter() - started,
    )


def _train_loras(plain, batches, folds, own, args, seed, candidates) -> tuple[list[int], dict, dict]:
    """Train a LoRA per fold, one on all sentences, and one on those of others; adds the candidates."""
    others = range(len(own), len(batches.sentences))
    jobs = [[row for row in own if row not in fold] for fold in folds] + [list(own)]
    if others:
        jobs.append(list(others))
    settings = args.settings(plain.config.encoder_layers)
    per_step = sum(
        min(1.0, settings.sentences_per_step / len(job)) * sum(map(batches.heard_seconds, job)) for job in jobs
    )
    most = planned_steps(plain, per_step, max(args.voice_marks), args.budget_seconds)
    marks = sorted({min(mark, most) for mark in args.voice_marks})
    if most < max(args.voice_marks):
        logger.info("%g s allow %d steps of training; raise --budget_seconds for more", args.budget_seconds, most)
    training = LoraTraining(plain, batches, jobs, settings, seed)
    fold_of = {row: number for number, fold in enumerate(folds) for row in fold}
    trained: dict[int, Lora] = {}
    control: dict[int, Lora] = {}
    for step in training.steps(marks):
        trained[step] = training.lora(len(folds))
        if others:
            control[step] = training.lora(len(folds) + 1)
        for scale in args.voice_scales if folds else ():
            losses = training.losses([(fold_of[row], row) for row in own], scale)
            candidates.append(Candidate(LORA, losses, step, scale))
    return marks, trained, control


def _held_out(losses: np.ndarray, folds: Sequence[Sequence[int]]) -> np.ndarray:
    """Losses of each sentence with the weights that are best for the sentences of the other folds."""
    found = losses[losses.sum(-1).argmin()].copy()
    for fold in folds:
        rest = np.setdiff1d(np.arange(losses.shape[1]), fold)
        found[fold] = losses[losses[:, rest].sum(-1).argmin()][fold]
    return found


def _shown(candidate: Candidate, no_change: Candidate, tokens: np.ndarray) -> dict:
    gain, error = gain_of(candidate, no_change, tokens)
    return {
        "way": candidate.way,
        "step": candidate.step,
        "scale": candidate.scale,
        "held_out_loss": round(float(candidate.losses.sum() / tokens.sum()), 5),
        "gain": round(gain, 5),
        "standard_error": round(error, 5),
    }
