"""Load checkpoints by folder or Hub id, with errors that say what to do; save their processors."""

import json
import logging
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from accelerate import PartialState
from huggingface_hub.errors import StrictDataclassError
from peft import PeftConfig, PeftModel
from safetensors import SafetensorError
from transformers import PreTrainedConfig, PreTrainedModel, ProcessorMixin, WhisperProcessor
from transformers.models.whisper.tokenization_whisper import TO_LANGUAGE_CODE

from hf_components.checkpoints.generation import complete_generation_config
from hf_components.checkpoints.whisper_settings import check_whisper_settings
from hf_components.runtime import UserError, read_completion, read_record, require_there
from hf_components.speech import WORDS, language_code
from hf_components.whisper import DynamicContextWhisper, MoeWhisperForConditionalGeneration

logger = logging.getLogger(__name__)

# What libraries raise for damaged files and for settings that do not fit together.
DAMAGED = (
    OSError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    ArithmeticError,
    AssertionError,
    RuntimeError,
    MemoryError,
    SafetensorError,
    StrictDataclassError,
    UnpicklingError,
    re.error,  # of a pattern in an adapter_config.json
)
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
COUNTS = ("_layers", "n_layer", "_heads", "_rank", "num_experts")  # fields end in these
MOST = 4096
LARGEST = 2**40  # of any number in a configuration
BEAMS = 5  # of a Whisper whose checkpoint names no number; see "Beams" in docs/results.md
# Codes of today for languages that Whisper has under another one: Javanese, Bokmål, Mandarin, Filipino.
CODES_OF_WHISPER = {"jv": "jw", "nb": "no", "cmn": "zh", "fil": "tl"}
ENGLISH = (None, "", "en", "english", "<|en|>")
UNUSED_IN_INFERENCE = "masked_spec_embed"  # vector for SpecAugment in wav2vec2 and similar; often not published


def load_whisper(
    name_or_path: str, language: str | None = None, dtype: torch.dtype = torch.float32
) -> tuple[DynamicContextWhisper, WhisperProcessor]:
    """A Whisper and its processor, in evaluation mode on this process's device.

    Its audio context is 30 s, unless its configuration has an `audio_context` and `min_audio_context` from training.
    It searches with `BEAMS` beams, unless its generation config names another number.

    Args:
        language: language code, see `prompt_language`.
        dtype: type of the weights.
    Raises:
        UserError: there is no such checkpoint, it is not a plain Whisper, or it does not know the language.
    """
    fields = read_config(name_or_path)
    if "num_experts" in fields:  # else its experts would be ignored silently
        raise UserError(
            f"{name_or_path} mixes experts, but a plain Whisper is needed; recipes/merge_moe_whisper.py makes one"
        )
    model = load_model(DynamicContextWhisper, name_or_path, dtype)
    if "audio_context" in fields:
        model.set_audio_context(fields["audio_context"], fields["min_audio_context"])
    processor = load_processor(name_or_path)
    prompt_language(model, processor, language)
    _search_for_plain_texts(model)
    return model, processor


def load_moe_whisper(
    name_or_path: str, dtype: torch.dtype = torch.float32
) -> tuple[MoeWhisperForConditionalGeneration, WhisperProcessor]:
    """A MoE-Whisper and its processor, in evaluation mode on this process's device, with its saved prompt."""
    model = load_model(MoeWhisperForConditionalGeneration, name_or_path, dtype)
    processor = load_processor(name_or_path)
    check_whisper_settings(model, processor)
    _search_for_plain_texts(model)
    return model, processor


def _search_for_plain_texts(model: PreTrainedModel) -> None:
    """With `BEAMS` beams if the checkpoint names no number; tokens alone, even if it asks for more beside them."""
    generation = model.generation_config
    generation.num_beams = generation.num_beams or BEAMS
    for name in ("return_timestamps", "return_dict_in_generate"):
        if getattr(generation, name, None):
            setattr(generation, name, False)


def prompt_language(model: PreTrainedModel, processor: WhisperProcessor, language: str | None) -> None:
    """Set the prompt "transcribe this language" of a multilingual Whisper for training and decoding.

    Without it, the model guesses the language of each clip. English-only models have no such prompt. The generation
    config of an older checkpoint is completed first.

    Args:
        language: such as "de", see `language_code`; by default the language saved in the checkpoint, else "en".
    Raises:
        UserError: it is no language, the checkpoint does not know the language, or its files contradict each other.
    """
    language = language and language_code(language)
    complete_generation_config(model, processor.tokenizer)
    check_whisper_settings(model, processor)
    generation = model.generation_config
    if not getattr(generation, "is_multilingual", False):
        saved = getattr(generation, "language", None)
        if (language or saved) not in ENGLISH:
            text = "%s knows only English, so %s has no effect; use a multilingual checkpoint"
            which = f"--language {language}" if language else f"its saved language {saved}"
            logger.warning(text, model.name_or_path, which)
        for name in ("language", "task", "lang_to_id", "task_to_id"):  # its prompt has none, and `generate` looks
            if hasattr(generation, name):
                delattr(generation, name)
        generation.forced_decoder_ids = model.config.forced_decoder_ids = None
        return
    if language is None and getattr(generation, "language", None) is None:
        text = "%s knows many languages and does not say which one it writes: using en; choose one with --language"
        logger.warning(text, model.name_or_path)
    language = code_among(language or language_of(model), generation.lang_to_id)
    if f"<|{language}|>" not in generation.lang_to_id:
        raise UserError(f"--language must be a code that {model.name_or_path} knows, such as en; got {language!r}")
    processor.tokenizer.set_prefix_tokens(language=language, task="transcribe", predict_timestamps=False)
    generation.language = language
    generation.task = "transcribe"
    generation.forced_decoder_ids = model.config.forced_decoder_ids = None  # older checkpoints store a prompt there


def code_among(language: str, tokens: Collection[str]) -> str:
    """The code that a Whisper with these language tokens has for a language: `jw` for Javanese, and not `jv`."""
    other = CODES_OF_WHISPER.get(language, language)
    return other if f"<|{language}|>" not in tokens and f"<|{other}|>" in tokens else language


def language_of(model: PreTrainedModel) -> str:
    """Code of the language that a model writes: the one in its prompt, or "en" without a prompt."""
    generation = getattr(model, "generation_config", None)  # a CTC model has none
    if not getattr(generation, "is_multilingual", False):
        return "en"
    saved = (getattr(generation, "language", None) or "en").strip("<|>").lower()
    return TO_LANGUAGE_CODE.get(saved, saved)


def writes(model: PreTrainedModel) -> str:
    """What a model writes, one of `TARGETS`: words, or IPA if its configuration says so."""
    return getattr(model.config, "writes", WORDS)


def load_processor(name_or_path: str, processor_class: type = WhisperProcessor) -> ProcessorMixin:
    """The processor of a checkpoint; by default of a Whisper."""
    _check_there(name_or_path)
    try:
        processor = processor_class.from_pretrained(name_or_path)
    except (*DAMAGED, ImportError) as error:
        kind = "Whisper " if processor_class is WhisperProcessor else ""
        raise UserError(
            f"{name_or_path} has no {kind}processor: {what_failed(error)}; copy its files from the base model"
        ) from error
    # Without its vocabulary, transformers makes a tokenizer of the special tokens alone, and every text is empty.
    if not getattr(getattr(processor, "tokenizer", None), "vocab_size", 1):
        raise UserError(f"{name_or_path} has a tokenizer without words; copy tokenizer.json from the base model")
    return processor


def save_processor(processor: ProcessorMixin, folder: str | Path) -> None:
    """Save a processor so that transformers 4.57 can load it too.

    Whisper's `normalizer.json` is added, which transformers 5 reads but does not write.
    """
    processor.save_pretrained(folder)
    file = Path(folder) / "tokenizer_config.json"
    settings = json.loads(file.read_text(encoding="utf-8"))
    if "extra_special_tokens" in settings:  # 4.57 knows this list by another name, which 5 reads as well
        settings["additional_special_tokens"] = settings.pop("extra_special_tokens")
        file.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    if isinstance(processor, WhisperProcessor):
        spelling = json.dumps(processor.tokenizer.english_spelling_normalizer, indent=2, ensure_ascii=False)
        (Path(folder) / "normalizer.json").write_text(spelling + "\n", encoding="utf-8")


def read_config(name_or_path: str) -> dict:
    """The fields of a checkpoint's `config.json`, for any model.

    Raises:
        UserError: there is no such checkpoint, or it is only an adapter.
    """
    _check_there(name_or_path)
    folder = Path(name_or_path)
    if (folder / "adapter_config.json").exists() and not (folder / "config.json").exists():
        raise UserError(f"{name_or_path} holds only an adapter: give its base model, and --adapter {name_or_path}")
    try:
        fields, _ = PreTrainedConfig.get_config_dict(name_or_path)
        check_sizes(fields)
    except (*DAMAGED, ImportError) as error:
        raise UserError(_not_loadable(name_or_path, error)) from error
    if "model_type" not in fields:  # or the folder has no configuration
        raise UserError(
            f"{name_or_path} is not a checkpoint that can be loaded: it has no config.json with a model_type"
            f"{_model_inside(folder)}"
        )
    return fields


def base_model_id(name_or_path: str) -> str:
    """The Hub id of a base model: as given, or from the record that `import_whisper` left beside a local copy."""
    completion = read_completion(name_or_path)
    return (completion["metrics"].get("hub_id") if completion else None) or name_or_path


def load_model(model_class: type, name_or_path: str, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """Load a model, in evaluation mode on this process's device.

    Args:
        model_class: model class or auto class of transformers.
    Raises:
        UserError: there is no such checkpoint, it lacks weights of this class, has weights that are no numbers, or its
            generation config is damaged.
    """
    wanted = getattr(getattr(model_class, "config_class", None), "model_type", None)  # an auto class takes any
    if wanted and (found_type := read_config(name_or_path)["model_type"]) != wanted:
        raise UserError(
            f"{name_or_path} is not a checkpoint that can be loaded: it is of type {found_type}, not {wanted}"
            f"{_model_inside(Path(name_or_path), wanted)}"
        )
    _check_there(name_or_path)
    generation = Path(name_or_path, "generation_config.json")
    if generation.exists():  # transformers would go on without one that is damaged: in another language, say
        read_record(generation, dict, "copy it from the base model")
    try:
        check_sizes(PreTrainedConfig.get_config_dict(name_or_path)[0])
        model, found = model_class.from_pretrained(name_or_path, dtype=dtype, output_loading_info=True)
    except (*DAMAGED, ImportError) as error:
        raise UserError(_not_loadable(name_or_path, error)) from error
    missing = [name for name in found["missing_keys"] if not name.endswith(UNUSED_IN_INFERENCE)]
    if missing:  # transformers would fill them with random numbers
        raise UserError(f"{name_or_path} is not a checkpoint of {type(model).__name__}: it lacks {min(missing)}")
    if surplus := _layers_of_weights_alone(model, found["unexpected_keys"]):
        raise UserError(
            f"{name_or_path}: its weights have {surplus}, which its config.json leaves out; copy the config.json that "
            "belongs to these weights"
        )
    if broken := [name for name, weight in model.named_parameters() if not weight.sum(dtype=torch.float32).isfinite()]:
        raise UserError(
            f"{name_or_path} has NaN or infinite weights, such as {broken[0]}: its training diverged, or it "
            "overflowed in float16; take an earlier checkpoint"
        )
    return model.to(PartialState().device).eval()


def _layers_of_weights_alone(model: PreTrainedModel, unexpected: Collection[str]) -> str | None:
    """A weight of a layer beyond those that a model was built with; other weights, such as heads, may be left over."""
    shared = {re.sub(r"\.\d+\.", ".", name) for name in model.state_dict()}
    return min((name for name in unexpected if re.sub(r"\.\d+\.", ".", name) in shared), default=None)


def merge_adapter(model: PreTrainedModel, adapter: str) -> PreTrainedModel:
    """Merge a PEFT LoRA into the weights of a model, so that it adds no computation.

    If it says that it was trained over a model of another name, a warning tells so.

    Raises:
        UserError: there is no such adapter, it belongs to another model, or has weights that are no numbers.
    """
    name = model.name_or_path
    require_there(adapter)
    if Path(adapter).is_dir() and not any(Path(adapter).glob("adapter_model.*")):
        raise UserError(f"{adapter} is not an adapter: it has no adapter_model.safetensors; copy it from its source")
    try:
        config = PeftConfig.from_pretrained(adapter)
        check_sizes(config.to_dict())
        adapted = PeftModel(model, config)
        found = adapted.load_adapter(adapter, adapted.active_adapter)
    except DAMAGED as error:
        raise UserError(f"{adapter} is not an adapter of {name}: {what_failed(error)}; give its base") from error
    if strangers := [*found.unexpected_keys, *found.missing_keys]:  # PEFT only warns about them
        raise UserError(
            f"{adapter} is not an adapter of {name}: one of the two has no {min(strangers)}; give its base"
        )
    if broken := [name for name, weight in adapted.named_parameters() if not weight.isfinite().all()]:
        raise UserError(f"{adapter} has NaN or infinite weights, such as {broken[0]}: its training diverged")
    _warn_of_another_base(adapter, config.base_model_name_or_path, name)
    return adapted.merge_and_unload()


def _warn_of_another_base(adapter: str, trained_over: str | None, model: str) -> None:
    """Only names can be compared: an adapter fits any model of the same sizes, and a base may have been moved."""
    names = [Path(base_model_id(base)).name for base in (trained_over, model) if base]
    if len(set(names)) == 2:
        text = "%s says that it was trained over %s, and is merged into %s: if these are not the same weights, its "
        logger.warning(text + "texts are wrong", adapter, trained_over, model)


def _check_there(name_or_path: str) -> None:
    makes = "; recipes/import_whisper.py makes models/whisper-tiny.en" if name_or_path.startswith("models/") else ""
    require_there(name_or_path, f"give the folder of a checkpoint, or its Hub id{makes}")


def _not_loadable(name_or_path: str, error: Exception) -> str:
    problem = f"{name_or_path} is not a checkpoint that can be loaded: {what_failed(error)}"
    return problem + _model_inside(Path(name_or_path))


def _model_inside(folder: Path, model_type: str | None = None) -> str:
    """Advice to give a folder inside `folder`, if one holds a model, of `model_type` where that is given."""
    for file in [*sorted(folder.glob("*/config.json")), *sorted(folder.glob("*/*/config.json"))]:
        try:
            found = json.loads(file.read_text(encoding="utf-8")).get("model_type")
        except (OSError, ValueError, AttributeError):
            continue
        if found and model_type in (None, found):
            return f"; did you mean {file.parent}?"
    return ""


def check_sizes(fields: Mapping[str, Any], place: str = "config.json") -> None:
    """Refuse numbers that no model has: transformers would build layer after layer until the memory is full.

    Raises:
        ValueError: a number is too large, infinite or NaN. The field is named.
    """
    for name, value in fields.items():
        if isinstance(value, Mapping):
            check_sizes(value, f"{place}, {name}")
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if is_number and name.endswith(COUNTS) and not 0 <= value <= MOST:
            raise ValueError(f"{place}: {name} must lie in [0, {MOST}], got {str(value)[:60]}")
        if is_number and not abs(value) <= LARGEST:
            raise ValueError(f"{place}: {name} must be at most {LARGEST:.0e}, got {str(value)[:60]}")


def what_failed(error: BaseException) -> str:
    """What a library says of a checkpoint that cannot be loaded, in a line."""
    if isinstance(error, UnpicklingError):  # PyTorch's own text advises to run what is in the file
        return "its weights are pickled and hold more than numbers, so they are not read; ask for safetensors"
    lines = [line.strip() for line in str(error).strip().splitlines()]
    return " ".join(lines[: 2 if lines and lines[0].endswith(":") else 1]) or type(error).__name__


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """Type of the weights by name; "auto" is bfloat16 on a GPU that has it, float16 on others, float32 elsewhere."""
    if name == "auto":
        if device.type != "cuda":
            return torch.float32
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    if name not in DTYPES:
        raise UserError(f"dtype must be auto, {', '.join(DTYPES)}, got {name!r}")
    return DTYPES[name]
