"""Both kits of the SAP challenge: the interface that its organisers call, and what is shown while somebody speaks."""

import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from every_model import EVERY
from tiny_speech import rows, save_tiny_whisper, tone

from hf_components.asr.packing import load_packable
from hf_components.asr.sapc2_packing import FOLDER, KITS, write_sapc2_package
from hf_components.runtime.errors import UserError
from hf_components.speech.audio import encode_wav
from hf_components.speech.corpus import waveforms
from hf_components.submission import main as submission
from hf_components.submission import sapc2_track1, sapc2_track2

pytestmark = pytest.mark.unit
CHUNK = 1600


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    """Folder of each unpacked kit, and the recogniser that was packed."""
    folder = tmp_path_factory.mktemp("kits")
    save_tiny_whisper(folder / "whisper")
    made = {}
    for kit in KITS:
        transcriber = load_packable(str(folder / "whisper"), None, None, 20)
        write_sapc2_package(folder / f"{kit}.zip", transcriber, torch.float32, kit)
        with zipfile.ZipFile(folder / f"{kit}.zip") as package:
            package.extractall(folder / kit)
        made[kit] = (folder / kit, transcriber)
    return made


@pytest.fixture
def model_of(packages, monkeypatch):
    def load(track):
        kit = track.__name__.rpartition(".")[2].replace("_", "-")
        monkeypatch.setattr(submission, "HERE", packages[kit][0] / FOLDER)
        return track.Model()

    return load


def test_the_zip_has_what_the_organisers_ask_for(packages):
    for kit, (folder, _) in packages.items():
        program = kit.replace("-", "_")
        assert {path.name for path in folder.iterdir()} == {"model.py", "setup.sh", FOLDER}
        assert (folder / "model.py").read_text() == f"from {FOLDER}.{program} import Model\n"
        assert {path.name for path in (folder / FOLDER).iterdir()} == {
            "__init__.py",
            "main.py",
            f"{program}.py",
            "model",
        }


def test_track_1_writes_what_the_model_writes(packages, model_of, tmp_path, capsys):
    model = model_of(sapc2_track1)
    expected = [transcript.text for transcript in packages["sapc2-track1"][1].transcribe_corpus(rows(3))]
    for number, (row, text) in enumerate(zip(rows(3), expected, strict=True)):
        file = tmp_path / f"{number}.wav"
        file.write_bytes(encode_wav(*waveforms([row])))
        assert model.predict(str(file)) == text
    assert any(expected)
    (tmp_path / "bad.wav").write_bytes(b"not audio")
    assert model.predict(str(tmp_path / "bad.wav")) == ""
    assert "bad.wav cannot be read and has an empty text" in capsys.readouterr().err


def speak(model, waveform: np.ndarray) -> tuple[list[str], str]:
    shown: list[str] = []
    model.reset()
    model.set_partial_callback(shown.append)
    for start in range(0, len(waveform), CHUNK):
        assert model.accept_chunk(waveform[start : start + CHUNK]) == (shown[-1] if shown else "")
    return shown, model.input_finished()


def test_track_2_never_takes_back_a_word_that_it_showed(model_of, monkeypatch):
    model = model_of(sapc2_track2)
    model.settings["partial_seconds"] = 0.1
    texts = iter(["a", "a b", "a b c", "a x c", "a b c d"])
    words = {"a": 1, "b": 2, "c": 3, "d": 4, "x": 5}
    monkeypatch.setattr(model, "_write", lambda audio: [words[word] for word in next(texts).split()])
    monkeypatch.setattr(
        model.processor,
        "tokenizer",
        SimpleNamespace(
            decode=lambda tokens, **_: " ".join("?abcdx"[token] for token in tokens),
            convert_ids_to_tokens=lambda tokens: ["\u0120" + "?abcdx"[token] for token in tokens],
        ),
    )
    monkeypatch.setattr(sapc2_track2.time, "monotonic", lambda: 0.0)
    # "a" is new in the first transcript, agreed in the second; "b" in the third, and it stays in the fourth.
    shown, final = speak(model, np.full(4 * CHUNK, 0.1, np.float32))
    assert shown == ["a", "a b"]
    assert final == "a b c d"


def test_track_2_hears_the_whole_recording_as_a_whisper_of_short_context(model_of):
    model = model_of(sapc2_track2)
    waveform = tone(1, 1, 0.8).astype(np.float32)
    _, final = speak(model, waveform)
    model.reset()
    assert model.processor.tokenizer.decode(model._write(waveform)).strip() == final
    assert model.model.get_encoder().embed_positions.num_embeddings == 500  # 10 s
    model.settings["context_seconds"] = 0.5
    model.reset()
    model._write(waveform)
    assert model.model.get_encoder().embed_positions.num_embeddings == 40


def test_track_2_is_silent_until_somebody_speaks(model_of, monkeypatch):
    model = model_of(sapc2_track2)
    monkeypatch.setattr(model, "_listen", pytest.fail)
    assert model.accept_chunk(np.zeros(SAMPLES, np.float32)) == ""


SAMPLES = 32_000


def test_track_2_cuts_what_is_longer_than_the_window(model_of, monkeypatch):
    for module in (submission, sapc2_track2):
        monkeypatch.setattr(module, "LONGEST", SAMPLES // 2)
    model = model_of(sapc2_track2)
    heard = []
    monkeypatch.setattr(model, "_write", lambda audio: heard.append(len(audio)) or [])
    speak(model, np.full(SAMPLES + 800, 0.1, np.float32))
    assert max(heard) <= SAMPLES // 2
    assert model.transcribed <= len(model.audio) < SAMPLES


def test_a_slow_machine_transcribes_less_often(model_of, monkeypatch):
    model = model_of(sapc2_track2)
    model.settings["partial_seconds"] = 0.1
    calls = []
    monkeypatch.setattr(model, "_write", lambda audio: calls.append(len(audio)) or [])
    clock = iter(np.arange(0, 100, 0.25))  # 0.25 s for each transcript
    monkeypatch.setattr(sapc2_track2.time, "monotonic", lambda: next(clock))
    speak(model, np.full(11 * CHUNK, 0.1, np.float32))
    assert calls == [CHUNK, 6 * CHUNK, 11 * CHUNK, 11 * CHUNK]


@pytest.mark.parametrize(
    ("earlier", "later", "stable", "expected"),
    [
        ([1, 2], [1, 2, 3], [], [1, 2]),
        ([1, 2, 9], [1, 2, 9], [], [1, 2]),  # 9 ends the text, so it may be half a word
        ([1, 2, 4], [1, 2, 10], [], [1]),
        ([1, 2], [1, 2, 10], [], [1]),  # 10 goes on with the word of 2
        ([], [1, 2], [], []),
        ([5], [1, 2], [1], [1]),
    ],
)
def test_whole_words_on_which_two_transcripts_agree(earlier, later, stable, expected):
    tokenizer = SimpleNamespace(convert_ids_to_tokens=lambda ids: ["\u0120x" if i < 10 else "x" for i in ids])
    assert sapc2_track2.agreed(earlier, later, stable, tokenizer) == expected


def test_only_a_whisper_streams(tmp_path):
    transcriber = load_packable(str(EVERY["moonshine"](tmp_path / "model")), "en", None, 8)
    with pytest.raises(UserError, match="--kit sapc2-track2 streams with a Whisper, got a model of type moonshine"):
        write_sapc2_package(tmp_path / "a.zip", transcriber, torch.float32, "sapc2-track2")
