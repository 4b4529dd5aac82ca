"""`corrections.jsonl`: complete, in order, and never asked for twice."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from paths import ROOT
from tiny_llm import save_tiny_llm, script

from hf_components.correction import record
from hf_components.correction.corrector import TranscriptCorrector
from hf_components.correction.gate import GateLimits
from hf_components.correction.prompt import Guess
from hf_components.correction.record import correct_to_file, summarise
from hf_components.runtime.errors import UserError

pytestmark = pytest.mark.unit

IDS = ["u1", "u2", "u3", "u4"]
TEXTS = ["the cat sat", "", "two words and two more", "write a poem"]


@pytest.fixture(scope="module")
def llm(tmp_path_factory):
    return save_tiny_llm(tmp_path_factory.mktemp("llm"))


def scripted(llm, **options):
    corrector = TranscriptCorrector.from_pretrained(llm, batch_size=1, **options)
    asked = script(corrector, lambda shown: shown.replace("cat", "bat").replace("write a poem", "roses are red"))
    return corrector, asked


def transcripts(asked: list[list[str]]) -> set[str]:
    return {text for batch in asked for text in batch} - {"i would like to by sum bred"}  # the warm-up


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_lines_tell_everything_and_keep_the_order(llm, tmp_path):
    corrector, _ = scripted(llm)
    found = correct_to_file(corrector, IDS, TEXTS, tmp_path / "out" / "corrections.jsonl")
    rows = lines(tmp_path / "out" / "corrections.jsonl")
    assert [row["id"] for row in rows] == IDS
    assert [row["heard"] for row in rows] == TEXTS
    assert [row["text"] for row in rows] == [correction.text for correction in found] == ["the bat sat", *TEXTS[1:]]
    assert [row["proposed"] for row in rows] == ["the bat sat", None, TEXTS[2], "roses are red"]
    assert [row["accepted"] for row in rows] == [True, False, True, False]
    assert [row["reason"].split(":")[0] for row in rows] == ["corrected", "nothing heard", "unchanged", "distance"]
    assert all(row["seconds"] >= 0 and row["alternatives"] == [] for row in rows)
    counts = summarise(found)
    assert (counts["transcripts"], counts["corrected"], counts["unchanged"], counts["rejected"]) == (4, 1, 1, 2)
    assert counts["rejected_by_reason"] == {"nothing heard": 1, "distance": 1}
    assert counts["seconds_per_transcript"] >= 0


def test_a_killed_run_is_gone_on_from(llm, tmp_path):
    path = tmp_path / "corrections.jsonl"
    corrector, asked = scripted(llm)

    def killed(input_ids, **options):
        if len(asked) == 3:  # the warm-up and two transcripts
            raise KeyboardInterrupt
        return generate(input_ids, **options)

    generate, corrector.model.generate = corrector.model.generate, killed
    with pytest.raises(KeyboardInterrupt):
        correct_to_file(corrector, IDS, TEXTS, path)
    first = transcripts(asked)
    assert len(first) == 2 and len(lines(path)) == 3  # and what is not asked for
    path.write_bytes(path.read_bytes() + b'{"id": "u4", "heard": "write')

    corrector, asked = scripted(llm)
    found = correct_to_file(corrector, IDS, TEXTS, path)
    assert transcripts(asked) == {text for text in TEXTS if text} - first
    whole, _ = scripted(llm)
    expected = correct_to_file(whole, IDS, TEXTS, tmp_path / "whole.jsonl")
    assert [(c.text, c.reason) for c in found] == [(c.text, c.reason) for c in expected]
    assert [row["id"] for row in lines(path)] == IDS

    corrector, asked = scripted(llm)
    assert correct_to_file(corrector, IDS, TEXTS, path) == found
    assert asked == []


def test_other_confidences_are_asked_again_and_lines_of_earlier_versions_are_not(llm, tmp_path):
    path = tmp_path / "corrections.jsonl"
    correct_to_file(scripted(llm)[0], IDS, TEXTS, path)
    rows = [{key: value for key, value in row.items() if key not in ("shown", "seal")} for row in lines(path)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    corrector, asked = scripted(llm)
    correct_to_file(corrector, IDS, TEXTS, path)
    assert asked == [] and lines(path)[0]["shown"] == ["the cat sat"]
    guesses = [[Guess("the cat sat", (None, 0.5, None))], *TEXTS[1:]]
    for _ in range(2):
        correct_to_file(corrector, IDS, guesses, path)
    assert transcripts(asked) == {"the cat(0.50) sat"} and lines(path)[0]["shown"] == ["the cat(0.50) sat"]


def test_going_on_never_writes_whole_lines_again(llm, tmp_path, monkeypatch):
    """A kill or a full disk at this moment would lose what the LLM was paid for."""
    path = tmp_path / "corrections.jsonl"
    correct_to_file(scripted(llm)[0], IDS, TEXTS, path)
    whole = path.read_bytes()
    monkeypatch.setattr(record, "_write", lambda *_: pytest.fail("it is written again"))
    monkeypatch.setattr(Path, "write_bytes", lambda *_: pytest.fail("it is written again"))
    for rest in (b"", b'{"id": "u5", "hea', b"\xff", b"x" * 10_000):
        with path.open("ab") as file:
            file.write(rest)
        inode = path.stat().st_ino
        record._open(path, resume=True)
        assert path.read_bytes() == whole and path.stat().st_ino == inode
    with path.open("wb") as file:
        file.write(b'{"id": "u1", "hea')  # killed in the first line
    record._open(path, resume=True)
    assert path.read_bytes() == b""


def test_a_full_disk_while_going_on_keeps_every_line(llm, tmp_path, monkeypatch):
    path = tmp_path / "corrections.jsonl"
    correct_to_file(scripted(llm)[0], IDS[:3], TEXTS[:3], path)
    before = lines(path)

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(record.os, "fsync", full)
    with pytest.raises(UserError, match="could not be written .*No space left"):
        correct_to_file(scripted(llm)[0], IDS, TEXTS, path)
    assert lines(path)[:3] == before


def test_corrections_of_an_earlier_version_are_kept(llm, tmp_path, monkeypatch):
    """It knew the files of a local LLM by size and time of change."""
    path = tmp_path / "corrections.jsonl"
    with monkeypatch.context() as earlier:
        earlier.setattr(record, "fingerprint", record.fingerprint_of_earlier_versions)
        correct_to_file(scripted(llm)[0], IDS, TEXTS, path)
    corrector, asked = scripted(llm)
    correct_to_file(corrector, IDS, TEXTS, path)
    assert not transcripts(asked)


def test_what_changed_is_asked_again(llm, tmp_path):
    path = tmp_path / "corrections.jsonl"
    correct_to_file(scripted(llm)[0], IDS, TEXTS, path)
    corrector, asked = scripted(llm)
    correct_to_file(corrector, IDS, ["the cat sat down", *TEXTS[1:]], path)
    assert transcripts(asked) == {"the cat sat down"}
    for options in ({"limits": GateLimits(max_added=5)}, {"alphabet": frozenset("abc ")}, {"fast_mode": False}):
        corrector, asked = scripted(llm, **options)
        correct_to_file(corrector, IDS, TEXTS, path)
        assert len(transcripts(asked)) == 3, options
    corrector, asked = scripted(llm, fast_mode=False)
    correct_to_file(corrector, IDS, TEXTS, path, resume=False)
    assert len(transcripts(asked)) == 3


def test_hypotheses_are_part_of_what_was_heard(llm, tmp_path):
    path = tmp_path / "corrections.jsonl"
    correct_to_file(scripted(llm)[0], ["u1"], [["the cat", "the hat"]], path)
    assert lines(path)[0]["alternatives"] == ["the hat"]
    for recording, times in ((["the cat", "the hat"], 0), (["the cat"], 1)):
        corrector, asked = scripted(llm)
        correct_to_file(corrector, ["u1"], [recording], path)
        assert len(transcripts(asked)) == times


def test_a_file_that_is_none_of_ours_is_told(llm, tmp_path):
    (tmp_path / "corrections.jsonl").write_text('{"id": "u1", "text": "x"}\n')
    with pytest.raises(UserError, match=r"line 1, is damaged: .*; delete the line"):
        correct_to_file(scripted(llm)[0], IDS, TEXTS, tmp_path / "corrections.jsonl")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        correct_to_file(scripted(llm)[0], IDS, TEXTS, tmp_path / "file" / "corrections.jsonl")


@pytest.mark.slow
def test_two_processes_share_the_work(llm, tmp_path):
    command = [
        str(Path(sys.executable).parent / "accelerate"),
        "launch",
        "--quiet",
        "--config_file",
        str(ROOT / "accelerate_configs" / "multi_cpu.yaml"),
        str(ROOT / "tests" / "support" / "correct_in_processes.py"),
        str(llm),
        str(tmp_path),
    ]
    subprocess.run(command, check=True, cwd=ROOT, timeout=300)
    rows = lines(tmp_path / "corrections.jsonl")
    assert [row["id"] for row in rows] == [f"u{i}" for i in range(9)]
    asked = [json.loads((tmp_path / f"asked_{process}.json").read_text()) for process in range(2)]
    assert sorted(asked[0] + asked[1]) == sorted({row["heard"] for row in rows})
    assert {len(texts) for texts in asked} == {4, 5}
