"""Configuration of a Whisper encoder with a CTC head."""

from transformers import WhisperConfig


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
