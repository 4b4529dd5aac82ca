"""Stages: complete or absent, skipped only while nothing changed, and never over somebody else's files."""

import contextlib
import errno
import json
import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from filelock import FileLock
from transformers import TrainingArguments

from hf_components.runtime import fingerprints, stage_folder, stages
from hf_components.runtime.completion import COMPLETION, STARTED, read_completion, write_json
from hf_components.runtime.disk import WRITTEN
from hf_components.runtime.errors import UserError
from hf_components.runtime.fingerprints import fingerprint
from hf_components.runtime.stage_folder import SCRATCH, require_apart
from hf_components.runtime.stages import run_stage

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
        self.found = sorted(p.name for p in folder.iterdir() if p.name not in (STARTED, WRITTEN))
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
    assert names(out) == [COMPLETION, "weights.txt"]
    assert names(out.parent) == ["stage"]
    completion = read_completion(out)
    assert completion["metrics"] == metrics
    assert completion["config"] == {"rank": 8, "output_dir": "out", "num_workers": 1}
    assert {"python", "torch", "transformers"} <= completion["environment"].keys()


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
    assert read_completion(out) is not None


def decay(file) -> None:
    """Another content of the same size and time."""
    stat = file.stat()
    file.write_bytes(bytes(byte ^ 1 for byte in file.read_bytes()))
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def test_what_an_interrupted_run_has_written_is_verified_before_it_goes_on(out):
    def stop(folder):
        (folder / "parts").mkdir()
        for text in ("early", "late"):  # the second replaces the first
            write_json(folder / "parts" / "1.json", {"n": text})
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError):
        run_stage(out, stop, config={})
    part = out.with_name(".stage.partial") / "parts" / "1.json"
    good = part.read_bytes()
    decay(part)
    with pytest.raises(UserError, match=r"1.json was changed after it was written; delete it, or all of .*partial"):
        run_stage(out, Producer(), config={}, resume=True)
    with (part.parents[1] / WRITTEN).open("a") as notes:
        notes.write('["parts/1.js')  # torn by a power cut, and so no note
    part.write_bytes(good)
    run_stage(out, Producer(), config={}, resume=True)
    assert names(out) == ["parts", COMPLETION, "weights.txt"]


def test_a_file_of_a_library_that_was_about_to_be_replaced_is_no_damage(out, monkeypatch):
    def stop(folder):
        (folder / "1.json").write_text("{}")
        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", interrupt)
            write_json(folder / "1.json", {"n": 1})

    with pytest.raises(KeyboardInterrupt):
        run_stage(out, stop, config={})
    assert (out.with_name(".stage.partial") / "1.json").read_text() == "{}"
    run_stage(out, Producer(), config={}, resume=True)
    assert names(out) == ["1.json", COMPLETION, "weights.txt"]


def test_work_that_only_a_run_that_goes_on_needs_is_deleted_after_the_record(out, monkeypatch):
    def produce(folder):
        (folder / SCRATCH).mkdir()
        (folder / SCRATCH / "part").write_text("work")
        return {}

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(shutil, "rmtree", interrupt)
        run_stage(out, produce, config={})
    unfinished = out.with_name(".stage.partial")
    assert (unfinished / SCRATCH / "part").exists() and SCRATCH not in str(read_completion(unfinished)["files"])
    run_stage(out, crash, config={}, resume=True)
    assert names(out) == [COMPLETION]


def test_a_part_that_was_deleted_is_made_again(out):
    def stop(folder):
        write_json(folder / "1.json", {})
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError):
        run_stage(out, stop, config={})
    (out.with_name(".stage.partial") / "1.json").unlink()
    run_stage(out, Producer(), config={}, resume=True)
    assert names(out) == [COMPLETION, "weights.txt"]


def test_a_complete_folder_is_verified_before_it_is_renamed(out, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(stages, "put_in_place", interrupt)
        run_stage(out, Producer(), config={})
    decay(out.with_name(".stage.partial") / "weights.txt")
    with pytest.raises(UserError, match=r"weights.txt has another content; make .*stage.partial again"):
        run_stage(out, Producer(), config={}, resume=True)


def interrupt(*_) -> None:
    raise KeyboardInterrupt


def test_partial_folder_is_kept_on_resume(out):
    with pytest.raises(RuntimeError):
        run_stage(out, crash, config={"rank": 8})
    produce = Producer()
    run_stage(out, produce, config={"rank": 8}, resume=True)
    assert produce.found == ["half.txt"]


@pytest.mark.parametrize(
    ("config", "resume", "message"),
    [
        ({"rank": 8}, False, "is set aside: it was to start anew"),
        ({"rank": 4}, True, "is set aside: config.rank changed from 8 to 4"),
    ],
)
def test_partial_folder_of_another_run_is_set_aside_until_this_one_is_complete(out, caplog, config, resume, message):
    partial, kept = out.parent / ".stage.partial", out.parent / ".stage.interrupted"
    with pytest.raises(RuntimeError):
        run_stage(out, crash, config={"rank": 8})

    def produce(folder):
        assert names(folder) == [STARTED] and (kept / "half.txt").exists()
        return {}

    run_stage(out, produce, config=config, resume=resume)
    assert not (out / "half.txt").exists() and not kept.exists()
    assert f"the interrupted run in {partial} {message}" in caplog.text and str(kept) in caplog.text


def test_a_run_that_was_set_aside_goes_on_when_put_back(out):
    partial, kept = out.parent / ".stage.partial", out.parent / ".stage.interrupted"
    for config in ({"rank": 8}, {"rank": 4}):  # the second by mistake
        with pytest.raises(RuntimeError):
            run_stage(out, crash, config=config)
    assert kept.is_dir()
    shutil.rmtree(partial)
    kept.rename(partial)
    produce = Producer()
    run_stage(out, produce, config={"rank": 8}, resume=True)
    assert produce.found == ["half.txt"]


def test_partial_folder_of_other_inputs_is_set_aside(out, tmp_path, caplog):
    (tmp_path / "corpus").write_text("one")
    with pytest.raises(RuntimeError):
        run_stage(out, crash, config={}, inputs=[tmp_path / "corpus"])
    (tmp_path / "corpus").write_text("two")
    run_stage(out, Producer(), config={}, inputs=[tmp_path / "corpus"], resume=True)
    assert not (out / "half.txt").exists() and "is set aside: inputs.corpus changed" in caplog.text


def test_inputs_that_changed_places_are_other_inputs(out, tmp_path, caplog):
    for name in ("train.jsonl", "dev.jsonl"):
        (tmp_path / name).write_text(name)
    inputs = {"train": str(tmp_path / "train.jsonl"), "val": str(tmp_path / "dev.jsonl")}
    run_stage(out, Producer("first"), config=inputs, inputs=inputs.values())
    swapped = {"train": inputs["val"], "val": inputs["train"]}
    caplog.set_level(logging.INFO)
    run_stage(out, Producer("second"), config=swapped, inputs=swapped.values(), resume=True)
    assert (out / "weights.txt").read_text() == "second"
    assert "config.train changed from train.jsonl to dev.jsonl" in caplog.text


def test_how_a_run_logs_is_no_part_of_its_result(out):
    with pytest.raises(RuntimeError):
        run_stage(out, crash, config={"rank": 8, "logging_steps": 10})
    produce = Producer()
    run_stage(out, produce, config={"rank": 8, "logging_steps": 50}, resume=True)
    assert produce.found == ["half.txt"]


def test_partial_folder_of_unknown_origin_is_set_aside(out, caplog):
    (out.parent / ".stage.partial").mkdir(parents=True)
    (out.parent / ".stage.partial" / "half.txt").write_text("half")
    run_stage(out, Producer(), config={}, resume=True)
    assert not (out / "half.txt").exists() and "it has no record of its settings" in caplog.text


def test_an_interrupted_repetition_goes_on_over_the_earlier_result(out):
    run_stage(out, Producer("first"), config={})
    with pytest.raises(RuntimeError):
        run_stage(out, crash, config={})
    assert run_stage(out, Producer("second"), config={}, resume=True) == {"calls": 1}
    assert (out / "weights.txt").read_text() == "second" and (out / "half.txt").exists()


def test_another_setting_interrupted_in_between_does_not_cost_the_result(out):
    run_stage(out, Producer(), config={"rank": 8})
    with pytest.raises(RuntimeError):
        run_stage(out, crash, config={"rank": 4})
    again = Producer()
    run_stage(out, again, config={"rank": 8}, resume=True)
    assert again.calls == 0 and (out.parent / ".stage.partial" / "half.txt").exists()


@pytest.mark.parametrize("before", [1, 2])  # before and after the earlier result is set aside
def test_killed_between_the_proof_and_the_renaming(out, monkeypatch, before):
    renamed, rename = [], Path.rename
    run_stage(out, Producer("first"), config={"rank": 4})

    def die(path, target):
        renamed.append(path)
        if len(renamed) == before:
            raise KeyboardInterrupt
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", die)
        with pytest.raises(KeyboardInterrupt):
            run_stage(out, Producer("second"), config={"rank": 8})
    again = Producer()
    assert run_stage(out, again, config={"rank": 8}, resume=True) == {"calls": 1} and again.calls == 0
    assert (out / "weights.txt").read_text() == "second"
    assert names(out) == [COMPLETION, "weights.txt"] and names(out.parent) == ["stage"]


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


@pytest.mark.parametrize(
    ("change", "reason"), [("config", "config.rank changed from 8 to 4"), ("input", "inputs.corpus changed")]
)
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


def test_another_package_version_reruns(out, caplog, monkeypatch):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr("hf_components.runtime.stages.__version__", "98.0")
    run_stage(out, Producer(), config={})
    monkeypatch.setattr("hf_components.runtime.stages.__version__", "99.0")
    again = Producer()
    run_stage(out, again, config={}, resume=True)
    assert again.calls == 1
    assert "the version of underheard changed from 98.0 to 99.0" in caplog.text


@pytest.fixture
def sources(tmp_path, monkeypatch):
    """Our packages in a folder of their own, free to be edited."""
    root = tmp_path / "site-packages"
    for file in ("hf_components/runtime/stages.py", "hf_components/moe/router.py", "dataset_scripts/speaker_json.py"):
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_text("pass")
    monkeypatch.setattr(
        "hf_components.runtime.stage_identity.__file__", str(root / "hf_components" / "runtime" / "stages.py")
    )
    return root


def edit(sources):
    (sources / "hf_components" / "moe" / "router.py").write_text("changed")
    (sources / "dataset_scripts" / "new.py").write_text("new")


def test_the_code_is_recorded_with_the_recipe_that_produced(out, sources):
    run_stage(out, Producer(), config={})
    assert list(read_completion(out)["sources"]) == [
        "dataset_scripts/speaker_json.py",
        "hf_components/moe/router.py",
        "hf_components/runtime/stages.py",
        "runtime/test_stages.py",
    ]


def test_a_result_of_other_code_is_kept_with_a_warning(out, sources, caplog):
    run_stage(out, Producer(), config={})
    edit(sources)
    again = Producer()
    assert run_stage(out, again, config={}, resume=True) == {"calls": 1} and again.calls == 0
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warning == (
        f"{out} is complete and kept, but the code changed since: dataset_scripts/new.py, "
        f"hf_components/moe/router.py; to run it again, delete {out}"
    )
    caplog.clear()
    run_stage(out, again, config={})
    run_stage(out, again, config={}, resume=True)
    assert again.calls == 1 and not [record for record in caplog.records if record.levelname == "WARNING"]


def test_many_changed_files_are_counted(out, sources, caplog):
    run_stage(out, Producer(), config={})
    for number in range(7):
        (sources / "hf_components" / f"{number}.py").write_text("")
    run_stage(out, Producer(), config={}, resume=True)
    assert (
        "hf_components/0.py, hf_components/1.py, hf_components/2.py, hf_components/3.py, hf_components/4.py and 2 more"
        in caplog.text
    )


def test_an_interrupted_run_of_other_code_goes_on_with_a_warning(out, sources, caplog):
    with pytest.raises(RuntimeError):
        run_stage(out, crash, config={})
    edit(sources)
    produce = Producer()
    run_stage(out, produce, config={}, resume=True)
    assert produce.found == ["half.txt"]
    assert (
        f"the interrupted run of {out} is continued, but the code changed since: dataset_scripts/new.py" in caplog.text
    )


def test_what_is_made_anew_by_other_code_makes_the_next_stage_run_again(out, tmp_path, sources, caplog):
    caplog.set_level(logging.INFO)
    first, second = tmp_path / "first", Producer()
    run_stage(first, Producer(), config={})
    run_stage(out, second, config={}, inputs=[first])
    run_stage(first, Producer(), config={})  # by the same code: the same result
    run_stage(out, second, config={}, inputs=[first], resume=True)
    assert second.calls == 1
    edit(sources)
    run_stage(first, Producer(), config={}, resume=True)
    run_stage(out, second, config={}, inputs=[first], resume=True)
    assert second.calls == 1
    shutil.rmtree(first)
    run_stage(first, Producer(), config={}, resume=True)
    run_stage(out, second, config={}, inputs=[first], resume=True)
    assert second.calls == 2 and "runs again: inputs.first changed" in caplog.text


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
    text = (out / COMPLETION).read_text()
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


@pytest.mark.parametrize("place", ["", "model", "model/weights.txt"])
def test_a_result_does_not_replace_what_it_is_made_of(out, tmp_path, place):
    run_stage(out, lambda folder: (folder / "model").mkdir() or Producer()(folder / "model"), config=Config())
    (tmp_path / "link").symlink_to(out)
    for spelled in (out, tmp_path / "link"):
        with pytest.raises(UserError, match="would replace .*, which is read; choose another --output_dir"):
            run_stage(out, Producer(), config=Config(), inputs=[spelled / place])
    assert (out / "model" / "weights.txt").read_text() == "result"
    run_stage(out / "again", Producer(), config=Config(), inputs=[out / place])  # lies in it, and replaces nothing


def test_a_result_does_not_lie_among_recordings_of_which_each_is_read(tmp_path):
    (tmp_path / "recordings").mkdir()
    require_apart(tmp_path / "result", [tmp_path / "recordings"], wholly=True)
    for place in ("recordings", "recordings/result"):
        with pytest.raises(UserError, match="would replace|lies in .*, of which every recording is read"):
            require_apart(tmp_path / place, [tmp_path / "recordings"], wholly=True)


def test_empty_folder_is_accepted(out):
    out.mkdir(parents=True)
    run_stage(out, Producer(), config={})
    assert (out / COMPLETION).is_file()


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
    (out / COMPLETION).write_text('{"metrics"')
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


def test_fingerprint_of_a_large_file_follows_its_content_and_not_its_time(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(bytes(2**20))
    before = fingerprint(path)
    stat = path.stat()
    path.write_bytes(bytes(2**20 - 1) + b"1")  # a copy that keeps its time and has another content
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert fingerprint(path) != before
    path.write_bytes(bytes(2**20))
    os.utime(path, ns=(1, 1))
    assert fingerprint(path) == before


def test_an_input_that_an_earlier_version_knew_by_its_time_does_not_run_again(out, tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(bytes(2**20))
    run_stage(out, Producer(), config={}, inputs=[path])
    record = read_completion(out)
    stat = path.stat()
    listed = [("model.safetensors", f"{stat.st_size}:{stat.st_mtime_ns}")]
    record["identity"]["inputs"]["model.safetensors"] = fingerprints.digest_of(listed)
    del record["seal"]  # earlier versions wrote none
    write_json(out / COMPLETION, record)
    produce = Producer()
    run_stage(out, produce, config={}, inputs=[path], resume=True)
    assert not produce.calls


def exchange(file):
    file.write_text("other!")  # of the same length


def keep_its_time(file):
    stat = file.stat()
    exchange(file)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def cut_short(file):
    file.write_text(file.read_text()[:2])


def another_table(file):
    (file.parent / "more.parquet").write_text("")


CHANGES = {
    exchange: "weights.txt has another content",
    keep_its_time: "weights.txt has another content",
    cut_short: "weights.txt has another content",
    Path.unlink: "weights.txt is missing",
    another_table: "more.parquet is new",
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("read", ["the stage", "its folder", "its file"])
def test_what_a_stage_reads_is_what_was_written_or_it_stops(out, tmp_path, change, read):
    def produce(folder):
        (folder / "model").mkdir()
        (folder / "model" / "weights.txt").write_text("result")
        (folder / "README.md").write_text("card")
        return {}

    run_stage(out, produce, config={})
    path = {"the stage": out, "its folder": out / "model", "its file": out / "model" / "weights.txt"}[read]
    for options in ({}, {"resume": True}):
        run_stage(tmp_path / "next", Producer(), config={}, inputs=[path], **options)
    (out / "README.md").write_text("a card may be edited")
    (out / "checkpoint-1").mkdir()
    before = fingerprint(path)
    change(out / "model" / "weights.txt")
    if read == "its file" and change in (Path.unlink, another_table):
        return  # a file that is not there is named by what reads it
    for options in ({}, {"resume": True}):
        with pytest.raises(UserError, match=f"stage was changed after it was written: model/{CHANGES[change]}; make"):
            run_stage(tmp_path / "next", Producer(), config={}, inputs=[path], **options)
    if read == "the stage":
        with pytest.raises(UserError, match="was changed after it was written"):
            run_stage(out, produce, config={}, resume=True)
        run_stage(out, produce, config={})
        assert fingerprint(path) == before


def test_checkpoints_of_a_finished_training_may_be_deleted(out):
    def produce(folder):
        (folder / "checkpoint-1").mkdir()
        (folder / "checkpoint-1" / "model.safetensors").write_text("weights")
        return {}

    run_stage(out, produce, config={})
    shutil.rmtree(out / "checkpoint-1")
    assert fingerprint(out)


def test_a_moved_stage_is_as_it_was(out, tmp_path):
    run_stage(out, Producer(), config={})
    before = fingerprint(out)
    shutil.copytree(out, tmp_path / "copy")
    assert fingerprint(tmp_path / "copy") == before
    record = read_completion(out)
    del record["files"]
    exchange(out / "weights.txt")
    del record["seal"]
    write_json(out / COMPLETION, record)  # as an earlier version wrote it
    assert fingerprint(out) == before


def test_a_link_stays_a_link_and_the_result_is_where_it_leads(tmp_path):
    disk = tmp_path / "disk"
    (disk / "out").mkdir(parents=True)
    link = tmp_path / "out"
    link.symlink_to(disk / "out")
    for content, resume in (("one", False), ("two", False), ("two", True)):
        run_stage(link, Producer(content), config={"content": content}, resume=resume)
        assert link.is_symlink() and (disk / "out" / "weights.txt").read_text() == content
    assert names(disk) == ["out"] and names(tmp_path) == ["disk", "out"]


def test_a_link_to_nothing_gets_what_it_names(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "out")
    run_stage(tmp_path / "link", Producer(), config={})
    assert (tmp_path / "disk" / "out" / "weights.txt").exists() and (tmp_path / "link").is_symlink()


def test_a_link_to_itself_is_refused(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "link")
    with pytest.raises(UserError, match="must name a folder that may be replaced"):
        run_stage(tmp_path / "link", Producer(), config={})


@pytest.mark.parametrize("name", ["volume", "with a space"])
def test_a_mount_point_is_refused_before_any_work(tmp_path, monkeypatch, name):
    folder = tmp_path / name
    folder.mkdir()
    table = tmp_path / "mountinfo"
    place = str(folder).replace(" ", r"\040")
    table.write_text(f"36 35 98:0 /mnt1 {place} rw,noatime master:1 - ext3 /dev/root rw\n")
    monkeypatch.setattr(stage_folder, "MOUNTS", table)
    produce = Producer()
    with pytest.raises(
        UserError, match=f"a disk or volume is mounted; choose a folder on it, such as {folder}/result"
    ):
        run_stage(folder, produce, config={})
    run_stage(folder / "result", produce, config={})
    assert produce.calls == 1


def test_a_result_that_cannot_be_placed_is_kept_for_resume(out, monkeypatch):
    run_stage(out, Producer("one"), config={})

    def busy(self, target):
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))

    produce = Producer("two")
    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", busy)
        with pytest.raises(
            UserError, match="the result is complete, but cannot be moved .*run the same command again"
        ):
            run_stage(out, produce, config={"n": 2})
    run_stage(out, produce, config={"n": 2}, resume=True)
    assert produce.calls == 1 and (out / "weights.txt").read_text() == "two"


def test_clocks_do_not_matter(out, monkeypatch):
    now = iter(range(10**6, 0, -3600))
    monkeypatch.setattr(stage_folder.time, "time", lambda: float(next(now)))  # goes back an hour at each look
    for content in ("one", "two", "three", "four"):
        run_stage(out, Producer(content), config={}, archive=True)
        os.utime(out / COMPLETION, (1, 1))  # all in one second
        assert read_completion(out)["seconds"] >= 0
    archived = (out.parent / "archive").iterdir()
    assert sorted((folder / "weights.txt").read_text() for folder in archived) == ["one", "three", "two"]


def test_what_ended_while_this_run_waited_for_the_lock_is_read_again(out, monkeypatch):
    """The other run ends between the first look of this one and its lock."""
    ours = Producer("ours")
    real = stages.alone_in

    @contextlib.contextmanager
    def late(folder, flag):
        monkeypatch.setattr(stages, "alone_in", real)
        run_stage(out, Producer("theirs"), config={})
        with real(folder, flag):
            yield

    monkeypatch.setattr(stages, "alone_in", late)
    run_stage(out, ours, config={}, resume=True)
    assert not ours.calls and (out / "weights.txt").read_text() == "theirs"


def test_the_other_run_renames_the_folder_before_it_gives_up_the_lock(out, monkeypatch):
    real = FileLock.acquire

    def slow(self, **options):
        monkeypatch.setattr(FileLock, "acquire", real)
        (out.parent / ".stage.partial").rmdir()
        return real(self, **options)

    monkeypatch.setattr(FileLock, "acquire", slow)
    run_stage(out, Producer(), config={})
    assert (out / "weights.txt").exists()


def test_fingerprint_of_a_stage_is_its_own(out):
    run_stage(out, Producer(), config={"rank": 8})
    before = fingerprint(out)
    assert before == read_completion(out)["fingerprint"]
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
        run_stage(
            folder / "result",
            lambda work: calls.append(1) or {},
            config={"corpus": str(corpus), "seed": 1},
            inputs=[corpus],
            resume=True,
        )
        return calls

    assert run(tmp_path / "before") == [1]
    (tmp_path / "before").rename(tmp_path / "after")
    assert run(tmp_path / "after") == []


def test_alone_the_other_processes_wait_and_read_the_result(tmp_path, monkeypatch):
    sent = []
    monkeypatch.setattr(
        "hf_components.runtime.processes.broadcast_object_list", lambda seen: sent.append(seen) or seen
    )
    run_stage(tmp_path / "stage", lambda work: {"rows": 3}, config={}, alone=True)
    monkeypatch.setattr("hf_components.runtime.processes.broadcast_object_list", lambda seen: sent[0])
    monkeypatch.setattr("accelerate.PartialState.is_main_process", property(lambda self: False))
    calls = []
    assert run_stage(tmp_path / "stage", lambda work: calls.append(1) or {}, config={}, alone=True) == {"rows": 3}
    assert not calls


def test_an_earlier_result_is_archived_when_asked(tmp_path):
    for text, archive in (("first", False), ("second", True), ("third", True)):
        run_stage(
            tmp_path / "out",
            lambda folder, text=text: (folder / "file").write_text(text) and {},
            config={"text": text},
            archive=archive,
        )
        os.utime(tmp_path / "out" / "stage.json", (0, {"first": 0, "second": 100, "third": 200}[text]))
    assert (tmp_path / "out" / "file").read_text() == "third"
    assert sorted(path.read_text() for path in (tmp_path / "archive").glob("out_*/file")) == ["first", "second"]


def test_a_mistake_before_any_work_leaves_nothing_and_is_not_spoken_of_again(out, caplog):
    def mistake(folder):
        (folder / "data").mkdir()
        raise UserError("there is no folder x")

    with pytest.raises(UserError, match="there is no folder x"):
        run_stage(out, mistake, config={})
    assert list(out.parent.glob(".*.partial")) == []
    run_stage(out, lambda folder: {}, config={"other": 1})
    assert "interrupted" not in caplog.text


def test_a_mistake_after_some_work_keeps_it(out, caplog):
    def mistake(folder):
        (folder / "half.txt").write_text("half")
        raise UserError("a recording is broken")

    with pytest.raises(UserError):
        run_stage(out, mistake, config={})
    assert (out.parent / f".{out.name}.partial" / "half.txt").exists()
    run_stage(out, lambda folder: {}, config={"other": 1})
    assert "the interrupted run" in caplog.text


def test_a_new_flag_with_its_default_is_no_change(out):
    @dataclass
    class Later(Config):
        dropout: float = 0.1

    run_stage(out, Producer(), config=Config())
    for dropout, calls in ((0.1, 0), (0.2, 1), (0.1, 1)):
        again = Producer()
        run_stage(out, again, config=Later(dropout=dropout), resume=True)
        assert again.calls == calls


def merge(finished, folder):
    (folder / "deep").mkdir()
    (folder / "deep" / "model.safetensors").write_text((finished / "weights.txt").read_text().upper())


@pytest.mark.parametrize("recorded", [{"rank": 8, "double": False}, {"rank": 8, "double": False, "plot": False}])
def test_what_follows_from_a_result_is_added_to_it(out, caplog, recorded):
    caplog.set_level(logging.INFO)
    run_stage(out, Producer(), config=recorded)  # earlier versions had both in the fingerprint
    of_first = fingerprint(out)
    again = Producer()
    for double in (True, True, False):
        run_stage(
            out, again, config={"rank": 8, "double": double}, resume=True, derive={"double": merge, "plot": None}
        )
        assert again.calls == 0 and (out / "deep" / "model.safetensors").read_text() == "RESULT"
    assert caplog.text.count("added what --double asks for: deep/model.safetensors") == 1
    assert fingerprint(out) == of_first and names(out.parent) == ["stage"]  # what was made from it stays
    completion = read_completion(out)
    assert completion["config"]["double"] is True and "deep/model.safetensors" in completion["files"]
    (out / "deep" / "model.safetensors").write_text("other")
    with pytest.raises(UserError, match="deep/model.safetensors has another content"):
        fingerprint(out)


def test_what_follows_from_another_result_is_not_added_but_made_with_it(out):
    run_stage(out, Producer(), config={"rank": 8, "merge": False}, derive={"merge": merge})
    again = Producer("other")
    run_stage(out, again, config={"rank": 4, "merge": True}, resume=True, derive={"merge": None})
    assert again.calls == 1 and names(out) == [COMPLETION, "weights.txt"]


@pytest.mark.parametrize("where", ["while it is made", "before it is recorded"])
def test_stopped_while_it_adds_what_follows_from_a_result(out, monkeypatch, where):
    run_stage(out, Producer(), config={"merge": False})

    def stop(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if where == "before it is recorded":
            patch.setattr(stage_folder, "describe_files", stop)
        with pytest.raises(KeyboardInterrupt):
            derive = {"merge": merge if where == "before it is recorded" else stop}
            run_stage(out, crash, config={"merge": True}, resume=True, derive=derive)
    assert (out / "deep").exists() == (where == "before it is recorded")
    run_stage(out, crash, config={"merge": True}, resume=True, derive={"merge": merge})
    assert fingerprint(out) and names(out.parent) == ["stage"]
    assert "deep/model.safetensors" in read_completion(out)["files"]


def test_one_function_for_several_settings_is_called_once(out):
    run_stage(out, Producer(), config={"plot": False, "method": "pca"})
    calls = []
    derive = dict.fromkeys(("plot", "method"), lambda *_: calls.append(None))
    for method in ("umap", "umap", "pca"):
        run_stage(out, crash, config={"plot": True, "method": method}, resume=True, derive=derive)
    assert len(calls) == 2


def test_a_lock_of_datasets_is_no_work(tmp_path):
    work = tmp_path / ".out.partial"
    work.mkdir()
    (work / "started.json").write_text("{}")
    (work / "cache_builder.lock").touch()
    assert not stage_folder.holds_work(work)
    (work / "rows.parquet").touch()
    assert stage_folder.holds_work(work)
