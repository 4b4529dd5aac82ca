"""A power cut takes no file of a record that is still there, wherever a record says that its files are."""

import contextlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from faults.power_cuts import states_after
from safetensors.torch import save_file
from tiny_speech import tiny_whisper
from tiny_voices import random_lora, with_examples

from hf_components.checkpoints.training_checkpoints import mark_complete
from hf_components.checkpoints.voices import save_voice
from hf_components.runtime.completion import write_json
from hf_components.runtime.disk import make_folder
from hf_components.runtime.stages import run_stage

pytestmark = pytest.mark.unit
WEIGHTS = {"a": torch.arange(1000.0)}


def stage(folder: Path) -> None:
    def produce(place: Path) -> dict:
        (place / "inside").mkdir()
        save_file(WEIGHTS, place / "inside" / "a.safetensors")
        (place / "a.txt").write_text("text" * 100)
        return {}

    run_stage(folder / "runs" / "stage", produce, config={})


def stage_over_an_earlier_one(folder: Path) -> None:
    stage(folder)
    run_stage(folder / "runs" / "stage", lambda place: (place / "b.txt").write_text("b" * 99) and {}, config={"n": 2})


def checkpoint(folder: Path) -> None:
    place = folder / "checkpoints" / "checkpoint-2"
    place.mkdir(parents=True)
    save_file(WEIGHTS, place / "model.safetensors")
    mark_complete(place, {"step": 2})


def voice(folder: Path) -> None:
    make_folder(folder / "voices" / "anna")
    (folder / "voices" / "anna" / "README.md").write_text("card" * 100)
    save_voice(random_lora(tiny_whisper(), "anna"), folder / "voices" / "anna")


def voice_of_examples(folder: Path) -> None:
    save_voice(with_examples(tiny_whisper(), "anna", "red", "green"), folder / "voices" / "anna")


def contents(folder: Path) -> dict[Path, bytes]:
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("write", "record"),
    [
        (stage, "runs/stage/stage.json"),
        (stage_over_an_earlier_one, "runs/stage/stage.json"),
        (checkpoint, "checkpoints/checkpoint-2/complete"),
        (voice, "voices/anna/voice.json"),
        (voice_of_examples, "voices/anna/voice.json"),
    ],
)
def test_no_record_is_left_without_its_files(tmp_path, write: Callable[[Path], None], record: str):
    write(tmp_path / "whole")
    folder = Path(record).parent
    whole = contents(tmp_path / "whole" / folder)
    seen = 0
    for out in states_after(write, tmp_path / "cut"):
        if (out / record).exists():
            seen += 1
            left = contents(out / folder)
            del left[Path(Path(record).name)]  # it has a time in it
            assert left == {path: content for path, content in whole.items() if path.name != Path(record).name}
    assert seen == 30  # what has ended stays


def test_no_power_cut_makes_a_good_file_look_like_another_one(tmp_path):
    """The note of a file is on the disk before the file is."""

    def stop(place: Path) -> dict:
        make_folder(place / "parts")
        for number in range(3):
            write_json(place / "parts" / "1.json", {"n": number})
        raise KeyboardInterrupt

    def write(folder: Path) -> None:
        with contextlib.suppress(KeyboardInterrupt):
            run_stage(folder / "stage", stop, config={})

    goes_on = 0
    for out in states_after(write, tmp_path, 60):
        goes_on += (out / ".stage.partial" / "parts" / "1.json").exists()
        run_stage(out / "stage", lambda place: {}, config={}, resume=True)
    assert goes_on > 30


def test_a_file_that_is_replaced_is_the_old_one_or_the_new_one(tmp_path):
    def write(folder: Path) -> None:
        for text in ("old", "new"):
            write_json(folder / "a.json", text * 100)

    for out in states_after(write, tmp_path):
        assert (out / "a.json").read_text() == f'"{"new" * 100}"\n'
