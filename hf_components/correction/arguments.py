"""Flags of recipes that have an LLM correct transcripts."""

from dataclasses import dataclass, field

from hf_components.correction.corrector import TranscriptCorrector
from hf_components.runtime import UserError


@dataclass
class CorrectionArguments:
    """Which LLM corrects transcripts, and how it runs."""

    llm: str = field(
        default="mistralai/Mistral-7B-Instruct-v0.3",
        metadata={"help": "instruct model with a chat template: folder or Hub id"},
    )
    gguf_file: str | None = field(default=None, metadata={"help": "file of the LLM, if its checkpoint is one in GGUF"})
    quantization: str = field(
        default="auto",
        metadata={
            "help": "4bit (bitsandbytes, a quarter of the memory), none, or auto: 4bit on CUDA where "
            "bitsandbytes is installed"
        },
    )
    llm_dtype: str = field(
        default="auto",
        metadata={"help": "float32, float16, bfloat16, or auto: half precision on a GPU, float32 elsewhere"},
    )
    llm_batch_size: int = field(default=16, metadata={"help": "transcripts per batch of the LLM"})
    fast_mode: bool = field(
        default=True,
        metadata={"help": "transcripts of up to 128 tokens only; else 512. Longer ones keep the recogniser's text"},
    )

    def __post_init__(self):
        if self.llm_batch_size < 1:  # before the minutes that loading takes
            raise UserError(f"llm_batch_size must be at least 1, got {self.llm_batch_size}")


def load_corrector(args: CorrectionArguments, alphabet: frozenset[str] | None = None) -> TranscriptCorrector:
    """The corrector that the flags ask for.

    Args:
        alphabet: characters that the recogniser can write, see `hf_components.correction.writing.alphabet_of`.
    Raises:
        UserError: it cannot be loaded; says what to do.
    """
    return TranscriptCorrector.from_pretrained(
        args.llm,
        gguf_file=args.gguf_file,
        quantization=args.quantization,
        dtype=args.llm_dtype,
        batch_size=args.llm_batch_size,
        fast_mode=args.fast_mode,
        alphabet=alphabet,
    )
