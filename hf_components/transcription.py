"""Transcribe a corpus with any speech recogniser: batches of like duration, split over processes, text in corpus
order."""

from collections.abc import Sequence

import datasets
import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from tqdm.auto import tqdm
from transformers import PreTrainedModel, ProcessorMixin

from hf_components.asr.families import family_of
from hf_components.corpus import waveforms


def duration_batches(durations: list[float], batch_size: int) -> list[list[int]]:
    """Indices in batches of like duration, the longest first, so that memory runs out at once or not at all."""
    order = np.argsort(-np.asarray(durations), kind="stable")
    return [order[start : start + batch_size].tolist() for start in range(0, len(order), batch_size)]


def seconds_batches(seconds: Sequence[float], batch_seconds: float) -> list[list[int]]:
    """Indices in batches that padded to their longest are at most `batch_seconds` (or one alone), the longest
    first."""
    order = np.argsort(-np.asarray(seconds), kind="stable").tolist()
    batches = []
    while order:
        size = max(1, int(batch_seconds // seconds[order[0]]))
        batches.append(order[:size])
        order = order[size:]
    return batches


@torch.inference_mode()
def transcribe(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    corpus: datasets.Dataset,
    *,
    batch_size: int = 16,
    expert_weights: torch.Tensor | None = None,
    max_new_tokens: int = 225,
    num_beams: int = 1,
    language: str | None = None,
    description: str = "transcribing",
) -> list[str]:
    """Transcripts of a corpus, in its order; each process does its share and all return the whole.

    Args:
        model: of any family of `hf_components.asr`. A Whisper's audio context decides how far features are padded.
        corpus: rows of the data contract, at most 30 s each, audio not decoded.
        batch_size: utterances per batch and process.
        expert_weights: `(utterances, experts)`, overrides the router of a MoE-Whisper.
        max_new_tokens: bound on each transcript; a looping decoder stops there.
        language: code such as "en", for families that are prompted with each request; a Whisper is when it is loaded.
    Raises:
        UserError: no family serves the model, or it cannot decode with these settings.
    """
    family, state = family_of(model), PartialState()
    was_training = model.training
    model.eval()
    batches = duration_batches(corpus["duration"], batch_size)[state.process_index :: state.num_processes]
    texts: list[tuple[int, str]] = []
    for indices in tqdm(batches, desc=description, unit="batch", disable=not state.is_main_process):
        inputs = family.inputs(processor, waveforms(corpus.select(indices)), language=language)
        routing = {} if expert_weights is None else {"expert_weights": expert_weights[indices]}
        written = family.decode(
            model, processor, inputs, max_new_tokens=max_new_tokens, num_beams=num_beams, **routing
        )
        texts += zip(indices, written, strict=True)
    model.train(was_training)
    if state.num_processes > 1:
        texts = gather_object(texts)
    return [text.strip() for _, text in sorted(texts)]
