"""Flags of recipes in which an LLM corrects transcripts."""

from dataclasses import dataclass

from hf_components.correction.corrector import TranscriptCorrector
from hf_components.runtime import flag


@dataclass
class CorrectionArguments:
    """The LLM that corrects transcripts.

    In fast mode it gets transcripts of up to 128 tokens, else of up to 512. Longer ones keep the recogniser's text.
    """

    llm_model: str = flag(
        "instruct model with a chat template: folder or Hub id",
        default="mistralai/Mistral-7B-Instruct-v0.3",
        aliases=["--llm"],
        needs={"gold": ("llm", "best")},
    )
    gguf_file: str | None = flag("file name of an LLM in GGUF format", default=None, needs={"gold": ("llm", "best")})
    quantization: str = flag(
        "4bit (bitsandbytes), none, or auto: 4bit on CUDA with bitsandbytes",
        default="auto",
        choices=("auto", "4bit", "none"),
        needs={"gold": ("llm", "best")},
    )
    llm_dtype: str = flag(
        "float32, float16, bfloat16, or auto: half precision on GPU, else float32",
        default="auto",
        needs={"gold": ("llm", "best")},
    )
    llm_batch_size: int = flag("transcripts per batch of the LLM", default=16, min=1, needs={"gold": ("llm", "best")})
    fast_mode: bool = flag(
        "correct transcripts of up to 128 tokens only; else 512", default=True, needs={"gold": ("llm", "best")}
    )


def load_corrector(args: CorrectionArguments, alphabet: frozenset[str] | None = None) -> TranscriptCorrector:
    """The corrector for these flags.

    Args:
        alphabet: characters that the recogniser can write, see `hf_components.correction.writing.alphabet_of`.
    Raises:
        UserError: the LLM cannot be loaded; the message says what to do.
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
