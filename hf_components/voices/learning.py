"""Learn a voice: place it in several ways, and choose among them by sentences that were held out."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from transformers import PreTrainedModel, WhisperProcessor

from hf_components.checkpoints import CONTEXT, LORA, NO_CHANGE, VOTE, Voice
from hf_components.runtime import UserError
from hf_components.voices.arguments import VoiceArguments
from hf_components.voices.choosing import Candidate, choose, gain_of
from hf_components.voices.context import Judged
from hf_components.voices.sentences import Sentence
from hf_components.voices.ways import Enrolment, Tries, try_context, try_lora, try_weights


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
) -> Learned:
    """Learn the voice of one person.

    The same sentences, settings and seed give the same bits. With one sentence nothing can be held out, so that the
    choice is no change.

    Args:
        model: the base, a Whisper or a mixture, in evaluation mode.
        name: name of the person.
        others: sentences of other people, for the control.
    Raises:
        UserError: there is no sentence, or one is too long.
    """
    if not sentences:
        raise UserError(f"the voice of {name} needs at least one sentence, got none")
    started = time.perf_counter()
    enrolment = Enrolment(model, processor, name, sentences, others, args, seed)
    tries = Tries()
    plain, weights = try_weights(enrolment, tries)
    examples = try_context(enrolment, tries)
    if LORA in args.ways:
        try_lora(enrolment, tries, plain, weights)
    chosen = choose_way(enrolment, tries, examples)
    figures = figures_of(enrolment, tries, examples, chosen)
    voice = replace({NO_CHANGE: enrolment.voice, **tries.of_way}[chosen.way], figures=figures)
    return Learned(voice, tries.of_way, tries.controls, figures["candidates"], time.perf_counter() - started)


def choose_way(enrolment: Enrolment, tries: Tries, examples: Judged) -> Candidate:
    """The way that is taken, by what was held out; no change if nothing was."""
    if not enrolment.folds:
        return enrolment.no_change
    if VOTE in tries.of_way and examples.errors_before:  # where one of three goes wrong, the others outvote it
        return replace(enrolment.no_change, way=VOTE)
    if examples.helps:  # found by errors, which count more than loss
        return replace(enrolment.no_change, way=CONTEXT)
    args = enrolment.args
    candidates = [enrolment.no_change, *tries.candidates]
    return choose(candidates, enrolment.tokens, min_gain=args.min_gain, certainty=args.certainty)


def figures_of(enrolment: Enrolment, tries: Tries, examples: Judged, chosen: Candidate) -> dict[str, Any]:
    """The figures by which a way was chosen, as they are saved with the voice."""

    def shown(candidate: Candidate) -> dict[str, Any]:
        return _shown(candidate, enrolment.no_change, enrolment.tokens)

    candidates = [enrolment.no_change, *tries.candidates] if enrolment.folds else []
    return {
        "chosen": shown(chosen) if enrolment.folds else {"way": NO_CHANGE},
        "folds": len(enrolment.folds),
        "errors_before": examples.errors_before,
        "errors_after": examples.errors_after,
        "candidates": [shown(one) for one in candidates],
    }


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
