"""Speech to acoustic units and back."""

import functools
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from checkpoints import fetch, read_fields
from transformers import AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
FIRST_SYMBOL = 0x4E00  # unit i is this character and i more to the motifs' tokenizer


class UnitModels(NamedTuple):
    """Models of the same units; None is what the checkpoint does not have."""

    quantizer: PreTrainedModel
    vocoder: PreTrainedModel | None
    motifs: PreTrainedTokenizerBase | None


class Resynthesis(NamedTuple):
    """Speech as units.

    Args:
        frames: how many units, one per 20 ms.
        motifs: units without repetitions, grouped by motif; each a group of its own without motifs.
        speech: (samples,) of 16 kHz, spoken from the units alone; None without a vocoder that can.
    """

    frames: int
    motifs: list[list[int]]
    speech: np.ndarray | None
    remark: str


@functools.lru_cache(maxsize=2)
def load_units(name: str) -> UnitModels:
    """Units by folder or Hub id: the quantizer at the root, and `vocoder/` and `motifs/` where there are any.

    Raises:
        ValueError: there is none of that name, it is something else, or its parts do not belong together.
    """
    folder = fetch(name)
    kind = read_fields(folder, name)["model_type"]
    if kind != "acoustic_units":
        raise ValueError(f"{name} is of the type {kind}; acoustic units are needed. Recognisers belong on the other tab.")
    try:
        quantizer = _load(folder)
        vocoder = _load(folder / "vocoder") if (folder / "vocoder").is_dir() else None
        motifs = AutoTokenizer.from_pretrained(folder / "motifs") if (folder / "motifs").is_dir() else None
        if vocoder:
            vocoder.require_units(quantizer.identity())
    except (OSError, ValueError, ImportError) as error:
        raise ValueError(f"{name} cannot be loaded: {str(error).splitlines()[0]}") from error
    return UnitModels(quantizer, vocoder, motifs)


@torch.inference_mode()
def resynthesise(name: str, waveform: np.ndarray) -> Resynthesis:
    """Turn speech into units, and the units into speech.

    Args:
        waveform: (samples,) of 16 kHz.
    Raises:
        ValueError: as of `load_units`.
    """
    quantizer, vocoder, motifs = load_units(name)
    units = quantizer(torch.from_numpy(waveform)[None].to(DEVICE))  # (1, frames)
    runs = torch.unique_consecutive(units[0]).tolist()
    groups = [[unit] for unit in runs]
    if motifs:
        pieces = motifs.tokenize("".join(chr(FIRST_SYMBOL + unit) for unit in runs))
        groups = [[ord(symbol) - FIRST_SYMBOL for symbol in piece] for piece in pieces]
    remarks = [] if motifs else [f"{name} has no motifs."]
    if vocoder is None or vocoder.config.use_f0:
        lack = "has no vocoder" if vocoder is None else "has a vocoder that needs a melody beside the units"
        return Resynthesis(units.shape[1], groups, None, " ".join([*remarks, f"{name} {lack}: the units are not spoken."]))
    speaker = torch.zeros(1, dtype=torch.long, device=DEVICE) if vocoder.config.speakers else None
    if vocoder.config.speakers:
        remarks.append(f"Spoken in the voice of {vocoder.config.speakers[0]}.")
    speech = vocoder(units, speaker_ids=speaker)[0].cpu().numpy()
    return Resynthesis(units.shape[1], groups, speech, " ".join(remarks))


def _load(folder: Path) -> PreTrainedModel:
    return AutoModel.from_pretrained(folder, trust_remote_code=True, dtype=torch.float32).to(DEVICE).eval()
