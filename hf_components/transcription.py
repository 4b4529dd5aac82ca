"""Transcribe a corpus with a Whisper: batches of like duration, split over processes, text in corpus order."""

import datasets
import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from tqdm.auto import tqdm
from transformers import PreTrainedModel, WhisperProcessor

from hf_components.audio import log_mel
from hf_components.corpus import waveforms
from hf_components.errors import UserError

TASK_TOKENS = 4  # at most: start, language, task, no timestamps


def duration_batches(durations: list[float], batch_size: int) -> list[list[int]]:
    """Indices in batches of like duration, the longest first, so that memory runs out at once or not at all."""
    order = np.argsort(-np.asarray(durations), kind="stable")
    return [order[start : start + batch_size].tolist() for start in range(0, len(order), batch_size)]


@torch.inference_mode()
def transcribe(model: PreTrainedModel, processor: WhisperProcessor, corpus: datasets.Dataset, *, batch_size: int = 16,
               expert_weights: torch.Tensor | None = None, max_new_tokens: int = 225, num_beams: int = 1,
               description: str = "transcribing") -> list[str]:
    """Transcripts of a corpus, in its order; each process does its share and all return the whole.

    Args:
        model: a Whisper of `hf_components.whisper`; its audio context decides how far features are padded.
        corpus: rows of the data contract, at most 30 s each, audio not decoded.
        batch_size: utterances per batch and process.
        expert_weights: `(utterances, experts)`, overrides the router of a MoE-Whisper.
        max_new_tokens: bound on each transcript; a looping decoder stops there.
    Raises:
        UserError: the decoder has fewer positions than that.
    """
    longest = model.config.max_target_positions - TASK_TOKENS
    if not 1 <= max_new_tokens <= longest:
        raise UserError(f"max_new_tokens must lie in [1, {longest}] with this decoder's positions, got {max_new_tokens}")
    state = PartialState()
    was_training = model.training
    model.eval()
    batches = duration_batches(corpus["duration"], batch_size)[state.process_index :: state.num_processes]
    texts: list[tuple[int, str]] = []
    for indices in tqdm(batches, desc=description, unit="batch", disable=not state.is_main_process):
        features = log_mel(processor.feature_extractor, waveforms(corpus.select(indices)))
        routing = {} if expert_weights is None else {"expert_weights": expert_weights[indices].to(model.device)}
        features = features.to(model.device, model.dtype)
        tokens = model.generate(features, max_new_tokens=max_new_tokens, num_beams=num_beams, **routing)
        texts += zip(indices, processor.batch_decode(tokens, skip_special_tokens=True), strict=True)
    model.train(was_training)
    if state.num_processes > 1:
        texts = gather_object(texts)
    return [text.strip() for _, text in sorted(texts)]
