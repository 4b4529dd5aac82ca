"""Transducers: RNN-T (Graves 2012, arXiv 1211.3711), and TDT (Xu et al. 2023, arXiv 2304.06795) like Parakeet-TDT."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from transformers import AutoModelForRNNT, AutoModelForTDT, ProcessorMixin
from transformers.models.auto.modeling_auto import MODEL_FOR_RNNT_MAPPING_NAMES, MODEL_FOR_TDT_MAPPING_NAMES

from hf_components.asr.family import Family, Request, ask, check_greedy, place, unprompted

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
        frames = model._get_subsampling_output_length(inputs["attention_mask"].sum(dim=1))
        tokens = output.sequences.masked_fill(begins >= frames[:, None], processor.tokenizer.pad_token_id)
        return processor.batch_decode(tokens, skip_special_tokens=True)


def lookahead(processor: ProcessorMixin) -> dict[str, int]:
    """Option of the streaming Nemotrons: number of frames to look ahead, as saved in the checkpoint."""
    return {"num_lookahead_tokens": processor.default_num_lookahead_tokens}
