"""Connectionist temporal classification (Graves et al. 2006): wav2vec2, HuBERT, WavLM, w2v-BERT, Parakeet-CTC, ..."""

import unicodedata

from transformers import AutoModelForCTC, PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import MODEL_FOR_CTC_MAPPING_NAMES

from hf_components.asr.family import Family, check_greedy, extract, place

SILENT = {"'": "", ".": ""}  # punctuation inside words, as in "a.m."; other punctuation becomes a space


class Ctc(Family):
    """All models that transformers lists as CTC, decoded greedily and without an external language model."""

    name = "CTC"
    model_classes = dict.fromkeys(MODEL_FOR_CTC_MAPPING_NAMES, AutoModelForCTC)

    def inputs(self, processor, waveforms, *, language=None, full_context=False):
        return extract(processor, waveforms)

    def decode(self, model, processor, inputs, *, max_new_tokens=None, num_beams=1):
        """The same as in `Family`; the audio limits the length of a text."""
        check_greedy(self.name, num_beams)
        inputs = place(inputs, model)
        if model.can_generate():  # greedy, without padding
            tokens = model.generate(**inputs)
        else:
            tokens = model(**inputs).logits.argmax(dim=-1)  # (batch, frames)
            if "attention_mask" in inputs:
                real = model._get_feature_vector_attention_mask(tokens.shape[1], inputs["attention_mask"]).bool()
                tokens[~real] = model.config.pad_token_id
        # Remove repetitions first, then blanks. A wav2vec2 tokenizer that skips special tokens does it in the other
        # order and writes "helo" for "hello".
        blank = model.config.pad_token_id
        merged = [[token for token in row.unique_consecutive().tolist() if token != blank] for row in tokens]
        return [processor.tokenizer.decode(row, group_tokens=False, skip_special_tokens=True) for row in merged]

    def tokenize(self, processor, text):
        """Ids of the characters or pieces that `writable` keeps."""
        return processor.tokenizer(writable(processor.tokenizer, text), add_special_tokens=False).input_ids


def writable(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """The text in the case of the vocabulary, with single spaces, and without punctuation that the vocabulary lacks.

    Letters and numbers that it lacks stay, and become the unknown token.
    """
    vocabulary = tokenizer.get_vocab()
    for case, other in ((str.islower, str.upper), (str.isupper, str.lower)):
        if not any(len(token) == 1 and case(token) for token in vocabulary):
            text = other(text)
    text = text.replace("\u2019", "'")
    spoken = [
        character if character in vocabulary or not _is_punctuation(character) else SILENT.get(character, " ")
        for character in text
    ]
    return " ".join("".join(spoken).split())


def _is_punctuation(character: str) -> bool:
    return unicodedata.category(character).startswith("P")
