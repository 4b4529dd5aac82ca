"""Connectionist temporal classification (Graves et al. 2006): wav2vec2, HuBERT, WavLM, w2v-BERT, Parakeet-CTC, ..."""

import unicodedata
from collections.abc import Container, Sequence
from itertools import groupby, pairwise
from typing import NamedTuple

import numpy as np
import torch
from accelerate.utils import extract_model_from_parallel
from torchaudio.functional import forced_align
from transformers import AutoModelForCTC, PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin
from transformers.models.auto.modeling_auto import MODEL_FOR_CTC_MAPPING_NAMES

from hf_components.asr.family import SHORTEST_SAMPLES, Family, Scores, check_greedy, extract, place, rate_of
from hf_components.asr.output_frames import output_lengths, real_frames
from hf_components.asr.words import in_words, parts_of
from hf_components.speech import SAMPLING_RATE, plain_text

SILENT = {"'": "", ".": ""}  # punctuation inside words, as in "a.m."; other punctuation becomes a space
# Letters that Unicode does not divide, for vocabularies that lack them.
TWO_LETTERS = {"\u00df": "ss", "\u1e9e": "SS", "\u0153": "oe", "\u0152": "OE", "\u00e6": "ae", "\u00c6": "AE"}
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
    has_beams = False
    lora_layers = (
        "q_proj",
        "k_proj",
        "v_proj",
        "out_proj",
        "o_proj",
        "linear_q",
        "linear_k",
        "linear_v",
        "linear_out",
    )

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
            tokens[~real_frames(model, tokens.shape, inputs.get("attention_mask"))] = model.config.pad_token_id
        # Remove repetitions first, then blanks. A wav2vec2 tokenizer that skips special tokens does it in the other
        # order and writes "helo" for "hello".
        blank = model.config.pad_token_id
        merged = [[token for token in row.unique_consecutive().tolist() if token != blank] for row in tokens]
        return [processor.tokenizer.decode(row, group_tokens=False, skip_special_tokens=True) for row in merged]

    def words(self, model, processor, waveforms, texts, *, language=None):
        """The same as in `Family`, from the frames that the text is aligned with; they also give the times."""
        inputs = place(self.inputs(processor, waveforms, language=language), model)
        logits = model(**inputs).logits
        real = real_frames(model, logits.shape[:2], inputs.get("attention_mask")).to(logits.device)
        log_probs = logits.float().log_softmax(dim=-1)
        found = []
        for text, clip, row, frames in zip(texts, waveforms, log_probs, real, strict=True):
            ids = self.tokenize(processor, text)
            row = row[frames]
            tokens = aligned(row, ids, model.config.pad_token_id)
            seconds = max(len(clip), SHORTEST_SAMPLES) / SAMPLING_RATE / max(len(row), 1)
            space = getattr(processor.tokenizer, "word_delimiter_token", None)
            names = processor.tokenizer.convert_ids_to_tokens(ids)
            words = in_words(text, names, [token.log_prob for token in tokens], space)
            parts = parts_of(names, space)
            if len(parts) == len(words):
                words = [
                    word._replace(start=tokens[part[0]].start * seconds, end=tokens[part[-1]].end * seconds)
                    for word, part in zip(words, parts, strict=True)
                ]
            found.append(words)
        return found

    def packed(self, model_type, language):
        return {"kind": "ctc", "class": AutoModelForCTC.__name__}

    def tokenize(self, processor, text):
        """Ids of the characters or pieces that `writable` keeps."""
        return processor.tokenizer(writable(processor.tokenizer, text), add_special_tokens=False).input_ids

    def score(self, model, batch):
        outputs = model(**batch)  # the loss is a sum, see `prepare_for_training`
        logits = outputs.logits
        real = real_frames(extract_model_from_parallel(model), logits.shape[:2], batch.get("attention_mask"))
        return Scores(outputs.loss, outputs, logits, real.to(logits.device))

    def losses_of_rows(self, model, scores, batch):
        labels = batch["labels"]
        return torch.nn.functional.ctc_loss(
            scores.logits.float().log_softmax(dim=-1).transpose(0, 1),
            labels.clamp(min=0),
            input_lengths=scores.real.sum(dim=1),
            target_lengths=(labels != -100).sum(dim=1),
            blank=self.blank(extract_model_from_parallel(model)),
            reduction="none",
            zero_infinity=True,
        )

    def prepare_for_training(self, model, *, freeze=None, from_scratch=False):
        """The same as in `Family`. The saved configuration has the same settings."""
        super().prepare_for_training(model, freeze=freeze)
        model.config.ctc_zero_infinity = True
        model.config.ctc_loss_reduction = "sum"
        if hasattr(model, "freeze_feature_encoder") and not from_scratch:  # only some have these convolutions
            model.freeze_feature_encoder()

    def encoder(self, model):
        return getattr(model, "encoder", model.base_model)

    def head(self, model: PreTrainedModel) -> torch.nn.Module:
        """The layer that writes."""
        return getattr(model, "lm_head", None) or model.ctc_head

    def blank(self, model):
        return model.config.pad_token_id

    def count_frames(self, model: PreTrainedModel, processor: ProcessorMixin, seconds: Sequence[float]) -> list[int]:
        """Number of output frames of clips with these lengths."""
        shortest = SHORTEST_SAMPLES / SAMPLING_RATE
        inputs = torch.tensor([round(max(shortest, value) * rate_of(processor)) for value in seconds])  # samples
        if model.main_input_name == "input_features":
            silence = np.zeros(10 * SAMPLING_RATE, dtype=np.float32)
            per_second = self.inputs(processor, [silence])["input_features"].shape[1] / 10
            inputs = (inputs / rate_of(processor) * per_second).long()
        return output_lengths(model, inputs).tolist()


class Aligned(NamedTuple):
    """A token of a text: the frames from `start` to before `end`, and the mean log probability there."""

    start: int
    end: int
    log_prob: float


def aligned(log_probs: torch.Tensor, ids: Sequence[int], blank: int) -> list[Aligned]:
    """Align the tokens of a text with frames, on the most probable path through all of them.

    Args:
        log_probs: natural logarithms of probabilities `(frames, vocabulary)`.
    Returns:
        one entry for each token; if the text has more tokens than there are frames, all have probability 0.
    """
    repeated = sum(a == b for a, b in pairwise(ids))
    if not ids or len(log_probs) < len(ids) + repeated:
        return [Aligned(0, len(log_probs), -np.inf)] * len(ids)
    path, scores = forced_align(log_probs[None].cpu(), torch.tensor([list(ids)]), blank=blank)
    path = path[0].tolist()
    scores = scores[0].tolist()
    runs = [list(run) for _, run in groupby(range(len(path)), key=lambda i: path[i])]
    return [
        Aligned(run[0], run[-1] + 1, float(np.mean([scores[i] for i in run]))) for run in runs if path[run[0]] != blank
    ]


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
    if character.isalnum():
        forms = (unicodedata.normalize(form, character) for form in ("NFKC", "NFD", "NFKD"))
        for pieces in (*forms, TWO_LETTERS.get(character, character)):
            if all(piece in vocabulary for piece in pieces):
                return pieces
    return character
