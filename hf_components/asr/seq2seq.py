"""Models that write token by token from audio and, most of them, a prompt: an encoder and a decoder, or a language model
that hears."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForSpeechSeq2Seq, ProcessorMixin

from hf_components.asr.family import Family, extend, place
from hf_components.errors import UserError


@dataclass(frozen=True)
class Seq2Seq(Family):
    """One such model; they differ in how they are asked.

    Attributes:
        model_type: of its configuration.
        request: `(processor, waveforms, language)` -> what `generate` takes.
        reading: options of the processor's `decode` that leave nothing but the text.
    """

    name: str
    model_type: str
    request: Callable[[ProcessorMixin, Sequence[np.ndarray], str], Mapping[str, Any]]
    reading: Mapping[str, Any] = field(default_factory=dict)

    @property
    def model_classes(self) -> dict[str, type]:
        return {self.model_type: AutoModelForSpeechSeq2Seq}

    def inputs(self, processor, waveforms, *, language=None, full_context=False):
        language = language or "en"
        try:
            inputs = self.request(processor, extend(waveforms), language)
        except ValueError as error:
            raise UserError(f"{self.name} cannot be asked for language {language!r}: {error}") from error
        return {name: value for name, value in inputs.items() if isinstance(value, torch.Tensor)}

    def decode(self, model, processor, inputs, *, max_new_tokens, num_beams):
        inputs = place(inputs, model)
        tokens = model.generate(**inputs, max_new_tokens=max_new_tokens, num_beams=num_beams, do_sample=False)
        for prompt in ("decoder_input_ids", "input_ids"):
            if prompt in inputs:  # what is returned begins with it
                tokens = tokens[:, inputs[prompt].shape[1] :]
        return processor.decode(tokens, skip_special_tokens=True, **self.reading)
