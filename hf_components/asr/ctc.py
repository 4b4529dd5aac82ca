"""Connectionist temporal classification (Graves et al. 2006): wav2vec2, HuBERT, WavLM, w2v-BERT, Parakeet-CTC, ..."""

import unicodedata
from collections.abc import Container

from transformers import AutoModelForCTC, PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import MODEL_FOR_CTC_MAPPING_NAMES

from hf_components.asr.family import Family, check_greedy, extract, place
from hf_components.speech import plain_text

SILENT = {"'": "", ".": ""}  # punctuation inside words, as in "a.m."; other punctuation becomes a space
TURKIC = frozenset("abcdefghijklmnopqrstuvwxyz\u00e2\u00e7\u00e9\u00ee\u00f6\u00fb\u00fc\u011f\u0131\u015f\u0259")
DOTTED_OR_DOTLESS = frozenset("\u0131\u0130")
LOWER_TURKIC = {
    ord("I"): "\u0131",
    ord("\u0130"): "i",
}  # Turkish and Azerbaijani have two letters i, with and without dot
UPPER_TURKIC = {ord("i"): "\u0130", ord("\u0131"): "I"}


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
    """The plain text in the letters and the case of the vocabulary, without punctuation that the vocabulary lacks.

    A letter that it lacks is written by others that mean the same, such as composed or decomposed letters and the
    letters of a ligature. If there are none, it stays, and becomes the unknown token. So do numbers, and names of
    special tokens.
    """
    vocabulary = tokenizer.get_vocab()
    letters = {token for token in vocabulary if len(token) == 1 and token.isalpha()}
    text = plain_text(text)
    is_turkic = bool(DOTTED_OR_DOTLESS & letters) and {letter.lower()[0] for letter in letters} <= TURKIC
    if not any(map(str.islower, letters)):
        text = text.translate(UPPER_TURKIC).upper() if is_turkic else text.upper().replace("\u0130", "I")
    if not any(map(str.isupper, letters)):
        text = text.translate(LOWER_TURKIC).lower() if is_turkic else text.lower().replace("i\u0307", "i")
    for letter in letters:  # some scripts have letters that NFC decomposes, such as those with a nukta
        if (decomposed := unicodedata.normalize("NFC", letter)) != letter:
            text = text.replace(decomposed, letter)
    for token in getattr(tokenizer, "all_special_tokens", ()):
        if len(token) > 1 and token in text:  # else the tokenizer would take it for the token itself
            text = text.replace(token, f"{token[0]} {token[1:]}")
    return " ".join("".join(_written(character, vocabulary) for character in text).split())


def _written(character: str, vocabulary: Container[str]) -> str:
    """The character as the vocabulary has it; punctuation that it lacks is left out or becomes a space."""
    if character in vocabulary or character.isspace():
        return " " if character == "|" else character  # "|" is the space of most vocabularies
    if character == "'" and "\u2019" in vocabulary:
        return "\u2019"
    if unicodedata.category(character).startswith("P"):
        return SILENT.get(character, " ")
    if unicodedata.category(character) == "Cf":  # joiners of Arabic and Indic scripts
        return ""
    if character.isalpha():
        for form in ("NFKC", "NFD", "NFKD"):
            pieces = unicodedata.normalize(form, character)
            if all(piece in vocabulary for piece in pieces):
                return pieces
    return character
