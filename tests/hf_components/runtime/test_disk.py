"""A full disk: said in words, with what to do, and nothing half is taken for whole.

The real thing needs a file system of its own, which only root can mount; a limit on file sizes replaces it elsewhere.
"""

import contextlib
import errno
import json
import multiprocessing
import os
import resource
import shutil
import subprocess

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_speech import resumable_trainer

from hf_components.checkpoints.training_checkpoints import last_complete_checkpoint
from hf_components.runtime.completion import read_completion, write_json
from hf_components.runtime.disk import OF_RIGHTS, full_disk_explained, refusal
from hf_components.runtime.errors import UserError
from hf_components.runtime.stages import run_stage

pytestmark = pytest.mark.unit
VALUES = np.random.default_rng(0).standard_normal(500_000)  # 4 MB
WRITERS = {
    "text": lambda file: file.write_text("x" * VALUES.nbytes),
    "json": lambda file: write_json(file, VALUES.tolist()),
    "numpy": lambda file: VALUES.tofile(file),
    "safetensors": lambda file: save_file({"values": torch.from_numpy(VALUES)}, file),
    "torch": lambda file: torch.save(torch.from_numpy(VALUES), file),
    "parquet": lambda file: pyarrow.parquet.write_table(pyarrow.table({"values": VALUES}), file),
}


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MiB; `grow` gives it more."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", tmp_path], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.strip()}")
    yield tmp_path
    subprocess.run(["umount", "--lazy", tmp_path], check=True)


def grow(disk, size: str) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", disk], check=True)


@contextlib.contextmanager
def largest_file(size: int):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class Producer:
    """Writes one file that fits and one that needs room, and keeps what it found."""

    def __init__(self, write):
        self.write, self.found = write, []

    def __call__(self, folder):
        self.found.append((folder / "first").exists())
        (folder / "first").write_text("done")
        self.write(folder / "result")
        return {"rows": 1}


@pytest.mark.parametrize("writer", WRITERS)
def test_every_way_of_writing_explains_a_full_disk(small_disk, writer):
    out, produce = small_disk / "run" / "stage", Producer(WRITERS[writer])
    with pytest.raises(
        UserError, match=r"/run/.*could not be written.*MiB left: free some space.*run the same command again"
    ):
        run_stage(out, produce, config={})
    assert not out.exists() and read_completion(small_disk / "run" / ".stage.partial") is None
    grow(small_disk, "64m")
    assert run_stage(out, produce, config={}, resume=True) == {"rows": 1}
    assert produce.found == [False, True] and (out / "result").stat().st_size > 10**6


@pytest.mark.parametrize("writer", WRITERS)
def test_every_way_of_writing_explains_a_limit_of_file_sizes(tmp_path, writer):
    out, produce = tmp_path / "run" / "stage", Producer(WRITERS[writer])
    with (
        largest_file(2**19),
        pytest.raises(
            UserError, match=r"/run/.*could not be written.*limit on file sizes.*run the same command again"
        ),
    ):
        run_stage(out, produce, config={})
    assert not out.exists() and read_completion(tmp_path / "run" / ".stage.partial") is None
    assert run_stage(out, produce, config={}, resume=True) == {"rows": 1}
    assert produce.found == [False, True]


def test_a_full_disk_costs_no_earlier_result_and_no_json(tmp_path):
    out = tmp_path / "stage"
    run_stage(out, lambda work: {"run": 1}, config={})
    write_json(tmp_path / "results.json", {"wer": 0.5})
    with largest_file(2**12):
        with pytest.raises(UserError, match=r"results.json could not be written \(.*File too large"):
            write_json(tmp_path / "results.json", {"wer": [0.25] * 2000})
        with pytest.raises(UserError):
            run_stage(out, lambda work: {"run": [2] * 2000}, config={})  # the completion record itself does not fit
    assert json.loads((tmp_path / "results.json").read_text()) == {"wer": 0.5}
    assert read_completion(out)["metrics"] == {"run": 1}
    assert sorted(path.name for path in tmp_path.iterdir()) == [".stage.partial", "results.json", "stage"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_the_cause_may_lie_deeper(tmp_path, number):
    with pytest.raises(UserError, match="corpus could not be written"), full_disk_explained(tmp_path / "corpus"):
        try:
            raise OSError(number, os.strerror(number))
        except OSError as error:
            raise RuntimeError("the dataset was not generated") from error


def test_the_cause_may_lie_in_another_process(tmp_path):
    with (
        pytest.raises(UserError, match=r"corpus could not be written \(No space left on device\)"),
        full_disk_explained(tmp_path / "corpus"),
        multiprocessing.get_context("fork").Pool(1) as pool,
    ):
        pool.apply(fail_as_datasets_does)


def fail_as_datasets_does():
    try:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError as error:
        raise RuntimeError("An error occurred while generating the dataset") from error


@pytest.mark.parametrize("error", [KeyError("a bug"), PermissionError(errno.EACCES, "denied"), UserError("a mistake")])
def test_other_errors_pass(tmp_path, error):
    with pytest.raises(type(error)) as raised, full_disk_explained(tmp_path):
        raise error
    assert raised.value is error


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.EPERM])
def test_a_disk_that_may_not_be_written_is_named_but_only_where_the_result_is(tmp_path, number):
    inside = OSError(number, os.strerror(number), str(tmp_path / ".run.partial" / "a.json"))
    with (
        pytest.raises(UserError, match=r"run could not be written \(.*a.json\); make its disk and folder writable"),
        full_disk_explained(tmp_path / "run"),
    ):
        raise inside
    elsewhere = OSError(number, os.strerror(number), "/somewhere/else")
    with pytest.raises(OSError, match="else") as raised, full_disk_explained(tmp_path / "run"):
        raise elsewhere
    assert raised.value is elsewhere
    assert refusal(elsewhere) == f"{os.strerror(number)}: /somewhere/else; {OF_RIGHTS}"


def test_a_folder_that_cannot_be_copied_is_explained_too(tmp_path, monkeypatch):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "a").write_text("a")

    def copy(_, target):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), target)

    with (
        pytest.raises(UserError, match=r"run could not be written \(Read-only file system: .*run/model/a\); make"),
        full_disk_explained(tmp_path / "run"),
    ):
        shutil.copytree(tmp_path / "model", tmp_path / "run" / "model", copy_function=copy)


def test_what_a_recipe_says_where_nothing_else_explains_the_disk():
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "runs/log.txt")
    assert refusal(full).startswith("runs/log.txt could not be written ([Errno 28] No space left on device")
    assert refusal(full).endswith("; free some space, then run the same command again")
    assert refusal(KeyError("a bug")) is None and refusal(FileNotFoundError(2, "none", "a")) is None


def test_training_goes_on_from_the_last_whole_checkpoint(small_disk, tmp_path_factory):
    short = {"num_train_epochs": 1, "full_context_fraction": 0.0}
    whole = resumable_trainer(tmp_path_factory.mktemp("whole"), save_steps=100, **short)
    whole.train()
    out, checkpoints = small_disk / "experts", small_disk / ".experts.partial" / "checkpoints"
    (small_disk / "others").write_bytes(bytes(680 * 2**10))  # a checkpoint has 130 KiB

    def produce(work):
        trainer = resumable_trainer(work / "checkpoints", save_steps=1, **short)
        trainer.train(resume_from_checkpoint=True)
        save_file(
            {name: value for name, value in trainer.model.state_dict().items() if ".lora_" in name},
            work / "trained.safetensors",
        )
        return {"steps": trainer.state.global_step}

    with pytest.raises(UserError, match="experts could not be written.*run the same command again"):
        run_stage(out, produce, config={})
    assert not out.exists() and last_complete_checkpoint(checkpoints) == str(checkpoints / "checkpoint-2")
    assert (checkpoints / "checkpoint-3").exists()  # cut short
    grow(small_disk, "64m")
    assert run_stage(out, produce, config={}, resume=True) == {"steps": 3}
    for name, value in load_file(out / "trained.safetensors").items():
        assert torch.equal(value, whole.model.state_dict()[name]), name
