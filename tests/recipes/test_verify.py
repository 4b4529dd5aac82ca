"""`verify` finds every damaged, stale, foreign and unfinished thing in a run, and nothing in a run that is well."""

import os
import subprocess
import sys

import pytest
from make_corpus import add_speaker, small_corpus
from paths import ROOT

from hf_components.runtime.errors import UserError
from hf_components.runtime.stages import run_stage
from recipes import prepare_corpus, verify

pytestmark = pytest.mark.unit


def second(folder):
    """A stage that reads the corpus."""

    def produce(place):
        (place / "numbers").mkdir()
        (place / "numbers" / "a.json").write_text("[1, 2]")
        (place / "README.md").write_text("a card")
        return {"count": 2}

    run_stage(folder / "second", produce, config={"n": 1}, inputs=[folder / "corpus"])


@pytest.fixture
def run(tmp_path):
    """A run of two stages, beside its source."""
    small_corpus(tmp_path / "source")
    corpus = tmp_path / "run" / "corpus"
    prepare_corpus.main([f"--data_dir={tmp_path / 'source'}", f"--output_dir={corpus}", "--num_proc=1"])
    second(tmp_path / "run")
    return tmp_path / "run"


def found(folder) -> dict:
    """What is found, without what is well."""
    result = verify.main([str(folder)])
    assert result.pop("exit_status") == int(
        any(result[kind] for kind in ("damaged", "stale", "foreign", "unfinished"))
    )
    return {kind: lines for kind, lines in result.items() if lines and kind not in ("stages", "files")}


def test_a_run_as_it_was_written_is_well(run):
    result = verify.main([str(run)])
    assert result["exit_status"] == 0 and result["stages"] == 2 and result["files"] > 5
    assert found(run / "second") == found(run / "corpus") == {}


def test_a_single_bit_is_found_though_size_and_time_are_the_same(run):
    table = next((run / "corpus" / "data").iterdir())
    stat, content = table.stat(), bytearray(table.read_bytes())
    content[len(content) // 2] ^= 1
    table.write_bytes(content)
    os.utime(table, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert found(run / "corpus")["damaged"] == [f"{table}: has another content"]
    whole = found(run)
    assert whole["damaged"] == [f"{table}: has another content"]
    assert len(whole["stale"]) == 1 and whole["stale"][0].startswith(f"{run / 'second'}: its input corpus changed")


@pytest.mark.parametrize("name", ["stage.json", "numbers/a.json"])
def test_damage_is_named(run, name):
    file = run / "second" / name
    file.write_text(file.read_text().replace("2", "3"))
    (line,) = found(run)["damaged"]
    assert line.startswith(str(file))


def test_a_missing_file_is_damage_and_an_edited_card_is_none(run):
    (run / "second" / "README.md").write_text("a better card")
    assert found(run) == {}
    (run / "second" / "numbers" / "a.json").unlink()
    assert found(run) == {"damaged": [f"{run / 'second' / 'numbers' / 'a.json'}: is missing"]}


def test_a_stage_whose_source_changed_is_stale(run):
    add_speaker(run.parent / "source", "Train", "Z", {"1.wav": "new words"})
    result = found(run)
    assert result.keys() == {"stale"} and str(run / "corpus") in result["stale"][0] and len(result["stale"]) == 1


def test_a_stage_whose_input_was_made_again_is_stale(run):
    source = run.parent / "source"
    prepare_corpus.main([f"--data_dir={source}", f"--output_dir={run / 'corpus'}", "--num_proc=1", "--max_samples=1"])
    assert found(run)["stale"] == [f"{run / 'second'}: its input corpus ({run / 'corpus'}) changed since"]


def test_files_that_no_stage_wrote_are_foreign(run):
    for place in ("second/more.txt", "second/numbers/b.json", "second/plot.png", "notes.txt", "else/a.bin"):
        (run / place).parent.mkdir(exist_ok=True)
        (run / place).write_text("mine")
    assert found(run) == {
        "foreign": [
            str(run / place)
            for place in ("second/more.txt", "second/numbers/b.json", "second/plot.png", "else/a.bin", "notes.txt")
        ]
    }


def test_what_an_interruption_left_is_unfinished(run):
    (run / ".third.partial").mkdir()
    (run / ".third.partial" / "a.json").write_text("[]")
    assert found(run) == {"unfinished": [f"{run / '.third.partial'}: left by an interruption"]}


def test_a_run_that_was_moved_without_its_source_is_well(run):
    run.rename(run.with_name("moved"))
    (run.parent / "source").rename(run.with_name("elsewhere"))
    result = found(run.with_name("moved"))
    assert result.keys() == {"unknown"} and "its input Train is no longer at" in result["unknown"][0]


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir()])
def test_a_folder_without_a_stage_is_refused(tmp_path, make):
    make(tmp_path / "run")
    with pytest.raises(UserError, match=r"run.*; give"):
        verify.main([str(tmp_path / "run")])


@pytest.mark.integration
def test_as_a_program(run):
    def code() -> int:
        command = [sys.executable, ROOT / "recipes" / "verify.py", run]
        return subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}).returncode

    assert code() == 0
    (run / "second" / "numbers" / "a.json").write_text("[]")
    assert code() == 1
