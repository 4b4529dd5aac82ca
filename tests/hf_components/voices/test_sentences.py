"""Sentences of one person in a folder."""

import pytest
import soundfile
from tiny_speech import tone

from hf_components.runtime.errors import UserError
from hf_components.voices.sentences import is_folder_of_one, sentences_of_folder

pytestmark = pytest.mark.unit


@pytest.fixture
def folder(tmp_path):
    for number in (1, 2):
        soundfile.write(tmp_path / f"{number}.wav", tone(0, number, 0.5), 16_000)
    (tmp_path / "sentences.txt").write_text("Red cat.\n\nGreen dog.\n", encoding="utf-8")
    return tmp_path


def test_lines_belong_to_recordings_in_order(folder):
    assert is_folder_of_one(folder)
    assert [(one.id, one.text) for one in sentences_of_folder(folder)] == [
        ("1.wav", "Red cat."),
        ("2.wav", "Green dog."),
    ]
    assert sentences_of_folder(folder)[0].seconds == pytest.approx(0.5)


def test_lines_may_name_their_recording(folder):
    (folder / "sentences.txt").write_text("2\tGreen dog.\n1.wav\tRed cat.\n", encoding="utf-8")
    assert {one.id: one.text for one in sentences_of_folder(folder)} == {"1.wav": "Red cat.", "2.wav": "Green dog."}


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("Red cat.\n", "has 1 sentences for 2 recordings"),
        ("1\tRed\n3\tDog\n", "line 2: there is no recording '3'"),
        ("1\tRed\n1.wav\tDog\n", "line 2: '1.wav' was named before"),
    ],
)
def test_what_does_not_fit_is_named(folder, lines, message):
    (folder / "sentences.txt").write_text(lines, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        sentences_of_folder(folder)


def test_what_is_missing_is_named(folder):
    (folder / "sentences.txt").unlink()
    with pytest.raises(UserError, match="sentences.txt is missing"):
        sentences_of_folder(folder)
    assert [one.text for one in sentences_of_folder(folder, with_texts=False)] == [None, None]
    for file in folder.glob("*.wav"):
        file.unlink()
    with pytest.raises(UserError, match="holds no recording"):
        sentences_of_folder(folder)


def test_a_damaged_recording_is_named(folder):
    (folder / "2.wav").write_bytes(b"nothing")
    with pytest.raises(UserError, match="2.wav cannot be read"):
        sentences_of_folder(folder)
