"""Connectionist temporal classification (Graves et al. 2006): wav2vec2, HuBERT, WavLM, w2v-BERT, Parakeet-CTC and kin."""

from transformers import AutoModelForCTC
from transformers.models.auto.modeling_auto import MODEL_FOR_CTC_MAPPING_NAMES

from hf_components.asr.family import Family, check_greedy, extract, place


class Ctc(Family):
    """Everything that transformers lists as a CTC model, decoded greedily; a language model beside it is not used."""

    name = "CTC"
    model_classes = dict.fromkeys(MODEL_FOR_CTC_MAPPING_NAMES, AutoModelForCTC)

    def inputs(self, processor, waveforms, *, language="en", full_context=False):
        return extract(processor, waveforms)

    def decode(self, model, processor, inputs, *, max_new_tokens=None, num_beams=1):
        """As every family; the length of a text is bound by that of the audio."""
        check_greedy(self.name, num_beams)
        inputs = place(inputs, model)
        if model.can_generate():  # greedy, with padding taken out
            tokens = model.generate(**inputs)
        else:
            tokens = model(**inputs).logits.argmax(dim=-1)  # (batch, frames)
            if "attention_mask" in inputs:
                real = model._get_feature_vector_attention_mask(tokens.shape[1], inputs["attention_mask"]).bool()
                tokens[~real] = model.config.pad_token_id
        # Repetitions first, then blanks: tokenizers of wav2vec2 that are told to skip special tokens do it the other way
        # round and write "helo" for "hello".
        blank = model.config.pad_token_id
        merged = [[token for token in row.unique_consecutive().tolist() if token != blank] for row in tokens]
        return [processor.tokenizer.decode(row, group_tokens=False, skip_special_tokens=True) for row in merged]

    def tokenize(self, processor, text):
        """Characters or pieces, in upper case where the vocabulary has no lower one."""
        lower = any(len(token) == 1 and token.islower() for token in processor.tokenizer.get_vocab())
        return processor.tokenizer(text if lower else text.upper(), add_special_tokens=False).input_ids
