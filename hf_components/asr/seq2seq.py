"""Models that write token by token, most with a prompt: encoder-decoders, and language models with audio input."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForSpeechSeq2Seq, ProcessorMixin

from hf_components.asr.family import Family, Request, ask, padded, place, rate_of, unprompted
from hf_components.runtime import UserError
from hf_components.speech import plain_text

LONGEST_PROMPT = 16  # tokens before the text, of decoders with a prompt


@dataclass(frozen=True)
class Seq2Seq(Family):
    """Models of this kind with the same form of request.

    Attributes:
        model_types: `model_type` of their configurations.
        request: function that makes the inputs of `generate`.
        reading: options of the processor's `decode` that keep only the text.
        writing: options of `generate`.
        model_class: auto class that loads them.
        hears_windows: every clip is padded to 30 s, because the encoder is a Whisper's.
    """

    name: str
    model_types: Sequence[str]
    request: Request
    reading: Mapping[str, Any] = field(default_factory=dict)
    writing: Mapping[str, Any] = field(default_factory=dict)
    model_class: type = AutoModelForSpeechSeq2Seq
    hears_windows: bool = False
    lora_layers = (
        *("q_proj", "k_proj", "v_proj", "out_proj", "o_proj"),  # attention
        *("fc1", "fc2", "gate_proj", "up_proj", "down_proj"),  # feed-forward layers of encoders and language models
    )

    @property
    def model_classes(self) -> dict[str, type]:
        return dict.fromkeys(self.model_types, self.model_class)

    def load(self, name_or_path, fields, language=None, dtype=torch.float32):
        model, processor = super().load(name_or_path, fields, language, dtype)
        processor.tokenizer.padding_side = "left"  # the text follows directly after the prompt
        return model, processor

    def heard_seconds(self, model, seconds):
        return self.longest_seconds if self.hears_windows else super().heard_seconds(model, seconds)

    def inputs(self, processor, waveforms, *, language=None, full_context=False):
        return ask(self.name, self.request, processor, waveforms, language)

    def decode(self, model, processor, inputs, *, max_new_tokens, num_beams):
        inputs = place(inputs, model)
        search = {} if num_beams is None else {"num_beams": num_beams}
        tokens = model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False, **search, **self.writing)
        for prompt in ("decoder_input_ids", "input_ids"):
            if prompt in inputs:  # the output begins with it
                tokens = tokens[:, inputs[prompt].shape[1] :]
        return processor.decode(tokens, skip_special_tokens=True, **self.reading)

    def packed(self, model_type, language):
        spoken = {in_language: {"language": language or "en"}, in_any_language: {}, unprompted: None}
        if self.request not in spoken:
            return None
        settings = {"reading": dict(self.reading), "writing": dict(self.writing), "request": spoken[self.request]}
        return {"kind": "generates", "class": self.model_class.__name__, **settings}

    def tokenize(self, processor, text):
        """Ids of text and end token, which follow the prompt. The text is plain: it names no special token."""
        ids = processor.tokenizer(plain_text(text), add_special_tokens=False).input_ids
        return [*ids, processor.tokenizer.eos_token_id]

    def training_batch(self, processor, waveforms, labels, *, language=None, full_context=False):
        """The same as in `Family`. The texts follow the prompt, on which there is no loss."""
        batch = self.inputs(processor, waveforms, language=language, full_context=full_context)
        targets = padded(labels, -100)
        written = targets.masked_fill(targets == -100, processor.tokenizer.pad_token_id)
        if "input_ids" in batch:  # a language model: one sequence, whose labels the model shifts itself
            prompt = batch["input_ids"]
            batch["input_ids"] = torch.cat([prompt, written], dim=1)
            batch["attention_mask"] = torch.cat([batch["attention_mask"], (targets != -100).long()], dim=1)
            targets = torch.cat([torch.full_like(prompt, -100), targets], dim=1)
        elif "decoder_input_ids" in batch:  # a prompt of the decoder, whose last token predicts the first of the text
            prompt = batch["decoder_input_ids"]
            batch["decoder_input_ids"] = torch.cat([prompt, written[:, :-1]], dim=1)
            targets = torch.cat([torch.full_like(prompt[:, 1:], -100), targets], dim=1)
        return {**batch, "labels": targets}

    def longest_labels(self, model):
        if not model.config.is_encoder_decoder:
            return None
        decoder = model.config.get_text_config(decoder=True)
        names = ("max_target_positions", "max_text_positions", "max_position_embeddings")
        positions = next((getattr(decoder, name) for name in names if getattr(decoder, name, None)), None)
        return positions and positions - (0 if self.request is unprompted else LONGEST_PROMPT)

    def score(self, model, batch):
        scores = super().score(model, batch)
        if "input_ids" not in batch:
            return scores
        return scores._replace(logits=scores.logits[:, :-1], real=scores.real[:, 1:])  # position i predicts i + 1


class EncoderDecoder(Seq2Seq):
    """Encoder-decoders without a prompt; the checkpoint decides what they write.

    This is the entry for all models of this kind without their own one: Moonshine, Speech2Text, SpeechT5, a combined
    encoder and decoder, and future ones.
    """

    def load(self, name_or_path, fields, language=None, dtype=torch.float32):
        model, processor = super().load(name_or_path, fields, language, dtype)
        if not model.config.is_encoder_decoder:
            raise UserError(
                f"{name_or_path} is of type {model.config.model_type}, a language model with audio input, but its "
                "prompt for transcription is not known; add an entry to hf_components/asr/audio_llms.py"
            )
        return model, processor

    def prepare_for_training(self, model, *, freeze=None, from_scratch=False):
        super().prepare_for_training(model, freeze=freeze)
        decoder = model.config.get_text_config(decoder=True)
        for name, of_decoder in (("pad_token_id", "pad_token_id"), ("decoder_start_token_id", "bos_token_id")):
            if getattr(model.config, name, None) is None:  # two models put together, of which only the parts have them
                known = getattr(model.generation_config, name, None)
                setattr(model.config, name, getattr(decoder, of_decoder) if known is None else known)


def in_language(processor: ProcessorMixin, clips: Sequence[np.ndarray], language: str) -> Mapping[str, Any]:
    """A `Request` with the processor's own prompt, for a language."""
    return processor.apply_transcription_request(clips, language=language, processor_kwargs=_batch(processor))


def in_any_language(processor: ProcessorMixin, clips: Sequence[np.ndarray], language: str) -> Mapping[str, Any]:
    """A `Request` with the processor's own prompt, which names no language."""
    return processor.apply_transcription_request(clips, processor_kwargs=_batch(processor))


def _batch(processor: ProcessorMixin) -> dict[str, Any]:
    """Options for prompts of equal length; not every processor pads by default."""
    return {"sampling_rate": rate_of(processor), "return_tensors": "pt", "text_kwargs": {"padding": True}}
