"""Files below folders with links of every kind, and names that are spelled in another way."""

import os
from pathlib import Path

import pytest

from hf_components.asr.recordings import Files
from hf_components.runtime import files
from hf_components.runtime.errors import UserError
from hf_components.runtime.fingerprints import fingerprint
from hf_components.speech.audio import AudioError

pytestmark = pytest.mark.unit


def below(folder: Path, **options) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in files.files_below(folder, **options))


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_links_are_followed_and_loops_are_not_entered(tmp_path):
    root = tmp_path / "root"
    touch(root / "a.wav", tmp_path / "disk" / "b.wav", root / ".git" / "annex" / "c.wav", root / "x" / "d.wav")
    (root / "linked").symlink_to(tmp_path / "disk")
    (root / "file.wav").symlink_to(tmp_path / "disk" / "b.wav")
    (root / "gone").symlink_to(tmp_path / "nowhere")
    (root / "self").symlink_to(root)
    (root / "above").symlink_to("..")
    (root / "x" / "y").symlink_to(tmp_path / "y")
    touch(tmp_path / "y" / "e.wav")
    (tmp_path / "y" / "x").symlink_to(root / "x")
    (root / "round").symlink_to("round")
    expected = ["a.wav", "file.wav", "gone", "linked/b.wav", "round", "x/d.wav", "x/y/e.wav"]
    assert below(root) == expected
    assert below(root, hidden=True) == sorted([*expected, ".git/annex/c.wav"])


def test_a_change_behind_a_link_changes_the_fingerprint(tmp_path):
    touch(tmp_path / "disk" / "a.json")
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "A").symlink_to(tmp_path / "disk")
    before = fingerprint(tmp_path / "root")
    (tmp_path / "disk" / "a.json").write_text("{}")
    assert fingerprint(tmp_path / "root") != before


@pytest.mark.parametrize(
    "given, there",
    [
        ("caf\u00e9.wav", "cafe\u0301.wav"),
        ("cafe\u0301/a.wav", "caf\u00e9/a.wav"),
        ("a%20b.wav", "a b.wav"),
        ("a b.wav", "a%20b.wav"),
        ("x\\y\\a.wav", "x/y/a.wav"),
        ("x%5Cy%2Fcaf%C3%A9.wav", "x/y/cafe\u0301.wav"),
        (".\\x\\a.wav ", "x/a.wav"),
        ("\ud55c.wav", "\u1112\u1161\u11ab.wav"),
    ],
)
def test_one_path_in_two_spellings(tmp_path, given, there):
    touch(tmp_path / there)
    assert files.spelled_otherwise(tmp_path, given) == [tmp_path / there]


@pytest.mark.parametrize(
    "given, there",
    [
        ("Audio/A.WAV", "audio/a.wav"),
        ("a.wav", "a.flac"),
        ("cafe.wav", "caf\u00e9.wav"),
        ("a b.wav", "a_b.wav"),
        ("a\u200bb.wav", "ab.wav"),
        ("\uff21.wav", "a.wav"),
        ("a&amp;b.wav", "a&b.wav"),
        ("caf\u00e9.wav", "caf\u00c3\u00a9.wav"),
        ("caf\u00c3\u00a9.wav", "caf\u00e9.wav"),
    ],
)
def test_a_similar_name_is_no_other_spelling_but_may_be_meant(tmp_path, given, there):
    touch(tmp_path / there)
    assert files.spelled_otherwise(tmp_path, given) == []
    assert files.looks_like(tmp_path, given) == [tmp_path / there]


@pytest.mark.parametrize("encoding", ["latin-1", "cp437", "mac_roman"])
def test_a_name_that_is_not_utf8_is_recognised(tmp_path, encoding):
    raw = os.fsencode(tmp_path) + b"/" + "caf\u00e9.wav".encode(encoding)
    Path(os.fsdecode(raw)).touch()
    (found,) = files.looks_like(tmp_path, "caf\u00e9.wav")
    assert os.fsencode(found) == raw and not files.is_utf8(found.name)
    assert files.printable(found.name) == "caf\\x" + raw[-5:-4].hex() + ".wav"
    assert files.spelled_otherwise(tmp_path, found.name) == []


def test_a_new_file_is_found_after_a_search(tmp_path):
    assert files.looks_like(tmp_path, "A.wav") == []
    touch(tmp_path / "a.wav")
    os.utime(tmp_path, (1, 1))
    assert files.looks_like(tmp_path, "A.wav") == [tmp_path / "a.wav"]


def test_a_link_to_nothing_is_named(tmp_path):
    touch(tmp_path / "a.wav")
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "b.wav").symlink_to("../.git/annex/objects/b.wav")
    (tmp_path / "disk").symlink_to("/nowhere/at/all")
    assert files.broken_link(tmp_path, "a.wav") is None and files.broken_link(tmp_path, "n" * 300) is None
    assert files.broken_link(tmp_path, "x/b.wav").startswith("x/b.wav is a link to ../.git/annex/objects/b.wav, where")
    assert "git annex get" in files.broken_link(tmp_path, "disk/c.wav")


def test_a_pipe_is_no_input(tmp_path):
    os.mkfifo(tmp_path / "rows.jsonl")  # as `<(command)` of a shell gives it
    with pytest.raises(UserError, match="rows.jsonl is a pipe.*write it to a file"):
        fingerprint(tmp_path / "rows.jsonl")
    assert fingerprint(tmp_path)  # a folder may have one


def test_a_pipe_among_recordings_is_only_a_recording_that_cannot_be_read(tmp_path):
    os.mkfifo(tmp_path / "a.wav")
    recordings = Files({"a": tmp_path / "a.wav"})
    assert recordings.fingerprint(0) is None
    with pytest.raises(AudioError, match="pipe"):
        recordings.read(0)
