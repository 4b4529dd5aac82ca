"""Speech to acoustic units and back."""

import functools
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from checkpoints import IS_INSTALLED, NOT_LOADABLE, fetch, read_fields, what_failed
from transformers import AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
FIRST_SYMBOL = 0x4E00  # code of the character that represents unit 0 in the motifs' tokenizer; unit i is i codes later


class UnitModels(NamedTuple):
    """Models of the same units; None where the checkpoint lacks one."""

    quantizer: PreTrainedModel
    vocoder: PreTrainedModel | None
    motifs: PreTrainedTokenizerBase | None


class Resynthesis(NamedTuple):
    """Speech as units.

    Args:
        motifs: units without repetitions, grouped by motif; without motifs, each unit is a group.
        speech: (samples,) at 16 kHz, spoken from the units alone; None if there is no suitable vocoder.
        remark: number of units, and what the checkpoint cannot do.
    """

    motifs: list[list[int]]
    speech: np.ndarray | None
    remark: str


@functools.lru_cache(maxsize=2)
def load_units(name: str) -> UnitModels:
    """Load units by folder or Hub id: the quantizer at the root, and `vocoder/` and `motifs/` if they exist.

    Raises:
        ValueError: there is no checkpoint of that name, it is something else, or its parts do not belong together.
    """
    folder = fetch(name)
    kind = read_fields(folder, name)["model_type"]
    if kind != "acoustic_units":
        raise ValueError(
            f"{name} is of the type {kind}; acoustic units are needed. Recognisers belong on the other tab."
        )
    try:
        quantizer = _load(folder)
        vocoder = _load(folder / "vocoder") if (folder / "vocoder").is_dir() else None
        motifs = AutoTokenizer.from_pretrained(folder / "motifs") if (folder / "motifs").is_dir() else None
        if vocoder:
            vocoder.require_units(quantizer.identity())
    except NOT_LOADABLE as error:
        raise ValueError(f"{name} cannot be loaded: {what_failed(error)}") from error
    return UnitModels(quantizer, vocoder, motifs)


@torch.inference_mode()
def resynthesise(name: str, waveform: np.ndarray) -> Resynthesis:
    """Turn speech into units, and the units into speech.

    Args:
        waveform: (samples,) at 16 kHz.
    Raises:
        ValueError: the same as in `load_units`.
    """
    quantizer, vocoder, motifs = load_units(name)
    units = quantizer(torch.from_numpy(waveform)[None].to(DEVICE))  # (1, frames)
    runs = torch.unique_consecutive(units[0]).tolist()
    remarks = [f"{units.shape[1]} units of 20 ms, {len(runs)} without repetitions."]
    if motifs:
        pieces = motifs.tokenize("".join(chr(FIRST_SYMBOL + unit) for unit in runs))
        groups = [[ord(symbol) - FIRST_SYMBOL for symbol in piece] for piece in pieces]
        remarks.append(f"They make {len(groups)} motifs.")
    else:
        groups = [[unit] for unit in runs]
        remarks.append(f"`{name}` has no motifs.")
    if vocoder is None or vocoder.config.use_f0:
        lack = "has no vocoder" if vocoder is None else "has a vocoder that needs a melody too"
        remarks.append(f"`{name}` {lack}, so the units are not spoken.")
        return Resynthesis(groups, None, " ".join(remarks))
    speakers = vocoder.config.speakers
    if speakers:
        remarks.append(f"Spoken in the voice of {speakers[0]}, the first of {len(speakers)}.")
    speech = vocoder(units, speaker_ids=torch.zeros(1, dtype=torch.long, device=DEVICE) if speakers else None)
    return Resynthesis(groups, speech[0].cpu().numpy(), " ".join(remarks))


def _load(folder: Path) -> PreTrainedModel:
    return AutoModel.from_pretrained(folder, trust_remote_code=not IS_INSTALLED, dtype=torch.float32).to(DEVICE).eval()
