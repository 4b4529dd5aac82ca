"""Flags of recipes that have an LLM correct transcripts."""

from dataclasses import dataclass

from hf_components.correction.corrector import TranscriptCorrector
from hf_components.runtime import flag


@dataclass
class CorrectionArguments:
    """Which LLM corrects transcripts, and how it runs."""

    llm_model: str = flag(
        "instruct model with a chat template: folder or Hub id",
        default="mistralai/Mistral-7B-Instruct-v0.3",
        aliases=["--llm"],
    )
    gguf_file: str | None = flag("file of the LLM, if its checkpoint is one in GGUF", default=None)
    quantization: str = flag(
        "4bit (bitsandbytes, a quarter of the memory), none, or auto: 4bit on CUDA where bitsandbytes is installed",
        default="auto",
    )
    llm_dtype: str = flag(
        "float32, float16, bfloat16, or auto: half precision on a GPU, float32 elsewhere", default="auto"
    )
    llm_batch_size: int = flag("transcripts per batch of the LLM", default=16, min=1)
    fast_mode: bool = flag(
        "transcripts of up to 128 tokens only; else 512. Longer ones keep the recogniser's text", default=True
    )


def load_corrector(args: CorrectionArguments, alphabet: frozenset[str] | None = None) -> TranscriptCorrector:
    """The corrector that the flags ask for.

    Args:
        alphabet: characters that the recogniser can write, see `hf_components.correction.writing.alphabet_of`.
    Raises:
        UserError: it cannot be loaded; says what to do.
    """
    return TranscriptCorrector.from_pretrained(
        args.llm_model,
        gguf_file=args.gguf_file,
        quantization=args.quantization,
        dtype=args.llm_dtype,
        batch_size=args.llm_batch_size,
        fast_mode=args.fast_mode,
        alphabet=alphabet,
    )
