"""Flags of recipes in which an LLM corrects transcripts."""

from dataclasses import dataclass

from accelerate import PartialState

from hf_components.asr import is_audio_llm, load_asr
from hf_components.checkpoints import choose_dtype, read_config
from hf_components.correction.corrector import TranscriptCorrector
from hf_components.correction.hearing import HearingCorrector
from hf_components.runtime import UserError, flag

WRITES = {"gold": ("llm", "best")}  # where an LLM corrects what a recogniser heard
USED = (WRITES, "llm_choices")  # or chooses among what it may have heard


@dataclass
class CorrectionArguments:
    """The LLM that corrects transcripts.

    In fast mode it gets transcripts of up to 128 tokens, else of up to 512. Longer ones keep the recogniser's text.
    """

    llm_model: str = flag(
        "instruct model with a chat template, or a language model that takes audio, which also gets the recordings: "
        "folder or Hub id",
        default="mistralai/Mistral-7B-Instruct-v0.3",
        aliases=["--llm"],
        needs=USED,
    )
    gguf_file: str | None = flag("file name of an LLM in GGUF format", default=None, needs=USED)
    quantization: str = flag(
        "4bit (bitsandbytes), none, or auto: 4bit on CUDA with bitsandbytes",
        default="auto",
        choices=("auto", "4bit", "none"),
        needs=USED,
    )
    llm_dtype: str = flag(
        "float32, float16, bfloat16, or auto: half precision on GPU, else float32", default="auto", needs=USED
    )
    llm_batch_size: int = flag("transcripts per batch of the LLM", default=16, min=1, needs=WRITES)
    fast_mode: bool = flag("correct transcripts of up to 128 tokens only; else 512", default=True, needs=WRITES)


def load_corrector(args: CorrectionArguments, alphabet: frozenset[str] | None = None) -> TranscriptCorrector:
    """The corrector for these flags.

    Args:
        alphabet: characters that the recogniser can write, see `hf_components.correction.writing.alphabet_of`.
    Raises:
        UserError: the LLM cannot be loaded; the message says what to do.
    """
    options = {"batch_size": args.llm_batch_size, "fast_mode": args.fast_mode, "alphabet": alphabet}
    if args.gguf_file is None and hears(args.llm_model):
        model, processor = load_asr(args.llm_model, dtype=choose_dtype(args.llm_dtype, PartialState().device))
        return HearingCorrector(model, processor, name=args.llm_model, **options)
    return TranscriptCorrector.from_pretrained(
        args.llm_model, gguf_file=args.gguf_file, quantization=args.quantization, dtype=args.llm_dtype, **options
    )


def hears(name: str) -> bool:
    """Whether a checkpoint is a language model that hears; False if it cannot be read, of which loading tells more."""
    try:
        return is_audio_llm(read_config(name)["model_type"])
    except UserError:
        return False
