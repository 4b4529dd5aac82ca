"""Voices of people from every form of data; killed and started again; what is wrong is named."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile
from make_corpus import children_corpus
from paths import ROOT
from safetensors.torch import load_file
from tiny_speech import save_tiny_whisper, speaker_folder, tone

from hf_components.asr.transcriber import Transcriber
from hf_components.publishing.hub_files import is_personal, is_voice, kind_of
from hf_components.runtime.errors import UserError
from recipes import personalise_whisper, transcribe

pytestmark = pytest.mark.integration

FAST = ["--voice_rank=2", "--voice_marks", "1", "2", "--voice_learning_rate=0.01", "--max_folds=2", "--certainty=0"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny_whisper(tmp_path_factory.mktemp("model"))


@pytest.fixture
def anna(tmp_path):
    folder = tmp_path / "anna"
    folder.mkdir()
    for number in range(3):
        soundfile.write(folder / f"{number}.wav", 0.3 * tone(0, number, 0.6), 16_000)
    (folder / "sentences.txt").write_text("red cat\ngreen dog\nblue sun\n")
    return folder


def personalise(model, data, out, *words) -> dict:
    return personalise_whisper.main([f"--model={model}", f"--data={data}", f"--output_dir={out}", *FAST, *words])


def test_a_folder_of_one_person(model, anna, tmp_path):
    result = personalise(model, anna, tmp_path / "out")
    voice = result["voices"]["anna"]
    assert voice["sentences"] == 3 and voice["folder"] == "voices/anna"
    folder = tmp_path / "out" / "voices" / "anna"
    assert (folder / "voice.json").exists()
    card = (folder / "README.md").read_text()
    assert "personal data" in card and "To delete it" in card and "anna" not in card
    assert not any(tmp_path.glob("out/**/*.wav"))
    assert Transcriber.from_pretrained(model, voice=tmp_path / "out", max_new_tokens=4).transcribe(anna / "0.wav")
    manifest = [{"utterance_id": "0", "audio_path": "0.wav", "orthographic_text": "red cat", "child_id": "anna"}]
    (anna / "m.jsonl").write_text("".join(json.dumps(line) + "\n" for line in manifest))
    flags = [f"--input_jsonl={anna / 'm.jsonl'}", f"--output_jsonl={tmp_path / 'texts.jsonl'}", "--max_new_tokens=4"]
    transcribe.main([f"--model={model}", f"--voice={tmp_path / 'out'}", *flags])
    assert json.loads((tmp_path / "texts.jsonl").read_text())["utterance_id"] == "0"
    with pytest.raises(UserError, match="holds no voice"):
        transcribe.main([f"--model={model}", f"--voice={anna}", "--no_resume", *flags])
    assert is_personal(folder) and is_voice(folder) and kind_of(folder).repo_type == "model"


@pytest.mark.parametrize("kind", ["speakers", "manifest"])
def test_several_people_have_a_voice_each(model, kind, tmp_path):
    if kind == "speakers":
        data = speaker_folder(tmp_path / "speakers")
    else:
        children_corpus(tmp_path / "children")
        data = next((tmp_path / "children").glob("*.jsonl"))
    result = personalise(model, data, tmp_path / "out", "--max_sentences=3")
    learned = [voice for voice in result["voices"].values() if voice["way"]]
    assert len(learned) > 1
    assert all((tmp_path / "out" / voice["folder"] / "voice.json").exists() for voice in learned)
    assert not (tmp_path / "out" / "corpus").exists()  # no copy of the recordings stays


def test_rows_of_a_manifest_that_cannot_be_used_are_named(model, anna, tmp_path, capsys):
    (anna / "2.wav").write_bytes((anna / "2.wav").read_bytes()[:9000])
    rows = [
        {"utterance_id": str(i), "child_id": "anna", "audio_path": f"{i}.wav", "orthographic_text": text}
        for i, text in enumerate(("red cat", "blue dog", "green bird"))
    ]
    manifest = anna / "m.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    voice = personalise(model, manifest, tmp_path / "out")["voices"]["anna"]
    assert voice["sentences"] == 2 and "1 truncated audio" in capsys.readouterr().err
    (row,) = map(json.loads, (tmp_path / "out" / "rejected.jsonl").read_text().splitlines())
    assert row["id"] == "2" and row["reason"] == "truncated audio"


def test_recordings_of_any_suffix_are_found(model, anna, tmp_path):
    (anna / "2.wav").rename(anna / "2.weba")
    assert personalise(model, anna, tmp_path / "out")["voices"]["anna"]["sentences"] == 3


def test_untranscribed(model, anna, tmp_path):
    (anna / "sentences.txt").unlink()
    result = personalise(model, anna, tmp_path / "out", "--untranscribed", "--min_agreement=0")
    assert set(result["voices"]["anna"]["agreements"]) == {"0.wav", "1.wav", "2.wav"}
    assert "Nobody wrote down" in (tmp_path / "out" / "voices" / "anna" / "README.md").read_text()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: [(folder / f"{i}.wav").unlink() for i in (1, 2)] and keep(folder, 1), "at least 2 sentences"),
        (lambda folder: soundfile.write(folder / "1.wav", [0.0] * 16_000, 16_000), "1.wav of anna is silent"),
        (lambda folder: keep(folder, 2), "has 2 sentences for 3 recordings"),
    ],
)
def test_bad_input_is_named(model, anna, tmp_path, change, message):
    change(anna)
    with pytest.raises(UserError, match=message):
        personalise(model, anna, tmp_path / "out")


def keep(folder: Path, lines: int) -> None:
    file = folder / "sentences.txt"
    file.write_text("".join(line + "\n" for line in file.read_text().splitlines()[:lines]))


def test_what_is_no_data_is_named(model, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty is no data of a voice"):
        personalise(model, tmp_path / "empty", tmp_path / "out")


@pytest.mark.slow
def test_killed_in_the_middle_and_started_again(model, tmp_path):
    data = speaker_folder(tmp_path / "speakers")
    whole = personalise(model, data, tmp_path / "whole", "--max_sentences=3")
    words = [f"--model={model}", f"--data={data}", f"--output_dir={tmp_path / 'out'}", *FAST, "--max_sentences=3"]
    killer = (
        "import os, signal, sys; sys.path.insert(0, '.')\n"
        "from recipes import personalise_whisper as recipe\n"
        "learn, done = recipe.learn_voice, []\n"
        "def learn_and_die(*args, **more):\n"
        "    done.append(1)\n"
        "    found = learn(*args, **more)\n"
        "    return found if len(done) < 2 else os.kill(os.getpid(), signal.SIGKILL)\n"
        "recipe.learn_voice = learn_and_die\n"
        f"recipe.main({words!r})\n"
    )
    killed = subprocess.run([sys.executable, "-c", killer], cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert killed.returncode == -signal.SIGKILL and not (tmp_path / "out").exists()
    again = personalise(model, data, tmp_path / "out", "--max_sentences=3")
    assert again == whole
    for name, voice in whole["voices"].items():
        if voice["way"] == "lora":
            file = f"{voice['folder']}/adapter_model.safetensors"
            one, other = (load_file(tmp_path / run / file) for run in ("whole", "out"))
            assert all((one[key] == other[key]).all() for key in one), name
        if voice["way"]:
            files = [
                json.loads((tmp_path / run / voice["folder"] / "voice.json").read_text()) for run in ("whole", "out")
            ]
            assert files[0] == files[1]
