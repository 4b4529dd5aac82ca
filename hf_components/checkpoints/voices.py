"""Voices on disk: what one person's sentences changed about a recogniser, in one small folder.

A voice is `voice.json` alone (no change, or weights over the experts of a mixture), with some recorded sentences as
examples, with a PEFT adapter, or with both. It was learned from the recordings of one person: it is personal data.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedModel

from hf_components.checkpoints.digests import digest_of_model
from hf_components.runtime import (
    NUMBER,
    UserError,
    damage_named,
    first_few,
    make_folder,
    note_written,
    read_record,
    require_there,
    sync_folder,
    write_json,
)
from hf_components.speech import AudioError, decode, encode_flac
from hf_components.whisper.adapters import Lora, load_adapter, save_adapter

RECORD = "voice.json"
ADAPTER = "adapter_config.json"
RELEASED = "runs/voice/model/voices"  # where `make recipe-voice` leaves them
FORMAT = 1
EXAMPLE = "example_{}.flac"
NO_CHANGE, WEIGHTS, CONTEXT, LORA, VOTE = "no change", "weights", "context", "lora", "vote"
WAYS = (NO_CHANGE, WEIGHTS, CONTEXT, LORA, VOTE)  # the cheapest first
FORM = {
    "format": int,
    "name": str,
    "way": str,
    "base": str,
    "base_digest": str,
    "sentences": int,
    "seconds_of_speech": NUMBER,
    "expert_weights": (list, None),
    "first_layer": (int, None),
    "example_texts": [str],
    "figures": {str: object},
}


@dataclass(frozen=True)
class Voice:
    """A voice over one base model.

    Args:
        name: name of the person.
        way: "no change": the base as it is; "weights": fixed weights over its experts; "context": examples of
            the voice before each recording; "lora": one more LoRA; "vote": the base, examples and a LoRA vote.
        base: folder or Hub id of the base model.
        base_digest: `digest_of_model` of it.
        sentences: number of sentences that the voice was learned from.
        seconds_of_speech: their length.
        expert_weights: weights over the experts of a mixture, `(experts,)`; None for a base without experts.
        lora: A `(rank, in)` and B `(out, rank)` per module name, with a scaling of 1; None without a LoRA.
        first_layer: index of the first encoder layer with a LoRA, or the number of layers if only the decoder has one.
        examples: recordings of sentences, float32 `(samples,)` at 16 kHz each.
        example_texts: what is said in each.
        figures: what choosing the way showed, for the record.
    """

    name: str
    way: str
    base: str
    base_digest: str
    sentences: int = 0
    seconds_of_speech: float = 0.0
    expert_weights: list[float] | None = None
    lora: Lora | None = None
    first_layer: int | None = None
    examples: Sequence[np.ndarray] = ()
    example_texts: list[str] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)

    @property
    def rank(self) -> int:
        return 0 if self.lora is None else next(iter(self.lora.values()))[0].shape[0]


def save_voice(voice: Voice, folder: Path) -> int:
    """Write a voice, the record last; returns its size in bytes."""
    make_folder(folder)
    if voice.lora is not None:
        save_adapter(folder, voice.lora, scaling=1.0, base_model=voice.base)
    for number, example in enumerate(voice.examples):
        (folder / EXAMPLE.format(number)).write_bytes(encode_flac(example))
    kept = {name: getattr(voice, name) for name in FORM if name != "format"}
    sync_folder(folder)  # before the record: it must not exist if a file did not reach the disk
    write_json(folder / RECORD, {"format": FORMAT, **kept})
    note_written(folder)
    return sum(path.stat().st_size for path in folder.iterdir() if path.is_file())


def read_voice(folder: str | Path) -> Voice:
    """Read a voice.

    Raises:
        UserError: the folder holds no voice, or a damaged one, or one of a later version.
    """
    folder = Path(folder)
    require_there(folder)
    again = "learn the voice again with recipes/personalise_whisper.py"
    if not (folder / RECORD).exists():
        raise UserError(f"{folder} holds no voice: {RECORD} is missing; {again}")
    record = read_record(folder / RECORD, FORM, again)
    if record["format"] != FORMAT:
        raise UserError(f"{folder / RECORD} has format {record['format']}, and {FORMAT} is known; update underheard")
    if record["way"] not in WAYS:
        raise UserError(f"{folder / RECORD} is damaged: way must be one of {', '.join(WAYS)}; {again}")
    lora = _read_lora(folder, again) if record["way"] in (LORA, VOTE) else None
    examples = [_read_example(folder / EXAMPLE.format(i), again) for i in range(len(record["example_texts"]))]
    return Voice(lora=lora, examples=examples, **{name: record[name] for name in FORM if name != "format"})


def voice_folder(voice: str | Path, model: str) -> Path:
    """The folder of a voice, given as a folder or by the name of its person.

    A name is looked for in the folder `voices` of the model, in `voices` here, and among those of `recipe-voice`.

    Raises:
        UserError: there is no such folder, and no voice of that name.
    """
    name = str(voice)
    if Path(name).exists() or Path(name).name != name:
        return Path(name)
    places = [place for place in (Path(model) / "voices", Path("voices"), Path(RELEASED)) if place.is_dir()]
    for place in places:
        if name in (found := find_voices(place)):
            return found[name]
    looked = (
        f"; there is no voice of that name in {first_few([str(place) for place in places])} either" if places else ""
    )
    raise UserError(f"there is no folder {name}{looked}; recipes/personalise_whisper.py makes a voice")


def find_voices(path: str | Path) -> dict[str, Path]:
    """Folders of voices by name: `path` itself, its folder `voice`, or every voice in it or in its folder `voices`.

    Raises:
        UserError: there is none, or two have the same name.
    """
    path = Path(path)
    require_there(path)
    for folder in (path, path / "voice"):
        if (folder / RECORD).exists():
            return {_name_of(folder): folder}
    found: dict[str, Path] = {}
    for record in sorted([*path.glob(f"*/{RECORD}"), *path.glob(f"voices/**/{RECORD}")]):
        name = _name_of(record.parent)
        if name in found:
            raise UserError(f"{path} holds two voices of {name}: {found[name]} and {record.parent}; move one away")
        found[name] = record.parent
    if not found:
        raise UserError(f"{path} holds no voice; recipes/personalise_whisper.py makes one")
    return found


def require_same_base(voice: Voice, model: PreTrainedModel, where: str | Path) -> None:
    """Raise UserError if a voice was learned over other weights than those of `model`."""
    if voice.base_digest != digest_of_model(model):
        raise UserError(
            f"the voice in {where} was learned over {voice.base}, and {model.name_or_path} has other weights; give "
            "that model, or learn the voice again"
        )


def _name_of(folder: Path) -> str:
    return read_record(folder / RECORD, {"name": str}, "learn the voice again")["name"]


def _read_example(file: Path, again: str) -> np.ndarray:
    try:
        return decode(file)
    except AudioError as error:
        raise UserError(f"{file} cannot be read: {error.detail}; {again}") from error


def _read_lora(folder: Path, again: str) -> Lora:
    try:
        with damage_named(folder, again):
            lora, _, scaling = load_adapter(folder)
    except (ValueError, json.JSONDecodeError) as error:
        raise UserError(f"{error}; {again}") from error
    return {name: (a, b * scaling) for name, (a, b) in lora.items()}
