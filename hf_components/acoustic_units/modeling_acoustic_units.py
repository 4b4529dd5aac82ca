"""Acoustic units: 20 ms of speech become the number of the nearest centroid in the features of an encoder."""

import hashlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from transformers import AutoConfig, PreTrainedModel
from transformers import initialization as init

from .configuration_acoustic_units import (
    DEFAULT_ENCODER,
    FRAME,
    HOP,
    MFCC,
    SYLLABLE,
    WINDOW,
    AcousticUnitsConfig,
    default_layer,
)
from .cut_encoder import build_encoder, hidden_states, load_encoder, wants_normalized
from .mfcc import mfcc
from .nearest import nearest_centroid, where_float64_is
from .syllables import pooled

PADDING = -1  # the unit of frames after a clip's end
SAMPLING_RATE = 16_000


class EncodedUnits(NamedTuple):
    """Units of one clip.

    Args:
        units: `(n,)` int64.
        durations: `(n,)` int64, in frames of 20 ms.
        start_times: `(n,)` float64, seconds from the clip's start; on the CPU unless on CUDA.
    """

    units: torch.Tensor
    durations: torch.Tensor
    start_times: torch.Tensor


def timed(units: torch.Tensor, deduplicate: bool) -> EncodedUnits:
    """The units of a clip's frames `(frames,)` with durations and start times; `deduplicate` joins repetitions."""
    durations = torch.ones_like(units)
    if deduplicate:
        units, durations = torch.unique_consecutive(units, return_counts=True)
    starts = where_float64_is(durations.cumsum(0) - durations).double()
    return EncodedUnits(units, durations, starts * HOP / SAMPLING_RATE)


class AcousticUnitsModel(PreTrainedModel):
    """Speech to discrete units, one every 20 ms: unit i represents the samples 320 i to 320 (i + 1).

    A syllable has the same unit in all its frames. With every encoder, a clip of n samples has
    `(n - 400) // 320 + 1` units. They do not depend on the other clips of the batch.
    """

    config: AcousticUnitsConfig
    config_class = AcousticUnitsConfig
    main_input_name = "input_values"
    _keep_in_fp32_modules_strict = ["centroids"]  # rounded centroids would be other units
    # All attention is the encoder's, which says what it supports.
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = True

    def __init__(self, config: AcousticUnitsConfig):
        super().__init__(config)
        self.encoder = None if config.encoder == MFCC else build_encoder(config)
        self.register_buffer("centroids", torch.zeros(config.num_units, config.feature_size))
        self.post_init()
        # "sdpa" is only the default, and not every encoder has it.
        if self.encoder is not None and config._attn_implementation not in (None, "sdpa"):
            self.encoder.set_attn_implementation(config._attn_implementation)

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, AcousticUnitsModel):  # a checkpoint without centroids, which is told
            init.zeros_(module.centroids)

    @classmethod
    def from_encoder(
        cls, encoder: str = DEFAULT_ENCODER, layer: int | None = None, num_units: int = 100, unit_rate: str = FRAME
    ) -> "AcousticUnitsModel":
        """A model with the features of an encoder; its centroids are still to be learnt (see `set_centroids`).

        Args:
            encoder: `"mfcc"`, or folder or Hub id of a wav2vec2, HuBERT, WavLM, w2v-BERT or Whisper.
            layer, unit_rate: see [`AcousticUnitsConfig`]; layer 14 by default, three quarters up in a Whisper, none
                for MFCC.
        Raises:
            ValueError: it is another kind of model, or it has no such layer.
            OSError: there is no such checkpoint.
        """
        if encoder == MFCC:
            return cls(AcousticUnitsConfig(layer=layer, num_units=num_units, unit_rate=unit_rate)).eval()
        whole = AutoConfig.from_pretrained(encoder)
        config = AcousticUnitsConfig(
            encoder=Path(encoder).resolve().name if Path(encoder).exists() else encoder,
            layer=default_layer(whole.to_dict()) if layer is None else layer,
            num_units=num_units,
            encoder_config=whole.to_dict(),
            unit_rate=unit_rate,
        )
        config.do_normalize = wants_normalized(encoder, whole)
        with torch.device("meta"):  # the encoder's random weights would take memory and time
            model = cls(config)
        model.encoder = load_encoder(encoder, config)
        model.centroids = torch.zeros(num_units, config.feature_size)
        return model.eval()

    def set_centroids(self, centroids: torch.Tensor) -> None:
        """Set centroids `(num_units, dim)`.

        Raises:
            ValueError: the shape is different.
        """
        if centroids.shape != self.centroids.shape:
            raise ValueError(
                f"`centroids` must have the shape {tuple(self.centroids.shape)}, got {tuple(centroids.shape)}."
            )
        self.centroids.copy_(centroids)

    # transformers looks at the parameters, and MFCC has none.
    @property
    def device(self) -> torch.device:
        """The device of the centroids."""
        return self.centroids.device

    @property
    def dtype(self) -> torch.dtype:
        """The type of the centroids."""
        return self.centroids.dtype

    def num_frames(self, samples: int | torch.Tensor) -> int | torch.Tensor:
        """Number of units of a clip with this number of samples, or of several clips, `(clips,)` to `(clips,)`."""
        return (samples - WINDOW) // HOP + 1

    @torch.no_grad()
    def features(
        self, input_values: torch.Tensor, attention_mask: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The features that are quantised; see `forward` for arguments and errors.

        Returns:
            `(batch, frames, dim)`, and the number of frames of each clip `(batch,)`; later frames are meaningless.
        """
        lengths = _lengths(input_values, attention_mask)
        frames = self.num_frames(lengths)
        if self.encoder is None:
            clips = [mfcc(clip[:length]) for clip, length in zip(input_values, lengths.tolist(), strict=True)]
            found = torch.nn.utils.rnn.pad_sequence(clips, batch_first=True)
        else:
            found = hidden_states(self.encoder, input_values, lengths, frames, self.config.do_normalize)
        return (pooled(found, frames) if self.config.unit_rate == SYLLABLE else found), frames

    @torch.no_grad()
    def forward(self, input_values: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """Units of a batch.

        Args:
            input_values: waveforms `(batch, samples)`, mono, 16 kHz, in [-1, 1], not normalised: the model does that
                if its encoder needs it.
            attention_mask: `(batch, samples)`, 1 for the clip and 0 for the padding after it; no padding by default.
        Returns:
            `(batch, frames)` int64, -1 after the end of a clip.
        Raises:
            ValueError: a clip is shorter than a frame or not finite, or padding is not at the end.
        """
        features, frames = self.features(input_values, attention_mask)
        real = torch.arange(features.shape[1], device=features.device) < frames[:, None]
        units = torch.full(real.shape, PADDING, device=features.device)
        units[real], _ = nearest_centroid(features[real], self.centroids)
        return units

    def encode(self, waveform: np.ndarray | torch.Tensor, deduplicate: bool = False) -> EncodedUnits:
        """Units of one clip, how long each lasts and when it starts.

        Args:
            waveform: `(samples,)`, mono, 16 kHz, in [-1, 1].
            deduplicate: join repetitions of a unit into one that lasts longer.
        Raises:
            ValueError: the waveform is not one channel of floats, is shorter than a frame, or is not finite.
        """
        waveform = torch.as_tensor(waveform, device=self.device)
        if waveform.ndim != 1:
            raise ValueError(f"`waveform` must have the shape (samples,), got {tuple(waveform.shape)}.")
        return timed(self(waveform[None])[0], deduplicate)

    def identity(self) -> dict:
        """The identity of the units: in models with the same identity, a number means the same sound."""
        values = self.centroids.detach().cpu().numpy().astype("<f4")
        return {
            "encoder": self.config.encoder,
            "layer": self.config.layer,
            "num_units": self.config.num_units,
            "centroids_sha256": hashlib.sha256(values.tobytes()).hexdigest(),
        }


def _lengths(input_values: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
    """Samples of each clip `(batch,)`."""
    if input_values.ndim != 2 or not input_values.is_floating_point():
        raise ValueError(
            f"`input_values` must be floats of the shape (batch, samples), "
            f"got {input_values.dtype} of {tuple(input_values.shape)}."
        )
    if attention_mask is None:
        attention_mask = torch.ones_like(input_values, dtype=torch.bool)
    if attention_mask.shape != input_values.shape or bool((attention_mask.long().diff(dim=1) > 0).any()):
        raise ValueError(
            "`attention_mask` must have the shape of `input_values`, 1 for a clip, then 0 for the padding after it."
        )
    if not bool(torch.isfinite(input_values).all()):
        raise ValueError("`input_values` must be finite, got NaN or infinite samples.")
    lengths = attention_mask.long().sum(1)
    if bool((lengths < WINDOW).any()):
        raise ValueError(f"a waveform must have at least {WINDOW} samples (25 ms), got {int(lengths.min())}.")
    return lengths


AcousticUnitsModel.register_for_auto_class("AutoModel")
