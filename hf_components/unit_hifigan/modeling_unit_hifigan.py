"""Unit vocoder: discrete acoustic units to a waveform (after Polyak et al. 2021, arXiv 2104.00355).

One unit per frame of `hop_length` samples; frame i becomes samples `[i * hop_length, (i + 1) * hop_length)`.
"""

import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize
from transformers import PreTrainedModel
from transformers import initialization as init

from .configuration_unit_hifigan import UnitHifiGanConfig
from .durations import DurationPredictor, repeat_units
from .hifigan import HifiGanHead
from .istft import IstftHead

HEADS = {"hifigan": HifiGanHead, "istft": IstftHead}
REFERENCE_F0 = 150.0  # Hz at which the F0 input is 0


class UnitHifiGanModel(PreTrainedModel):
    """Embeddings of units, perhaps of speaker and F0, and a generator; perhaps a predictor of durations."""

    config: UnitHifiGanConfig
    config_class = UnitHifiGanConfig
    main_input_name = "units"

    def __init__(self, config: UnitHifiGanConfig):
        super().__init__(config)
        self.unit_embedding = nn.Embedding(config.num_units, config.embedding_dim)
        self.speaker_embedding = nn.Embedding(len(config.speakers), config.embedding_dim) if config.speakers else None
        self.duration_predictor = DurationPredictor(config.embedding_dim) if config.predict_durations else None
        self.head = HEADS[config.head](config, config.embedding_dim + 2 * config.use_f0)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, nn.Embedding):  # input of the first layer, not of a residual stream
            init.normal_(module.weight)
        elif self.config.head == "hifigan" and isinstance(module, (nn.Conv1d, nn.ConvTranspose1d)):
            # PyTorch's default. With the paper's N(0, 0.01) a narrow generator starts silent.
            init.kaiming_uniform_(module.weight, a=5**0.5)

    def forward(
        self,
        units: torch.LongTensor,
        attention_mask: torch.Tensor | None = None,
        durations: torch.LongTensor | None = None,
        speaker_ids: torch.LongTensor | None = None,
        f0: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Speak units.

        Args:
            units: `(batch, frames)`, one per frame, or `(batch, units)` with `durations`. Padding is any unit.
            attention_mask: `(batch, frames)`, 1 for real frames; a padded row then sounds as if it were alone, and is
                silent after its end. Leave it out with `durations`, whose padding is 0.
            durations: `(batch, units)` frames that each unit of a deduplicated sequence lasts, given or predicted.
            speaker_ids: `(batch,)` indices in `config.speakers`; needed by a vocoder of several voices.
            f0: `(batch, frames)` in Hz, 0 where unvoiced; needed by a vocoder with `use_f0`.
        Returns:
            waveform `(batch, frames * hop_length)` at `config.sampling_rate`.
        Raises:
            ValueError: an input that this vocoder needs is missing, or an input is given that it does not have.
        """
        self.check_inputs(speaker_ids, f0)
        if durations is not None:
            units, attention_mask = repeat_units(units, durations)
        hidden = self.embed(units, speaker_ids)
        if f0 is not None:
            voiced = (f0 > 0).to(hidden.dtype)
            pitch = torch.log2(f0.clamp(min=1.0) / REFERENCE_F0).to(hidden.dtype) * voiced  # octaves
            hidden = torch.cat([hidden, torch.stack([pitch, voiced], dim=-1)], dim=-1)
        mask = None if attention_mask is None else attention_mask[:, None].to(hidden.dtype)
        return self.head(hidden.transpose(1, 2), mask)

    def predict_log_durations(
        self, units: torch.LongTensor, mask: torch.Tensor, speaker_ids: torch.LongTensor | None = None
    ) -> torch.Tensor:
        """Natural logarithms of the frames that each unit of deduplicated sequences lasts, `(batch, units)`.

        Args:
            units: `(batch, units)`.
            mask: `(batch, units)`, 1 for real units.
            speaker_ids: `(batch,)`; needed by a vocoder of several voices.
        Raises:
            ValueError: this vocoder has no duration predictor.
        """
        if self.duration_predictor is None:
            raise ValueError(
                "this vocoder was created without `predict_durations`; give it one unit per frame, or `durations`."
            )
        return self.duration_predictor(self.embed(units, speaker_ids), mask)

    @torch.no_grad()
    def predict_durations(
        self, units: torch.LongTensor, mask: torch.Tensor | None = None, speaker_ids: torch.LongTensor | None = None
    ) -> torch.LongTensor:
        """The `durations` of `forward`: frames that each unit lasts, at least 1, and 0 for padding.

        Args:
            units: deduplicated, `(batch, units)`.
            mask: `(batch, units)`, 1 for real units; None: there is no padding.
            speaker_ids: `(batch,)`; needed by a vocoder of several voices.
        Returns:
            `(batch, units)`.
        Raises:
            ValueError: this vocoder has no duration predictor.
        """
        mask = torch.ones_like(units) if mask is None else mask
        frames = self.predict_log_durations(units, mask, speaker_ids).exp().round().clamp(min=1)
        return frames.long() * mask.long()

    def embed(self, units: torch.LongTensor, speaker_ids: torch.LongTensor | None) -> torch.Tensor:
        """Embeddings `(batch, units, embedding_dim)` of units `(batch, units)` by speakers `(batch,)`."""
        hidden = self.unit_embedding(units)
        return hidden if self.speaker_embedding is None else hidden + self.speaker_embedding(speaker_ids)[:, None]

    def check_inputs(self, speaker_ids: torch.Tensor | None, f0: torch.Tensor | None) -> None:
        """Check that `speaker_ids (batch,)` and `f0 (batch, frames)` are given where this vocoder has them.

        Raises:
            ValueError: one is missing, or given to a vocoder that does not have it.
        """
        for name, value, needed in (
            ("speaker_ids", speaker_ids, bool(self.config.speakers)),
            ("f0", f0, self.config.use_f0),
        ):
            if needed != (value is not None):
                raise ValueError(f"this vocoder {'needs' if needed else 'knows no'} `{name}`.")

    def require_units(self, identity: dict) -> None:
        """Refuse units of another quantizer, which would sound like noise.

        Args:
            identity: identity of the quantizer or the file that the units come from.
        Raises:
            ValueError: the identity is not that of `config.units`.
        """
        if identity != self.config.units:
            raise ValueError(
                f"the vocoder speaks units of {self.config.units}, but these are of {identity}; encode the audio with "
                "the units model that the vocoder was trained on, or train a vocoder on these units."
            )

    def apply_weight_norm(self) -> None:
        """Reparametrise the head for training (Salimans and Kingma 2016); remove it before saving."""
        for layer in self.head.normalised_layers():
            parametrizations.weight_norm(layer)

    def remove_weight_norm(self) -> None:
        """Undo `apply_weight_norm`; the weights stay as they are."""
        for layer in self.head.normalised_layers():
            parametrize.remove_parametrizations(layer, "weight")


UnitHifiGanModel.register_for_auto_class("AutoModel")
