"""Stages: complete or absent, skipped only while nothing changed, and never over somebody else's files."""

import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path

import pytest
from transformers import TrainingArguments

from hf_components.errors import UserError
from hf_components.stages import PROOF, fingerprint, read_proof, run_stage, write_json

pytestmark = pytest.mark.unit


@dataclass
class Config:
    rank: int = 8
    output_dir: str = "out"
    num_workers: int = 1


class Producer:
    """Writes one file and counts its calls."""

    def __init__(self, content: str = "result"):
        self.content, self.calls, self.found = content, 0, []

    def __call__(self, folder):
        self.calls += 1
        self.found = sorted(p.name for p in folder.iterdir() if p.name != "fingerprint")
        (folder / "weights.txt").write_text(self.content)
        return {"calls": self.calls}


def crash(folder):
    (folder / "half.txt").write_text("half")
    raise RuntimeError("power cut")


@pytest.fixture
def out(tmp_path):
    return tmp_path / "runs" / "stage"


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def test_result_proof_and_nothing_else(out):
    metrics = run_stage(out, Producer(), config=Config())
    assert metrics == {"calls": 1}
    assert names(out) == [PROOF, "weights.txt"]
    assert names(out.parent) == ["stage"]
    proof = read_proof(out)
    assert proof["metrics"] == metrics
    assert proof["config"] == {"rank": 8, "output_dir": "out", "num_workers": 1}
    assert {"python", "torch", "transformers"} <= proof["environment"].keys()


def test_folder_is_absent_while_the_stage_works(out):
    def produce(folder):
        assert not out.exists()
        assert folder.parent == out.parent  # the same file system, so that renaming is atomic
        return {}
    run_stage(out, produce, config={})
    assert out.is_dir()


def test_crash_leaves_no_result(out):
    with pytest.raises(RuntimeError, match="power cut"):
        run_stage(out, crash, config={})
    assert not out.exists()


def test_crash_leaves_the_earlier_result(out):
    run_stage(out, Producer("first"), config={})
    with pytest.raises(RuntimeError, match="power cut"):
        run_stage(out, crash, config={})
    assert (out / "weights.txt").read_text() == "first"
    assert read_proof(out) is not None


def test_partial_folder_is_kept_on_resume(out):
    with pytest.raises(RuntimeError):
        run_stage(out, crash, config={"rank": 8})
    produce = Producer()
    run_stage(out, produce, config={"rank": 8}, resume=True)
    assert produce.found == ["half.txt"]


@pytest.mark.parametrize(("config", "resume"), [({"rank": 8}, False), ({"rank": 4}, True)])
def test_partial_folder_of_another_run_is_emptied(out, config, resume):
    with pytest.raises(RuntimeError):
        run_stage(out, crash, config={"rank": 8})
    produce = Producer()
    run_stage(out, produce, config=config, resume=resume)
    assert produce.found == []
    assert not (out / "half.txt").exists()


def test_resume_skips_a_complete_stage(out, caplog):
    caplog.set_level(logging.INFO)
    run_stage(out, Producer(), config=Config())
    again = Producer()
    assert run_stage(out, again, config=Config(), resume=True) == {"calls": 1}
    assert again.calls == 0
    assert "is complete, skipped" in caplog.text


def test_without_resume_the_stage_runs_again(out):
    run_stage(out, Producer("first"), config={})
    run_stage(out, Producer("second"), config={})
    assert (out / "weights.txt").read_text() == "second"
    assert names(out.parent) == ["stage"]


@pytest.mark.parametrize(("change", "reason"), [("config", "config.rank changed"), ("input", "inputs.corpus changed")])
def test_rerun_says_what_changed(out, tmp_path, caplog, change, reason):
    caplog.set_level(logging.INFO)
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    (corpus / "a.txt").write_text("one")
    run_stage(out, Producer(), config=Config(), inputs=[corpus])
    if change == "input":
        (corpus / "a.txt").write_text("two")
    again = Producer()
    run_stage(out, again, config=Config(rank=8 if change == "input" else 4), inputs=[corpus], resume=True)
    assert again.calls == 1
    assert f"runs again: {reason}" in caplog.text


def test_another_code_version_reruns(out, caplog, monkeypatch):
    caplog.set_level(logging.INFO)
    run_stage(out, Producer(), config={})
    monkeypatch.setattr("hf_components.stages.importlib.metadata.version", lambda name: "99.0")
    again = Producer()
    run_stage(out, again, config={}, resume=True)
    assert again.calls == 1
    assert "the code version changed" in caplog.text


def test_what_does_not_change_the_result_does_not_rerun(out):
    run_stage(out, Producer(), config=Config())
    again = Producer()
    run_stage(out, again, config=Config(output_dir="elsewhere", num_workers=4), resume=True)
    assert again.calls == 0


def test_swapped_inputs_of_one_name_rerun(out, tmp_path):
    paths = []
    for parent, text in (("teacher", "a"), ("student", "b")):
        (tmp_path / parent).mkdir()
        paths.append(tmp_path / parent / "model")
        paths[-1].write_text(text)
    run_stage(out, Producer(), config={}, inputs=paths)
    paths[0].write_text("changed")
    again = Producer()
    run_stage(out, again, config={}, inputs=paths, resume=True)
    assert again.calls == 1


def test_several_configs_are_recorded_together_without_tokens(out, tmp_path):
    training = TrainingArguments(output_dir=str(tmp_path), hub_token="secret", learning_rate=5e-4, use_cpu=True)
    run_stage(out, Producer(), config=[Config(), training])
    text = (out / PROOF).read_text()
    config = json.loads(text)["config"]
    assert (config["rank"], config["learning_rate"]) == (8, 5e-4)
    assert "secret" not in text


@pytest.mark.parametrize("resume", [False, True])
def test_foreign_folder_is_refused_and_untouched(out, resume):
    out.mkdir(parents=True)
    (out / "thesis.tex").write_text("years of work")
    produce = Producer()
    with pytest.raises(UserError, match="not the result of a stage"):
        run_stage(out, produce, config={}, resume=resume)
    assert produce.calls == 0
    assert (out / "thesis.tex").read_text() == "years of work"


def test_empty_folder_is_accepted(out):
    out.mkdir(parents=True)
    run_stage(out, Producer(), config={})
    assert (out / PROOF).is_file()


def test_regular_file_in_the_way_is_refused_and_untouched(out):
    out.parent.mkdir(parents=True)
    out.write_text("years of work")
    produce = Producer()
    with pytest.raises(UserError, match=str(out)):
        run_stage(out, produce, config={})
    assert produce.calls == 0
    assert out.read_text() == "years of work"


def test_unwritable_output_is_a_users_mistake(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write to .*choose another --output_dir"):
        run_stage(tmp_path / "file" / "stage", Producer(), config={})


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_read_only_parent_is_a_users_mistake(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="cannot write to"):
        run_stage(tmp_path / "stage", Producer(), config={})


def test_damaged_proof_is_a_users_mistake(out):
    out.mkdir(parents=True)
    (out / PROOF).write_text('{"metrics"')
    with pytest.raises(UserError, match="damaged"):
        run_stage(out, Producer(), config={}, resume=True)


@pytest.mark.parametrize("name", [".", "..", "runs/.."])
def test_output_dir_without_a_name_of_its_own_is_refused(tmp_path, monkeypatch, name):
    (tmp_path / "empty" / "runs").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "empty" / "runs")
    with pytest.raises(UserError, match="must name a folder"):
        run_stage(name, Producer(), config={})
    assert names(tmp_path) == ["empty"]


def test_fingerprint_of_a_folder_follows_content_and_names(tmp_path):
    folder = tmp_path / "corpus"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "a.txt").write_text("one")
    before = fingerprint(folder)
    assert fingerprint(folder) == before
    (folder / "sub" / "a.txt").write_text("two")
    edited = fingerprint(folder)
    (folder / "sub" / "a.txt").rename(folder / "sub" / "b.txt")
    renamed = fingerprint(folder)
    (folder / "c.txt").write_text("")
    assert len({before, edited, renamed, fingerprint(folder)}) == 4


def test_fingerprint_ignores_where_the_folder_lies(tmp_path):
    for parent in ("x", "y"):
        (tmp_path / parent / "corpus").mkdir(parents=True)
        (tmp_path / parent / "corpus" / "a.txt").write_text("one")
    assert fingerprint(tmp_path / "x" / "corpus") == fingerprint(tmp_path / "y" / "corpus")


def test_fingerprint_of_a_large_file_follows_its_time_of_change(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(bytes(2**20))
    before = fingerprint(path)
    os.utime(path, ns=(1, 1))
    assert fingerprint(path) != before


def test_fingerprint_of_a_stage_is_its_own(out):
    run_stage(out, Producer(), config={"rank": 8})
    before = fingerprint(out)
    assert before == read_proof(out)["fingerprint"]
    run_stage(out, Producer(), config={"rank": 4})
    assert fingerprint(out) != before


def test_fingerprint_of_a_hub_id_is_its_name():
    assert fingerprint("openai/whisper-tiny.en") == "openai/whisper-tiny.en"


def test_json_is_replaced_whole(tmp_path):
    path = tmp_path / "results.json"
    write_json(path, {"wer": 0.5})
    with pytest.raises(RuntimeError):
        write_json(path, {"wer": Unwritable()})
    assert json.loads(path.read_text()) == {"wer": 0.5}
    write_json(path, {"wer": 0.25})
    assert json.loads(path.read_text()) == {"wer": 0.25}
    assert names(tmp_path) == ["results.json"]


class Unwritable:
    def __str__(self):
        raise RuntimeError("cannot be written")


def test_a_run_that_was_moved_is_still_complete(tmp_path):
    def run(folder: Path) -> list[int]:
        calls = []
        corpus = folder / "corpus"
        corpus.mkdir(parents=True, exist_ok=True)
        (corpus / "rows").write_text("one")
        run_stage(folder / "result", lambda work: calls.append(1) or {}, config={"corpus": str(corpus), "seed": 1},
                  inputs=[corpus], resume=True)
        return calls

    assert run(tmp_path / "before") == [1]
    (tmp_path / "before").rename(tmp_path / "after")
    assert run(tmp_path / "after") == []


def test_alone_the_other_processes_wait_and_read_the_result(tmp_path, monkeypatch):
    run_stage(tmp_path / "stage", lambda work: {"rows": 3}, config={}, alone=True)
    monkeypatch.setattr("accelerate.PartialState.is_main_process", property(lambda self: False))
    calls = []
    assert run_stage(tmp_path / "stage", lambda work: calls.append(1) or {}, config={}, alone=True) == {"rows": 3}
    assert not calls
