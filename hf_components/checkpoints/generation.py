"""The generation config of a Whisper: of an imported one, and of an old one that lacks fields of today."""

import logging
from typing import Any

from transformers import GenerationConfig, PreTrainedModel, WhisperConfig, WhisperTokenizer
from transformers.models.whisper.tokenization_whisper import LANGUAGES, TASK_IDS

from hf_components.runtime import UserError

logger = logging.getLogger(__name__)

ENGLISH_VOCABULARY = 51864  # multilingual Whispers have a larger one
NEEDED = ("<|endoftext|>", "<|startoftranscript|>", "<|startofprev|>", "<|notimestamps|>")


def whisper_generation_config(settings: dict, tokenizer: WhisperTokenizer, config: WhisperConfig) -> GenerationConfig:
    """The generation config of OpenAI's checkpoints, from CTranslate2's `config.json` and the tokenizer's ids."""
    values = _values_of_tokenizer(tokenizer, config, multilingual=config.vocab_size > ENGLISH_VOCABULARY)
    values["suppress_tokens"] = settings.get("suppress_ids") or []
    values["begin_suppress_tokens"] = settings.get("suppress_ids_begin") or []
    values["return_timestamps"] = False
    if settings.get("alignment_heads"):
        values["alignment_heads"] = settings["alignment_heads"]
    return GenerationConfig(**values)


def complete_generation_config(model: PreTrainedModel, tokenizer: WhisperTokenizer) -> None:
    """Fill in what the generation config of an older checkpoint lacks, from its tokenizer and its `config.json`.

    Checkpoints of 2022 have no `generation_config.json`, or one without the ids of languages and tasks. Their language
    is in the `forced_decoder_ids` of `config.json`. A field that is there is kept.

    Raises:
        UserError: the tokenizer lacks a token of Whisper's prompt.
    """
    generation = model.generation_config
    is_multilingual = getattr(generation, "is_multilingual", None)
    has_prompt = not is_multilingual or all(getattr(generation, f"{kind}_to_id", None) for kind in ("lang", "task"))
    if getattr(generation, "no_timestamps_token_id", None) is not None and is_multilingual is not None and has_prompt:
        return
    forced = getattr(model.config, "forced_decoder_ids", None) or getattr(generation, "forced_decoder_ids", None)
    language = _forced_language(_pairs(forced), tokenizer)
    multilingual = bool(is_multilingual) or language is not None or model.config.vocab_size > ENGLISH_VOCABULARY
    for name, value in _values_of_tokenizer(tokenizer, model.config, multilingual).items():
        if getattr(generation, name, None) in (None, {}):
            setattr(generation, name, value)
    if generation.max_length == 20:  # the default of transformers, not a choice: transcripts would end after 20 tokens
        generation.max_length = model.config.max_target_positions
    for name in ("suppress_tokens", "begin_suppress_tokens"):
        if getattr(generation, name, None) is None:
            setattr(generation, name, getattr(model.config, name, None))
    generation._from_model_config = False  # else transformers would not save the new fields
    generation.forced_decoder_ids = model.config.forced_decoder_ids = None
    if language is not None:
        generation.lang_to_id.setdefault(f"<|{language}|>", _language_id(language, tokenizer))
        generation.language = getattr(generation, "language", None) or language
        generation.task = getattr(generation, "task", None) or "transcribe"
    logger.info("%s has an old generation_config.json or none; completed from its tokenizer", model.name_or_path)


def prompt_of(generation_config: GenerationConfig) -> list[int]:
    """The tokens that `generate` puts before a transcript: start, language and task if multilingual, no timestamps."""
    fields = generation_config.to_dict()
    prompt = [fields["decoder_start_token_id"]]
    if fields.get("is_multilingual"):
        prompt += [
            fields["lang_to_id"].get(f"<|{fields.get('language')}|>"),
            fields["task_to_id"].get(fields.get("task")),
        ]
    return [*prompt, fields.get("no_timestamps_token_id")]


def _values_of_tokenizer(tokenizer: WhisperTokenizer, config: WhisperConfig, multilingual: bool) -> dict[str, Any]:
    ids = tokenizer.get_vocab()
    if missing := [token for token in NEEDED if token not in ids]:
        raise UserError(f"the tokenizer is not one of a Whisper: it lacks {', '.join(missing)}")
    values = {
        **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), ids["<|endoftext|>"]),
        "decoder_start_token_id": ids["<|startoftranscript|>"],
        "prev_sot_token_id": ids["<|startofprev|>"],
        "no_timestamps_token_id": ids["<|notimestamps|>"],
        "max_length": config.max_target_positions,
        "max_initial_timestamp_index": 50,
        "is_multilingual": multilingual,
    }
    if multilingual:
        values["lang_to_id"] = {f"<|{code}|>": ids[f"<|{code}|>"] for code in LANGUAGES if f"<|{code}|>" in ids}
        values["task_to_id"] = {task: ids[f"<|{task}|>"] for task in TASK_IDS}
    return values


def _pairs(forced: Any) -> dict[int, int]:
    """An old prompt by place, {1: language, 2: task, 3: no timestamps}; nothing if it is none."""
    try:
        return dict(forced or ())
    except (TypeError, ValueError):
        return {}


def _language_id(code: str, tokenizer: WhisperTokenizer) -> int:
    return tokenizer.convert_tokens_to_ids("<|startoftranscript|>") + 1 + list(LANGUAGES).index(code)


def _forced_language(forced: dict[int, int], tokenizer: WhisperTokenizer) -> str | None:
    """The language of an old prompt, see `_pairs`; None if it has none."""
    tasks = {tokenizer.convert_tokens_to_ids(f"<|{task}|>") for task in TASK_IDS}
    if forced.get(2) not in tasks:
        return None
    languages = {_language_id(code, tokenizer): code for code in LANGUAGES}
    return languages.get(forced.get(1))
