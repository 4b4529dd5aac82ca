"""Configuration of the unit vocoder."""

from math import prod
from typing import TYPE_CHECKING

from transformers import PreTrainedConfig

if TYPE_CHECKING:
    # Not for type checkers: transformers tells the code of two checkpoints apart by the files that the configuration
    # imports. With this import the code of the model counts too, and none stands in for that of another version.
    from .modeling_unit_hifigan import UnitHifiGanModel  # noqa: F401

HEADS = ("hifigan", "istft")


class UnitHifiGanConfig(PreTrainedConfig):
    r"""Configuration of [`UnitHifiGanModel`].

    Args:
        num_units (`int`): size of the unit vocabulary.
        units (`dict`): `identity()` of the quantizer of these units; `require_units` refuses others.
        head (`str`): `"hifigan"` upsamples by transposed convolutions (Kong et al. 2020, arXiv 2010.05646); `"istft"`
            predicts a spectrum at the frame rate and inverts it (Vocos, Siuzdak 2023, arXiv 2306.00814), which is an
            order of magnitude cheaper.
        embedding_dim (`int`): width of the unit embedding.
        speakers (`list[str]`): names of the speakers; `speaker_ids` are their indices. Empty for a single voice.
        use_f0 (`bool`): the fundamental frequency of each frame is a second input.
        predict_durations (`bool`): the model predicts how many frames each unit of a deduplicated sequence lasts.
        sampling_rate (`int`), hop_length (`int`): Hz, and samples per unit.
        hidden_size, intermediate_size, num_layers: sizes of the ConvNeXt backbone of `"istft"`.
        n_fft (`int`): window of the inverse STFT, an even multiple of `hop_length`.
        upsample_initial_channel, upsample_rates, upsample_kernel_sizes, resblock_kernel_sizes,
            resblock_dilation_sizes, leaky_relu_slope: for `"hifigan"`, see `SpeechT5HifiGanConfig`; the product of the
            rates is `hop_length`.
    """

    model_type = "unit_hifigan"

    num_units: int = 100
    units: dict | None = None
    head: str = "hifigan"
    embedding_dim: int = 128
    speakers: list[str] | tuple[str, ...] = ()
    use_f0: bool = False
    predict_durations: bool = False
    sampling_rate: int = 16_000
    hop_length: int = 320
    hidden_size: int = 384
    intermediate_size: int = 1152
    num_layers: int = 8
    n_fft: int = 1280
    upsample_initial_channel: int = 512
    upsample_rates: list[int] | tuple[int, ...] = (5, 4, 4, 2, 2)
    upsample_kernel_sizes: list[int] | tuple[int, ...] = (11, 8, 8, 4, 4)
    resblock_kernel_sizes: list[int] | tuple[int, ...] = (3, 7, 11)
    resblock_dilation_sizes: list[list[int]] | tuple[tuple[int, ...], ...] = ((1, 3, 5), (1, 3, 5), (1, 3, 5))
    leaky_relu_slope: float = 0.1

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        self.speakers = list(self.speakers)
        self.check()

    def check(self) -> None:
        """Check the fields.

        Raises:
            ValueError: the message names the field, the rule and the value.
        """
        if self.head not in HEADS:
            raise ValueError(f"`head` must be one of {', '.join(HEADS)}, got {self.head!r}.")
        for name in ("num_units", "embedding_dim", "hop_length", "hidden_size", "intermediate_size", "num_layers"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}.")
        narrowest = 2 ** len(self.upsample_rates)  # each upsampling halves the width
        if self.head == "hifigan" and self.upsample_initial_channel < narrowest:
            raise ValueError(
                f"`upsample_initial_channel` must be at least {narrowest}, got {self.upsample_initial_channel}."
            )
        if self.units is not None and self.units["num_units"] != self.num_units:
            raise ValueError(f"`num_units` must be that of `units`, {self.units['num_units']}, got {self.num_units}.")
        if self.n_fft % (2 * self.hop_length):
            raise ValueError(f"`n_fft` must be an even multiple of `hop_length` {self.hop_length}, got {self.n_fft}.")
        if prod(self.upsample_rates) != self.hop_length:
            raise ValueError(
                f"`upsample_rates` must multiply to `hop_length` {self.hop_length}, got {self.upsample_rates}."
            )
        if len(self.upsample_rates) != len(self.upsample_kernel_sizes):
            raise ValueError(
                f"`upsample_kernel_sizes` must be as many as `upsample_rates`, got {self.upsample_kernel_sizes}."
            )
        for rate, kernel in zip(self.upsample_rates, self.upsample_kernel_sizes, strict=True):
            if kernel < rate or (kernel - rate) % 2:  # a frame must become exactly `rate` samples
                raise ValueError(
                    f"`upsample_kernel_sizes` must exceed the rates by even numbers, got {kernel} for {rate}."
                )


UnitHifiGanConfig.register_for_auto_class()
