"""Merge a MoE-Whisper into one plain Whisper, and score plain Whispers beside their mixture."""

from collections.abc import Collection, Sequence

import datasets
from transformers import WhisperProcessor

from hf_components.asr import transcribe
from hf_components.checkpoints import BEAMS, Soup, greedy_soup, language_of, load_moe_whisper, prompt_language
from hf_components.moe.benchmark.rows import ZERO_SHOT, run_row, score_rows
from hf_components.runtime import UserError
from hf_components.scoring import compare, word_error_rate
from hf_components.whisper import DynamicContextWhisper, MoeWhisperForConditionalGeneration


def merge_experts(model: MoeWhisperForConditionalGeneration, weights: Sequence[float]) -> DynamicContextWhisper:
    """A plain Whisper that computes what the mixture computes for these `expert_weights`, in a context of 30 s.

    Every layer with experts becomes `W + s (sum_i weights_i B_i A_i + B_shared A_shared)`. The products are averaged,
    not A and B, so the experts need not have started from the same values.

    Args:
        weights: one per expert; the shared expert always counts in full.
    Raises:
        UserError: there is not one finite weight of at least 0 per expert, or they do not add up to 1.
    """
    weights = list(map(float, weights))
    experts = model.config.num_experts
    if len(weights) != experts or min(weights) < 0 or not abs(sum(weights) - 1) < 1e-3:
        raise UserError(
            f"weights must be {experts} numbers of at least 0 that add up to 1, one per expert, got "
            f"{', '.join(f'{weight:g}' for weight in weights)}"
        )
    return model.plain_whisper(weights)


def equal_weights(members: Collection[int], experts: int) -> list[float]:
    """Weights of all experts: the same for `members`, 0 for the others."""
    return [1 / len(members) if expert in members else 0.0 for expert in range(experts)]


def soup_of_experts(
    model: MoeWhisperForConditionalGeneration, processor: WhisperProcessor, corpus: datasets.Dataset, **decoding: int
) -> Soup:
    """A greedy soup of the experts, by the WER on rows of a prepared corpus.

    Args:
        decoding: `batch_size` and `max_new_tokens` of `transcribe`.
    """
    references = corpus["text"][:]

    def error_of(members: list[int]) -> float:
        plain = merge_experts(model, equal_weights(members, model.config.num_experts))
        texts = transcribe(plain, processor, corpus, description="soup of experts", **decoding)
        return word_error_rate(texts, references, language_of(plain))

    return greedy_soup(model.config.num_experts, error_of)


def load_expert(
    checkpoint: str, expert: int | None, experts: int, language: str | None = None
) -> tuple[DynamicContextWhisper, WhisperProcessor]:
    """One expert of a mixture as a plain Whisper, in the audio context of the mixture.

    Args:
        checkpoint: MoE-Whisper, folder or Hub id.
        expert: number of the expert, counted from 0.
        experts: number of its experts.
        language: language code of a multilingual model; None for the one saved with it.
    Raises:
        UserError: there is no such expert.
    """
    if expert is None or not 0 <= expert < experts:
        raise UserError(
            f"{checkpoint} mixes {experts} experts: give --expert 0 to {experts - 1}, got {expert}; or "
            "merge them with recipes/merge_moe_whisper.py"
        )
    mixture, processor = load_moe_whisper(checkpoint)
    prompt_language(mixture, processor, language)
    model = merge_experts(mixture, equal_weights([expert], experts))
    model.set_audio_context(mixture.audio_context, mixture.min_audio_context)
    return model, processor


def shared_whisper(model: MoeWhisperForConditionalGeneration) -> DynamicContextWhisper:
    """The plain Whisper of the shared expert alone, in a context of 30 s."""
    return model.plain_whisper([0.0] * model.config.num_experts)


def base_whisper(model: MoeWhisperForConditionalGeneration) -> DynamicContextWhisper:
    """The plain Whisper that the experts adapt, with an audio context of 30 s."""
    return model.plain_whisper([0.0] * model.config.num_experts, shared=0.0)


def score_plain(
    plain: dict[str, DynamicContextWhisper],
    model: MoeWhisperForConditionalGeneration,
    processor: WhisperProcessor,
    corpus: datasets.Dataset,
    *,
    split: str,
    batch_size: int,
    max_new_tokens: int,
    num_bootstrap: int,
    seed: int,
) -> dict:
    """WER of plain Whispers with stock Whisper's 30 s, beside zero-shot and the mixture in its own audio context.

    Args:
        plain: models by the name of their row.
        model: the mixture they come from; its base is the zero-shot row.
        split: name of the split that `corpus` is a sample of.
    Returns:
        the result of `score_rows` with `sample`, and with differences against the mixture and the first plain Whisper.
    """
    systems = {ZERO_SHOT: base_whisper(model), "moe": model, **plain}
    rows = [
        run_row(name, system, processor, corpus, batch_size=batch_size, num_beams=BEAMS, max_new_tokens=max_new_tokens)
        for name, system in systems.items()
    ]
    result = score_rows(rows, corpus, num_bootstrap=num_bootstrap, seed=seed)
    references = corpus["text"][:]
    speakers = corpus["speaker_id"][:]
    _, mixture, first, *others = rows
    for a, b in [(mixture, first), *((baseline, row) for row in others for baseline in (mixture, first))]:
        result["differences"].append(
            {
                "a": a.name,
                "b": b.name,
                **compare(
                    a.texts, b.texts, references, speakers, language=a.language, num_bootstrap=num_bootstrap, seed=seed
                ),
            }
        )
    result["sample"] = {"split": split, "utterances": len(corpus), "speakers": len(set(speakers)), "seed": seed}
    return result
