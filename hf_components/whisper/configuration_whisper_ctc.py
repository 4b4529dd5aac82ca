"""Configuration of a Whisper encoder with a CTC head."""

from typing import TYPE_CHECKING

from transformers import WhisperConfig

if TYPE_CHECKING:
    # Not for type checkers: transformers tells the code of two checkpoints apart by the files that the configuration
    # imports. With this import the code of the model counts too, and none stands in for that of another version.
    from .modeling_whisper_ctc import WhisperForCTC  # noqa: F401


class WhisperCTCConfig(WhisperConfig):
    """Whisper's settings, of which those of the decoder have no effect, and those of the head.

    Args:
        vocab_size: number of tokens, the blank among them.
        pad_token_id: the blank.
        min_audio_context: least mel frames of 10 ms that the encoder sees.
        ctc_loss_reduction, ctc_zero_infinity: see `torch.nn.CTCLoss`.
    """

    model_type = "whisper_ctc"
    min_audio_context: int = 200
    ctc_loss_reduction: str = "sum"
    ctc_zero_infinity: bool = True
