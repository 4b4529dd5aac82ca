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


def test_ten_comes_after_two(folder):
    soundfile.write(folder / "10.wav", tone(0, 3, 0.5), 16_000)
    (folder / "sentences.txt").write_bytes("\ufeffRed cat.\r\nGreen dog.\r\nBlue\u2028sun.\r\n".encode())
    read = [(one.id, one.text) for one in sentences_of_folder(folder)]
    assert read == [("1.wav", "Red cat."), ("2.wav", "Green dog."), ("10.wav", "Blue sun.")]


def test_names_in_another_spelling_and_in_folders(tmp_path):
    for name in ("monday/cafe\u0301.wav", "tuesday/caf\u00e9.wav", "a b.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        soundfile.write(tmp_path / name, tone(0, 1, 0.5), 16_000)
    list_of = "monday/caf\u00e9\tRed.\ntuesday\\caf\u00e9.wav\tGreen.\na%20b\tBlue.\n"
    (tmp_path / "sentences.txt").write_text(list_of, encoding="utf-8")
    read = {one.id: one.text for one in sentences_of_folder(tmp_path)}
    assert read == {"monday/cafe\u0301.wav": "Red.", "tuesday/caf\u00e9.wav": "Green.", "a b.wav": "Blue."}


@pytest.mark.parametrize("twin", ["sub/1.wav", "1.mp3"])
def test_a_name_that_two_recordings_have_is_refused(folder, twin):
    (folder / twin).parent.mkdir(exist_ok=True)
    soundfile.write(folder / twin, tone(0, 3, 0.5), 16_000)
    (folder / "sentences.txt").write_text("1\tRed cat.\n2\tGreen dog.\n", encoding="utf-8")
    with pytest.raises(UserError, match="line 1: '1' may be .*1.*, .*1.*; write which one"):
        sentences_of_folder(folder)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("Red cat.\n", "has 1 sentences for 2 recordings"),
        ("1\tRed\n2 Dog\n", "line 2: no tab is between the name"),
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
