"""Run a system on the sample, score it, and compare it with the baselines."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import datasets
import numpy as np
import torch
from accelerate import PartialState
from transformers import PreTrainedModel, ProcessorMixin

from hf_components.asr import family_of, transcribe
from hf_components.checkpoints import language_of
from hf_components.scoring import has_markup, paired_bootstrap, sap_counts, score, score_sap, utterance_errors
from hf_components.speech import waveforms
from hf_components.whisper import MoeWhisperForConditionalGeneration
from hf_components.whisper.dynamic_generation import DynamicContextGenerationMixin

ZERO_SHOT = "zero_shot"
EXPERT = "expert_"  # with its number: an expert alone
SHARED = "moe_shared"  # the shared expert of a mixture alone; the other experts should improve on it
MERGE = "moe_merge"  # the mean of a mixture's experts in one decode; a router should improve on it
CHANCE = "chance"  # an expert drawn at random, as expected over all draws; a router should improve on it
BASELINES = (ZERO_SHOT, "single_lora", "single_lora_wide", "full", "merge", SHARED, MERGE)


@dataclass
class Row:
    """One system's transcripts of the sample, in its order.

    `seconds` is wall time from the bytes of the audio files to text, over all processes, without loading the model.
    """

    name: str
    audio_context: str
    texts: list[str]
    seconds: float
    language: str = "en"  # language code of the texts
    decodes: float = 1  # price: how many times an utterance is decoded


def run_row(
    name: str,
    model: PreTrainedModel,
    processor: ProcessorMixin,
    corpus: datasets.Dataset,
    *,
    expert_weights: torch.Tensor | None = None,
    **options,
) -> Row:
    """Transcribe the sample and measure the time.

    Args:
        expert_weights: `(utterances, experts)`, used instead of the router's choice.
        options: `batch_size`, `num_beams`, `max_new_tokens`, `language` of `transcribe`. A family without a beam
            search is greedy.
    """
    if not family_of(model).has_beams:
        options["num_beams"] = 1
    _warm_up(model, processor, corpus, expert_weights, options["num_beams"], options.get("language"))
    is_mixture = isinstance(model, MoeWhisperForConditionalGeneration)
    chooses = is_mixture and expert_weights is None and model.config.mixture == "choose"
    before = (model.experts_asked, model.utterances_chosen) if chooses else ()
    start = time.perf_counter()
    texts = transcribe(model, processor, corpus, expert_weights=expert_weights, description=name, **options)
    context = "the clip"
    if isinstance(model, DynamicContextGenerationMixin):
        context = "30 s" if model.audio_context == "full" else f">= {model.min_audio_context / 100:g} s"
    seconds = time.perf_counter() - start
    decodes = count_decodes(model, expert_weights)
    if chooses and PartialState().num_processes == 1:  # else each process knows only its own share
        asked = model.experts_asked - before[0]
        chosen = model.utterances_chosen - before[1]
        decodes = round(1 + (decodes - 1) * asked / max(1, chosen), 2)
    return Row(name, context, texts, seconds, options.get("language") or language_of(model), decodes)


def count_decodes(model: PreTrainedModel, expert_weights: torch.Tensor | None = None) -> int:
    """How many times a model decodes an utterance, at most: once for each expert that writes by itself, else once."""
    if not isinstance(model, MoeWhisperForConditionalGeneration):
        return 1
    config = model.config
    if config.mixture == "choose" and expert_weights is None:
        return config.num_experts + 1
    if config.mixture != "logits":
        return 1
    if expert_weights is not None or config.routing == "soft":
        return config.num_experts
    return config.experts_per_utterance if config.routing == "top_k" else 1


def score_rows(
    rows: list[Row], corpus: datasets.Dataset, experts: Sequence[Row] = (), *, num_bootstrap: int, seed: int
) -> dict:
    """Score every row, and compare it with every baseline before it.

    Args:
        rows: rows of the systems, baselines first.
        experts: each expert of the mixture alone. The mixture's rows are also compared with the mean of their errors,
            which is what an expert drawn at random is expected to make. The row `moe_random` is one such draw, whose
            luck widens its interval.
        num_bootstrap: resamples over speakers for each interval.
        seed: seed of the resampling.
    Returns:
        `rows` (name -> figures of the `whisper_wer` metric, audio context, decodes per utterance, real-time factor:
        wall seconds per second of audio; `sap`, where transcripts have disfluencies: the rates by the rules of the SAP
        challenge, see `score_sap`), `differences` (paired comparisons b - a on the same utterances), `bootstrap`
        (its settings).
    """
    references = corpus["text"][:]
    speakers = corpus["speaker_id"][:]
    groups = corpus["group"][:]
    audio_seconds = sum(corpus["duration"])
    resampling = {"num_bootstrap": num_bootstrap, "seed": seed}
    figures = {}
    errors = {}
    pairs = corpus["references"][:] if "references" in corpus.column_names else []
    is_marked = has_markup(pairs)
    differences = []
    if experts:
        alone = [utterance_errors(expert.texts, references, expert.language) for expert in experts]
        errors[CHANCE] = {name: np.mean([counts[name] for counts in alone], axis=0) for name in alone[0]}
    for row in rows:
        figures[row.name] = {
            "audio_context": row.audio_context,
            "decodes": row.decodes,
            "audio_seconds": round(audio_seconds, 2),
            "seconds": round(row.seconds, 2),
            "real_time_factor": round(row.seconds / audio_seconds, 4),
            **score(row.texts, references, groups, speakers, language=row.language, **resampling),
        }
        if is_marked:
            figures[row.name]["sap"] = score_sap(sap_counts(row.texts, pairs), speakers, **resampling)
        errors[row.name] = utterance_errors(row.texts, references, row.language)
        others = [name for name in BASELINES if name in errors and name != row.name]
        if experts and row.name.startswith("moe_") and row.name not in BASELINES:
            others.append(CHANCE)
        differences += [
            {"a": other, "b": row.name, **paired_bootstrap(errors[other], errors[row.name], speakers, **resampling)}
            for other in others
        ]
    return {
        "rows": figures,
        "differences": differences,
        "bootstrap": {"resamples": num_bootstrap, "unit": "speaker", "confidence": 0.95, "seed": seed},
    }


@torch.inference_mode()
def _warm_up(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    corpus: datasets.Dataset,
    expert_weights: torch.Tensor | None,
    num_beams: int,
    language: str | None,
) -> None:
    # The first pass also sets up kernels, caches and memory; two tokens of one clip take most of that time.
    shortest = int(np.argmin(corpus["duration"]))
    routing = {} if expert_weights is None else {"expert_weights": expert_weights[[shortest]]}
    family = family_of(model)
    inputs = family.inputs(processor, waveforms(corpus.select([shortest])), language=language)
    family.decode(model, processor, inputs, max_new_tokens=2, num_beams=num_beams, **routing)
