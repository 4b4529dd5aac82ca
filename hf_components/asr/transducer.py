"""Transducers: RNN-T (Graves 2012, arXiv 1211.3711), and TDT (Xu et al. 2023, arXiv 2304.06795) like Parakeet-TDT."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from accelerate.utils import extract_model_from_parallel
from transformers import AutoModelForRNNT, AutoModelForTDT, ProcessorMixin
from transformers.loss.loss_rnnt import rnnt_loss
from transformers.loss.loss_tdt import tdt_loss
from transformers.models.auto.modeling_auto import MODEL_FOR_RNNT_MAPPING_NAMES, MODEL_FOR_TDT_MAPPING_NAMES

from hf_components.asr.family import Family, Request, Scores, ask, check_greedy, place, unprompted
from hf_components.asr.output_frames import output_lengths
from hf_components.speech import plain_text

# All transducers that transformers lists.
TRANSDUCERS = {
    **dict.fromkeys(MODEL_FOR_RNNT_MAPPING_NAMES, AutoModelForRNNT),
    **dict.fromkeys(MODEL_FOR_TDT_MAPPING_NAMES, AutoModelForTDT),
}


@dataclass(frozen=True)
class Transducer(Family):
    """Transducers with the same form of request; `generate` decodes greedily.

    Attributes:
        writing: function that returns options of `generate` for a processor.
    """

    name: str
    model_classes: Mapping[str, type]
    request: Request = unprompted
    writing: Callable[[ProcessorMixin], Mapping[str, Any]] = lambda processor: {}
    has_beams = False
    lora_layers = ("q_proj", "k_proj", "v_proj", "o_proj", "linear1", "linear2")

    def inputs(self, processor, waveforms, *, language=None, full_context=False):
        return ask(self.name, self.request, processor, waveforms, language)

    def decode(self, model, processor, inputs, *, max_new_tokens=None, num_beams=1):
        """The same as in `Family`; the audio limits the length of a text."""
        check_greedy(self.name, num_beams)
        inputs = place(inputs, model)
        output = model.generate(**inputs, **self.writing(processor))
        # `generate` continues each clip until the longest of the batch is done. Remove tokens that begin after its
        # end.
        begins = output.durations.cumsum(dim=1) - output.durations  # (batch, tokens), in frames of the encoder
        frames = output_lengths(model, inputs["attention_mask"].sum(dim=1))
        tokens = output.sequences.masked_fill(begins >= frames[:, None], processor.tokenizer.pad_token_id)
        return processor.batch_decode(tokens, skip_special_tokens=True)

    def packed(self, model_type, language):
        name = self.model_classes[model_type].__name__
        is_plain = self.request is unprompted and self.writing is Transducer.writing
        return {"kind": "transducer", "class": name} if is_plain else None

    def tokenize(self, processor, text):
        return processor.tokenizer(plain_text(text), add_special_tokens=False).input_ids

    def score(self, model, batch):
        """The same as in `Family`; memory grows with frames * tokens * vocabulary of the batch."""
        inputs = dict(batch)
        labels = inputs.pop("labels")
        core = extract_model_from_parallel(model)
        config = core.config
        texts = labels.masked_fill(labels == -100, config.blank_token_id)
        first = texts.new_full((len(texts), 1), config.blank_token_id)  # what comes before the first token
        outputs = model(**inputs, decoder_input_ids=torch.cat([first, texts], dim=1))
        logits = outputs.logits  # (batch, frames, tokens + 1, vocabulary, or vocabulary + durations)
        sizes = {
            "targets": texts,
            "logit_lengths": output_lengths(core, inputs["attention_mask"].sum(dim=1)),
            "target_lengths": (labels != -100).sum(dim=1),
            "blank_token_id": config.blank_token_id,
            "reduction": "sum",
        }
        if config.model_type in MODEL_FOR_TDT_MAPPING_NAMES:
            logits, of_durations = logits[..., : config.vocab_size], logits[..., config.vocab_size :]
            return Scores(tdt_loss(logits, of_durations, durations=config.durations, **sizes), outputs)
        return Scores(rnnt_loss(logits[:, : int(sizes["logit_lengths"].max())], **sizes), outputs)


def lookahead(processor: ProcessorMixin) -> dict[str, int]:
    """Option of the streaming Nemotrons: number of frames to look ahead, as saved in the checkpoint."""
    return {"num_lookahead_tokens": processor.default_num_lookahead_tokens}
