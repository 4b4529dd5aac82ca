"""Configuration of acoustic units: which features of speech are quantised, and into how many units."""

from transformers import PreTrainedConfig

MFCC = "mfcc"
DEFAULT_ENCODER, DEFAULT_LAYER = "facebook/wav2vec2-large-xlsr-53", 14
ENCODERS = ("wav2vec2", "hubert", "wavlm", "wav2vec2-bert")  # model types; the last hears log-mel features
WINDOW, HOP = 400, 320  # samples of 16 kHz that a frame hears, and from one frame to the next
COEFFICIENTS = 13  # of MFCC, and as many first and second differences


class AcousticUnitsConfig(PreTrainedConfig):
    r"""Configuration of [`AcousticUnitsModel`].

    Args:
        encoder (`str`): where the features come from: `"mfcc"`, or the name of a self-supervised speech encoder
            (wav2vec2, HuBERT, WavLM or w2v-BERT). A name alone, since the encoder's weights are the model's own.
        layer (`int`): features are what comes out of the encoder's layer of this number, counted from 1, which
            transformers calls `hidden_states[layer]`. The norm that some encoders have after their last layer is
            always left out. None for `"mfcc"`.
        num_units (`int`): centroids, at least 2.
        encoder_config (`dict`): configuration of the whole encoder. None for `"mfcc"`.
        do_normalize (`bool`): the encoder hears waveforms of zero mean and unit variance, as `do_normalize` of its
            feature extractor says.
    """

    model_type = "acoustic_units"

    encoder: str = MFCC
    layer: int | None = None
    num_units: int = 100
    encoder_config: dict | None = None
    do_normalize: bool = False

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        self.check()

    @property
    def feature_size(self) -> int:
        return 3 * COEFFICIENTS if self.encoder == MFCC else self.encoder_config["hidden_size"]

    def check(self) -> None:
        """Hold every field against its rule.

        Raises:
            ValueError: the message names the field, the rule and the value.
        """
        if self.num_units < 2:
            raise ValueError(f"`num_units` must be at least 2, got {self.num_units}.")
        if self.encoder == MFCC:
            if self.layer is not None or self.encoder_config is not None:
                raise ValueError(
                    f"`layer` and `encoder_config` must be None for MFCC features, which have no layers, got "
                    f"layer {self.layer}."
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
                f"`encoder` must be '{MFCC}' or a model of type {', '.join(ENCODERS)}, got {self.encoder} of "
                f"type {kind}."
            )
        layers = self.encoder_config["num_hidden_layers"]
        if self.layer is None or not 1 <= self.layer <= layers:
            raise ValueError(f"`layer` must lie in [1, {layers}] for {self.encoder}, got {self.layer}.")
        window, hop = frame_size(self.encoder_config)
        if (window, hop) != (WINDOW, HOP):
            raise ValueError(
                f"`encoder` must have one frame of {WINDOW} samples every {HOP}, {self.encoder} has one of "
                f"{window} every {hop}."
            )


def frame_size(encoder_config: dict) -> tuple[int, int]:
    """Samples that a frame of an encoder hears, and from one frame to the next."""
    if encoder_config["model_type"] == "wav2vec2-bert":
        return WINDOW, HOP  # pairs of windows of 400 samples every 160: the second may reach past the clip
    window = hop = 1
    for kernel, stride in zip(encoder_config["conv_kernel"], encoder_config["conv_stride"], strict=True):
        window = window + (kernel - 1) * hop
        hop = hop * stride
    return window, hop


AcousticUnitsConfig.register_for_auto_class()
