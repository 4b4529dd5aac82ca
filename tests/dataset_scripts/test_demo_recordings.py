"""The demo folders of clean and noisy recordings: layout, truth, determinism, nothing that the recogniser was trained
on."""

import json
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import soundfile

from dataset_scripts.demo_recordings import HEARD, NEW, heard_utterances, new_utterances, write_demo_recordings
from hf_components.runtime.errors import UserError

pytestmark = pytest.mark.unit
pytest.importorskip("espeakng_loader", reason="the wheel espeakng-loader is not installed")

SIZE = {"dev_speakers": 2, "utterances_per_speaker": 3}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    write_demo_recordings(folder, **SIZE)
    return folder


def truth(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "truth.jsonl").read_text().splitlines()]


def test_truth_names_every_recording(corpus):
    rows = truth(corpus)
    assert [row["file"] for row in rows] == [f"clean/audio_{i:03d}.wav" for i in range(1, 7)] + [
        f"noisy/audio_{i:03d}.wav" for i in range(7, 13)
    ]
    assert {row["file"] for row in rows} == {path.relative_to(corpus).as_posix() for path in corpus.rglob("*.wav")}
    assert all(0.5 < soundfile.info(corpus / row["file"]).duration < 5 for row in rows)
    assert len({row["text"] for row in rows}) == 12


def test_nothing_in_it_was_trained_on(corpus):
    assert not set(HEARD.voices) & set(NEW.voices)
    heard = list(heard_utterances(2, 40, seed=0))
    assert len({speaker.voice for speaker, *_ in heard}) == 2
    assert not {text for _, text, *_ in heard} & {row["text"] for row in truth(corpus)}


def test_noisy_is_speech_with_babble_behind_it():
    clean, noisy = (list(new_utterances(name, 1, 4, seed=0)) for name in ("clean", "noisy"))
    assert {speaker for speaker, *_ in clean} == {speaker for speaker, *_ in noisy}
    assert not {text for _, text, *_ in clean} & {text for _, text, *_ in noisy}

    def quietest(utterances) -> list[float]:
        """Power of each recording's margin of 0.2 s, in which nobody but the babble speaks, in dB below the whole."""
        return [
            10 * np.log10(np.mean(s[: rate // 6] ** 2.0) / np.mean(s**2.0))
            for _, _, s, rate in ((a, b, samples.astype(float), rate) for a, b, samples, rate in utterances)
        ]

    margins = np.mean(quietest(clean)), np.mean(quietest(noisy))  # clean recordings have a quiet room behind them
    assert margins[0] + 2 < margins[1] and -20 < margins[1] < -12


def test_same_arguments_same_bytes(corpus, tmp_path):
    write_demo_recordings(tmp_path, **SIZE)
    files = sorted(path.relative_to(corpus) for path in corpus.rglob("*") if path.is_file())
    assert len(files) == 13
    assert all((tmp_path / file).read_bytes() == (corpus / file).read_bytes() for file in files)


def test_more_of_them_leave_the_first_alone(corpus):
    _, text, samples, _ = next(islice(new_utterances("noisy", 2, 3, seed=0), 0, None))
    assert text == truth(corpus)[6]["text"]
    assert np.array_equal(soundfile.read(corpus / "noisy" / "audio_007.wav", dtype="int16")[0], samples)


@pytest.mark.parametrize("size", [{"dev_speakers": 0}, {"dev_speakers": 4, "utterances_per_speaker": 76}])
def test_sizes_out_of_range(tmp_path, size):
    with pytest.raises(UserError, match="must lie in"):
        write_demo_recordings(tmp_path, **{**SIZE, **size})
