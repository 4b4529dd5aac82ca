"""Configuration of acoustic units: the features of speech that are quantised, and the number of units."""

from typing import TYPE_CHECKING

from transformers import PreTrainedConfig

if TYPE_CHECKING:
    # Not for type checkers: transformers tells the code of two checkpoints apart by the files that the configuration
    # imports. With this import the code of the model counts too, and none stands in for that of another version.
    from .modeling_acoustic_units import AcousticUnitsModel  # noqa: F401

MFCC = "mfcc"
DEFAULT_ENCODER, DEFAULT_LAYER = "facebook/wav2vec2-large-xlsr-53", 14
ENCODERS = ("wav2vec2", "hubert", "wavlm", "wav2vec2-bert", "whisper")  # model types
LOG_MEL = ("wav2vec2-bert", "whisper")  # those whose input is log-mel features, two per frame
WINDOW, HOP = 400, 320  # samples of 16 kHz in a frame, and from one frame to the next
FRAME, SYLLABLE = "frame", "syllable"
COEFFICIENTS = 13  # MFCC; there are as many first and second differences


class AcousticUnitsConfig(PreTrainedConfig):
    r"""Configuration of [`AcousticUnitsModel`].

    Args:
        encoder (`str`): source of the features: `"mfcc"`, or the name of a speech encoder (wav2vec2, HuBERT,
            WavLM, w2v-BERT or the encoder of a Whisper). Only a name: the encoder's weights are part of this model.
        layer (`int`): the features are the output of this encoder layer, counted from 1 (in transformers
            `hidden_states[layer]`). The norm that some encoders have after their last layer is always left out. None
            for `"mfcc"`.
        num_units (`int`): number of centroids, at least 2.
        encoder_config (`dict`): configuration of the whole encoder. None for `"mfcc"`.
        unit_rate (`str`): `"frame"`: a unit per frame of 20 ms. `"syllable"`: frames between two changes of sound have
            one unit, that of their mean features.
        do_normalize (`bool`): scale waveforms to zero mean and unit variance, see `do_normalize` of the encoder's
            feature extractor.
    """

    model_type = "acoustic_units"

    encoder: str = MFCC
    layer: int | None = None
    num_units: int = 100
    encoder_config: dict | None = None
    unit_rate: str = FRAME
    do_normalize: bool = False

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        self.check()

    @property
    def feature_size(self) -> int:
        """Number of features per frame."""
        return 3 * COEFFICIENTS if self.encoder == MFCC else self._of_encoder("hidden_size", "d_model")

    def _of_encoder(self, name: str, of_whisper: str) -> int:
        is_whisper = self.encoder_config["model_type"] == "whisper"
        return self.encoder_config[of_whisper if is_whisper else name]

    def check(self) -> None:
        """Check every field.

        Raises:
            ValueError: the message names the field, the rule and the value.
        """
        if self.num_units < 2:
            raise ValueError(f"`num_units` must be at least 2, got {self.num_units}.")
        if self.unit_rate not in (FRAME, SYLLABLE):
            raise ValueError(f"`unit_rate` must be '{FRAME}' or '{SYLLABLE}', got {self.unit_rate!r}.")
        if self.encoder == MFCC:
            if self.layer is not None or self.encoder_config is not None:
                raise ValueError(
                    f"`layer` and `encoder_config` must be None for MFCC, which has no layers, got layer {self.layer}."
                )
            return
        if self.encoder_config is None:
            raise ValueError(
                f"`encoder_config` must hold the configuration of {self.encoder}; "
                "`AcousticUnitsModel.from_encoder` reads it."
            )
        kind = self.encoder_config.get("model_type")
        if kind not in ENCODERS:
            raise ValueError(
                f"`encoder` must be '{MFCC}' or a model of type {', '.join(ENCODERS)}, "
                f"got {self.encoder} of type {kind}."
            )
        layers = self._of_encoder("num_hidden_layers", "encoder_layers")
        if self.layer is None or not 1 <= self.layer <= layers:
            raise ValueError(f"`layer` must lie in [1, {layers}] for {self.encoder}, got {self.layer}.")
        window, hop = frame_size(self.encoder_config)
        if (window, hop) != (WINDOW, HOP):
            raise ValueError(
                f"`encoder` must have one frame of {WINDOW} samples every {HOP}, "
                f"{self.encoder} has one of {window} every {hop}."
            )


def default_layer(encoder_config: dict) -> int:
    """The layer whose units are taken where none is given: 14, as for XLSR-53; three quarters up in a Whisper."""
    if encoder_config["model_type"] == "whisper":
        return max(1, round(0.75 * encoder_config["encoder_layers"]))
    return DEFAULT_LAYER


def frame_size(encoder_config: dict) -> tuple[int, int]:
    """Samples in a frame of an encoder, and from one frame to the next."""
    if encoder_config["model_type"] in LOG_MEL:
        return WINDOW, HOP  # pairs of windows of 400 samples every 160; the second may end after the clip
    window = hop = 1
    for kernel, stride in zip(encoder_config["conv_kernel"], encoder_config["conv_stride"], strict=True):
        window = window + (kernel - 1) * hop
        hop = hop * stride
    return window, hop


AcousticUnitsConfig.register_for_auto_class()
