"""Transducers (Graves 2012, arXiv 1211.3711): RNN-T, and TDT (Xu et al. 2023, arXiv 2304.06795) such as Parakeet-TDT."""

from transformers import AutoModelForRNNT, AutoModelForTDT

from hf_components.asr.family import Family, check_greedy, extract, place


class Transducer(Family):
    """Decoded greedily, as their `generate` does."""

    name = "transducer"
    model_classes = {"parakeet_rnnt": AutoModelForRNNT, "parakeet_tdt": AutoModelForTDT}

    def inputs(self, processor, waveforms, *, language=None, full_context=False):
        return extract(processor, waveforms)

    def decode(self, model, processor, inputs, *, max_new_tokens=None, num_beams=1):
        """As every family; the length of a text is bound by that of the audio."""
        check_greedy(self.name, num_beams)
        inputs = place(inputs, model)
        output = model.generate(**inputs)
        # A clip that is through goes on being written until the longest of the batch is; those tokens begin after its end.
        begins = output.durations.cumsum(dim=1) - output.durations  # (batch, tokens), in frames of the encoder
        frames = model._get_subsampling_output_length(inputs["attention_mask"].sum(dim=1))
        tokens = output.sequences.masked_fill(begins >= frames[:, None], processor.tokenizer.pad_token_id)
        return processor.batch_decode(tokens, skip_special_tokens=True)
