"""Features of batches of clips, one batch at a time; they can be kept on the disk for the next pass."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import datasets
import numpy as np
import torch
from accelerate import PartialState

from hf_components.acoustic_units import FRAME, MFCC, AcousticUnitsModel
from hf_components.checkpoints import DAMAGED, base_model_id, what_failed
from hf_components.runtime import UserError, atomic_write, damage_named, make_folder, require_there
from hf_components.speech import unreadable_explained, waveforms
from hf_components.units.learning.plan import Batch


def load_encoder(encoder: str, layer: int | None, num_units: int, unit_rate: str = FRAME) -> AcousticUnitsModel:
    """The encoder up to its layer, on this process's device; its units are still to be learnt.

    Raises:
        UserError: there is no such encoder or layer.
    """
    if encoder != MFCC:
        require_there(encoder, f"--model takes the folder or Hub id of an encoder, or {MFCC}")
    try:
        model = AcousticUnitsModel.from_encoder(encoder, layer, num_units, unit_rate)
    except (*DAMAGED, ImportError) as error:
        raise UserError(f"--model {encoder} cannot be used: {what_failed(error)}") from error
    if (hub_id := base_model_id(encoder)) != encoder:  # a copy on this disk says what it is a copy of
        model.config.encoder = hub_id
    return model.to(PartialState().device)


def pad_waveforms(clips: Sequence[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
    """`input_values` and `attention_mask`, both `(batch, samples)`."""
    lengths = torch.tensor([len(clip) for clip in clips])
    values = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(clip) for clip in clips], batch_first=True)
    return values, (torch.arange(values.shape[1]) < lengths[:, None]).long()


def clip_features(
    model: AcousticUnitsModel, values: torch.Tensor, mask: torch.Tensor, ids: Sequence[str]
) -> list[torch.Tensor]:
    """The features of each clip of a batch, `(frames, dim)` float32 on the model's device.

    Raises:
        UserError: the features of a clip are not finite.
    """
    features, frames = model.features(values.to(model.device), mask.to(model.device))
    found = [clip[:count].float() for clip, count in zip(features, frames.tolist(), strict=True)]
    for name, clip in zip(ids, found, strict=True):
        if not bool(torch.isfinite(clip).all()):
            raise UserError(f"{name}: the features of {model.config.encoder} are not finite; leave the recording out")
    return found


class FeatureStream:
    """Features of batches; only one batch is in memory at a time.

    Args:
        rows: rows of the data contract, audio not decoded.
        folder: folder that keeps the features for the next pass, `(frames, dim)` float32 per batch; None keeps none.
        num_workers: processes that decode audio ahead of the model; 0 decodes in this process.
    """

    def __init__(
        self, model: AcousticUnitsModel, rows: datasets.Dataset, folder: Path | None = None, num_workers: int = 0
    ):
        self.model = model
        self.rows = rows
        self.folder = folder
        self.num_workers = num_workers
        if folder is not None:
            make_folder(folder)

    def __call__(self, batches: Sequence[Batch]) -> Iterator[torch.Tensor]:
        """`(frames, dim)` of all clips of each batch, one clip after the other, on the model's device."""
        loader = torch.utils.data.DataLoader(_Inputs(self, batches), batch_size=None, num_workers=self.num_workers)
        for batch, (kept, inputs) in zip(batches, loader, strict=True):
            if kept is not None:
                yield kept.to(self.model.device)
                continue
            features = torch.cat(clip_features(self.model, *inputs, self.rows.select(batch.rows)["id"]))
            if self.folder is not None:
                self._keep(batch, features)
            yield features

    def file(self, batch: Batch) -> Path | None:
        return None if self.folder is None else self.folder / f"{batch.number:06d}.npy"

    def _keep(self, batch: Batch, features: torch.Tensor) -> None:
        file = self.file(batch)
        with atomic_write(file) as temporary, temporary.open("wb") as opened:
            np.save(opened, features.cpu().numpy(), allow_pickle=False)


class _Inputs(torch.utils.data.Dataset):
    """The kept features of each batch, or else the input of the model for them."""

    def __init__(self, stream: FeatureStream, batches: Sequence[Batch]):
        self.stream = stream
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> tuple[torch.Tensor | None, tuple[torch.Tensor, torch.Tensor] | None]:
        batch = self.batches[index]
        file = self.stream.file(batch)
        if file is not None and file.exists():
            with damage_named(file, "delete it to compute it again"):
                return torch.from_numpy(np.load(file, allow_pickle=False)), None
        with unreadable_explained():
            return None, pad_waveforms(waveforms(self.stream.rows.select(batch.rows)))
