"""Whether the files beside the weights of a Whisper belong to it: its prompt, its search, its features.

Copied from another Whisper, or changed by hand, they would silently give other texts: the ids of all tasks differ by
one between large-v2 and large-v3, and features at another sampling rate are those of other sounds.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

from transformers import GenerationConfig, PreTrainedModel, WhisperFeatureExtractor, WhisperProcessor, WhisperTokenizer

from hf_components.runtime import UserError
from hf_components.speech import SAMPLING_RATE

PROMPT = {"decoder_start_token_id": "<|startoftranscript|>", "no_timestamps_token_id": "<|notimestamps|>"}
MAY_BE_MISSING = {"prev_sot_token_id": "<|startofprev|>", "eos_token_id": "<|endoftext|>"}
# Searches that this project does not do, since transformers asks for more than a checkpoint then, or for its code.
NOT_FOR_US = ("stop_strings", "constraints", "force_words_ids", "penalty_alpha", "dola_layers", "watermarking_config")
HOP_LENGTH = 160  # samples between two frames; all Whispers have these two
N_FFT = 400


class Fault(NamedTuple):
    """A setting that cannot be right: its name, what it must be, in words, and its value."""

    name: str
    rule: str
    value: Any


def check_whisper_settings(model: PreTrainedModel, processor: WhisperProcessor) -> None:
    """Raise UserError if generation config, tokenizer or feature extractor do not belong to the weights."""
    tokenizer = processor.tokenizer
    extractor = processor.feature_extractor
    files = {}
    if isinstance(tokenizer, WhisperTokenizer):
        files["generation_config.json"] = _of_generation(model.generation_config, tokenizer, model.config.vocab_size)
    else:
        files["tokenizer_config.json"] = [Fault("the tokenizer", "that of a Whisper", type(tokenizer).__name__)]
    if isinstance(extractor, WhisperFeatureExtractor):
        files["preprocessor_config.json"] = _of_features(extractor, model.config)
    else:
        found = type(extractor).__name__
        files["preprocessor_config.json"] = [Fault("the feature extractor", "that of a Whisper", found)]
    for file, faults in files.items():
        if fault := next(iter(faults), None):
            raise UserError(
                f"{model.name_or_path}, {file}: {fault.name} must be {fault.rule}, got {repr(fault.value)[:60]}; "
                "copy this file from the base model"
            )


def _of_generation(generation: GenerationConfig, tokenizer: WhisperTokenizer, vocab_size: int) -> Iterator[Fault]:
    fields = generation.to_dict()
    ids = tokenizer.get_vocab()
    if not isinstance(fields.get("is_multilingual", False), bool):
        yield Fault("is_multilingual", "true or false", fields["is_multilingual"])
    for name, token in (PROMPT | MAY_BE_MISSING).items():
        is_left_out = name in MAY_BE_MISSING and fields.get(name) is None
        if not is_left_out and fields.get(name) not in (ids.get(token), [ids.get(token)]):
            yield Fault(name, f"{ids.get(token)}, the tokenizer's {token}", fields.get(name))
    for name in ("lang_to_id", "task_to_id"):
        for key, number in (fields.get(name) or {}).items():
            known = ids.get(key if name == "lang_to_id" else f"<|{key}|>", number)
            if number != known or not _is_id(number, vocab_size):
                yield Fault(f"{name}, {key},", f"{known}, as in the tokenizer", number)
    for name in ("suppress_tokens", "begin_suppress_tokens"):
        tokens = fields.get(name) or []
        if not isinstance(tokens, list) or not all(_is_id(token, vocab_size) for token in tokens):
            yield Fault(name, f"a list of ids from 0 to {vocab_size - 1}", tokens)
    if fields.get("pad_token_id") is not None and not _is_id(fields["pad_token_id"], vocab_size):
        yield Fault("pad_token_id", f"an id from 0 to {vocab_size - 1}", fields["pad_token_id"])
    for name in ("language", "task"):
        if not isinstance(fields.get(name), str | None):
            yield Fault(name, "a word", fields[name])
    if fields.get("task") not in (None, "transcribe", "translate"):
        yield Fault("task", "transcribe or translate", fields["task"])
    yield from _of_search(fields)


def _of_search(fields: dict[str, Any]) -> Iterator[Fault]:
    for name, least in (("num_beams", 1), ("no_repeat_ngram_size", 0)):
        value = fields.get(name)
        if value is not None and (not isinstance(value, int) or value < least):
            yield Fault(name, f"a whole number of at least {least}", value)
    for name, least in (("length_penalty", -math.inf), ("repetition_penalty", 0)):
        value = fields.get(name)
        if value is not None and (not isinstance(value, int | float) or not least < value < math.inf):
            yield Fault(name, f"a number above {least}", value)
    for name in ("num_return_sequences", "num_beam_groups"):
        if fields.get(name) not in (None, 1):
            yield Fault(name, "1", fields[name])
    for name in NOT_FOR_US:
        if fields.get(name) is not None:
            yield Fault(name, "left out", fields[name])


def _of_features(extractor: WhisperFeatureExtractor, config: Any) -> Iterator[Fault]:
    expected = {
        "feature_size": config.num_mel_bins,
        "sampling_rate": SAMPLING_RATE,
        "hop_length": HOP_LENGTH,
        "n_fft": N_FFT,
        "nb_max_frames": 2 * config.max_source_positions,
        "padding_value": 0,
    }
    for name, value in expected.items():
        if getattr(extractor, name) != value:
            yield Fault(name, str(value), getattr(extractor, name))
    if not isinstance(extractor.dither, int | float) or not 0 <= extractor.dither < 1:
        yield Fault("dither", "a number from 0 to 1", extractor.dither)


def _is_id(value: Any, vocab_size: int) -> bool:
    return isinstance(value, int) and 0 <= value < vocab_size
