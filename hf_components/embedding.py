"""Utterance embeddings: what a router at some encoder layer sees, for a whole corpus."""

import datasets
import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from tqdm.auto import tqdm
from transformers import WhisperProcessor

from hf_components.audio import log_mel
from hf_components.corpus import waveforms
from hf_components.training.data import FULL_CONTEXT_FRAMES
from hf_components.transcription import duration_batches
from hf_components.whisper import DynamicContextWhisper

FULL_CONTEXT = "full_context"  # folder of the embeddings at 30 s, beside those of the clips alone


@torch.inference_mode()
def embed_corpus(model: DynamicContextWhisper, processor: WhisperProcessor, corpus: datasets.Dataset, *, layer: int,
                 full_context: bool, batch_size: int = 16, description: str = "embedding") -> np.ndarray:
    """Mean over real frames of the encoder's states after `layer` layers.

    Args:
        corpus: rows of the data contract, at most 30 s each, audio not decoded.
        layer: 1 to the encoder's number of layers.
        full_context: show the encoder 30 s, as stock Whisper does, instead of the clip alone.
    Returns:
        `(utterances, d_model)` float32 in the order of the corpus, the same on every process.
    """
    state = PartialState()
    batches = duration_batches(corpus["duration"], batch_size)[state.process_index :: state.num_processes]
    found: list[tuple[int, np.ndarray]] = []
    for indices in tqdm(batches, desc=description, unit="batch", disable=not state.is_main_process):
        clips = waveforms(corpus.select(indices))
        features = log_mel(processor.feature_extractor, clips, FULL_CONTEXT_FRAMES if full_context else None)
        embeddings = model.model.encoder.embed(features.to(model.device, model.dtype), layer)
        found += zip(indices, embeddings.cpu().numpy(), strict=True)
    if state.num_processes > 1:
        found = gather_object(found)
    return np.stack([embedding for _, embedding in sorted(found, key=lambda pair: pair[0])])
