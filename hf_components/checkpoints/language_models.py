"""Load a causal language model, with errors that say what to do."""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

import torch
from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import is_bitsandbytes_available, is_flash_attn_2_available

from hf_components.checkpoints.four_bit import four_bit, weight_bytes
from hf_components.checkpoints.loading import DAMAGED, check_sizes, choose_dtype, what_failed
from hf_components.runtime import UserError, causes, free_memory, require_there

logger = logging.getLogger(__name__)

OFFLINE = (
    "use the small one: make models/smollm2, --llm_model models/smollm2 --gguf_file SmolLM2-135M-Instruct.Q4_1.gguf"
)
QUANTIZATIONS = ("auto", "4bit", "none")
SMALLER = "choose a smaller --llm_model, or use --quantization 4bit (also works on CPUs) or --llm_dtype bfloat16"


def load_llm(
    name: str,
    gguf_file: str | None,
    quantization: str,
    dtype: torch.dtype,
    device: torch.device,
    *,
    must_chat: bool = True,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a causal language model in evaluation mode, and its tokenizer.

    The free memory is checked before the weights are loaded: a process killed by the system cannot report the reason.

    Args:
        name: folder or Hub id.
        gguf_file: name of the file in it, for a checkpoint in GGUF format; its weights are expanded to `dtype`.
        quantization: see `hf_components.correction.arguments.CorrectionArguments`.
        must_chat: refuse a model that is no instruct model, since it has no chat template.
    Raises:
        UserError: the model cannot be loaded; the message says what to do.
    """
    if quantization not in QUANTIZATIONS:
        raise UserError(f"quantization must be {', '.join(QUANTIZATIONS)}, got {quantization!r}")
    require_there(name, f"--llm_model takes the folder or Hub id of an LLM, or {OFFLINE}")
    if Path(name).is_dir():
        _check_folder(Path(name), gguf_file)
    source = {"gguf_file": gguf_file} if gguf_file else {}
    with _explained(name):
        config = AutoConfig.from_pretrained(name, **source)
        check_sizes(config.to_dict())
        tokenizer = AutoTokenizer.from_pretrained(name, **source)
        if must_chat and tokenizer.chat_template is None:
            raise UserError(
                f"{name} has no chat template, so it is not an instruct model; choose one that is, such as "
                "mistralai/Mistral-7B-Instruct-v0.3"
            )
        in_4_bit = _in_4_bit(config, quantization, device)
        if gguf_file or "quantization_config" not in config.to_dict():
            _check_memory(name, config, dtype, in_4_bit, device)
        flash = device.type == "cuda" and dtype != torch.float32 and is_flash_attn_2_available()
        model = AutoModelForCausalLM.from_pretrained(
            name,
            config=config,
            dtype=dtype,
            device_map={"": device},
            **source,
            attn_implementation="flash_attention_2" if flash else "sdpa",
            quantization_config=four_bit(dtype) if in_4_bit else None,
        )
    return model.eval(), tokenizer


def predict_llm(name: str, gguf_file: str | None, quantization: str, dtype: str) -> tuple[int, bool]:
    """Bytes that the weights of a causal language model will take on a GPU, and whether they are in 4 bits.

    Nothing but its configuration is read.

    Args:
        quantization, dtype: see `hf_components.correction.arguments.CorrectionArguments`.
    Raises:
        UserError: there is no such model, or it cannot be loaded with these settings.
    """
    with _explained(name):
        config = AutoConfig.from_pretrained(name, **({"gguf_file": gguf_file} if gguf_file else {}))
    in_4_bit = _in_4_bit(config, quantization, torch.device("cuda"))
    weights = torch.float16 if dtype == "auto" else choose_dtype(dtype, torch.device("cpu"))
    return _weight_bytes(config, weights, in_4_bit), in_4_bit


def _check_folder(folder: Path, gguf_file: str | None) -> None:
    if gguf_file and not (folder / gguf_file).is_file():
        raise UserError(f"there is no {gguf_file} in {folder}; --gguf_file must name a file of it")
    if not gguf_file and not (folder / "config.json").is_file():
        files = sorted(file.name for file in folder.glob("*.gguf"))
        advice = f"--gguf_file {files[0]} loads the file there" if files else f"give another folder, or {OFFLINE}"
        raise UserError(f"the LLM {folder} cannot be loaded: it has no config.json; {advice}")


def _in_4_bit(config: PreTrainedConfig, quantization: str, device: torch.device) -> bool:
    stored = config.to_dict().get("quantization_config")
    if quantization == "4bit" and stored is not None:
        method = stored["quant_method"]
        raise UserError(f"{config.name_or_path} is already quantised ({method}); use --quantization none")
    if quantization == "none" or stored is not None or (quantization == "auto" and device.type != "cuda"):
        return False
    if is_bitsandbytes_available():
        return True
    if quantization == "4bit":
        raise UserError("--quantization 4bit needs bitsandbytes: pip install bitsandbytes, or use --quantization none")
    logger.warning("without bitsandbytes the LLM needs about four times the memory: pip install bitsandbytes")
    return False


def _check_memory(
    name: str, config: PreTrainedConfig, dtype: torch.dtype, in_4_bit: bool, device: torch.device
) -> None:
    needed = _weight_bytes(config, dtype, in_4_bit)
    free = free_memory(device)
    if needed > free:
        raise UserError(
            f"{name} needs about {needed / 2**30:.1f} GiB of memory, {device} has {free / 2**30:.1f} GiB free; "
            f"{SMALLER}"
        )


def _weight_bytes(config: PreTrainedConfig, dtype: torch.dtype, in_4_bit: bool) -> int:
    with torch.device("meta"):
        return weight_bytes(AutoModelForCausalLM.from_config(config), dtype, in_4_bit)


@contextlib.contextmanager
def _explained(name: str) -> Iterator[None]:
    """Turn errors of transformers into a `UserError` that says what to do."""
    try:
        yield
    except UserError:
        raise
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"{name} does not fit into the memory of the GPU; {SMALLER}, and check that no other program uses it"
        ) from error
    except (*DAMAGED, ImportError) as error:
        raise UserError(f"the LLM {name} cannot be loaded: {_advice(name, error)}") from error


def _advice(name: str, error: BaseException) -> str:
    found = list(causes(error))
    if any(isinstance(cause, GatedRepoError) for cause in found):
        return (
            f"its repository is gated; accept its conditions at https://huggingface.co/{name} and log in with "
            "`hf auth login` (or set HF_TOKEN), or choose an open --llm_model"
        )
    if any(isinstance(cause, RepositoryNotFoundError) for cause in found):
        return "the Hub has no such repository, or it is private: check the name, or log in with `hf auth login`"
    if any(isinstance(cause, LocalEntryNotFoundError | OfflineModeIsEnabled) for cause in found):
        return (
            f"the Hub cannot be reached (or HF_HUB_OFFLINE is set) and {name} is not in its cache; connect, or give "
            f"the folder of a copy that `hf download {name}` made elsewhere, or {OFFLINE}"
        )
    return what_failed(error)
