"""A small part of the fault campaign, and its parts: `make campaign` goes on for as long as it is asked to."""

import contextlib
import errno
import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from faults import damage, full_disks, spoiling
from faults.children import kill_self, run
from faults.moments import Tally, Watch
from faults.power_cuts import states_after
from faults.verdicts import Results, Verdict
from paths import ROOT

from hf_components.runtime import UserError, sync_folder, write_json

# Recipes of a second each that read each other's results.
RECIPES = ["prepare_corpus", "extract_embeddings", "cluster_embeddings", "pretrain_router"]


@pytest.mark.integration
def test_no_fault_ends_in_anything_but_the_same_bits_or_a_refusal(tmp_path):
    asked = {"kills": 3, "power_cuts": 3, "bit_flips": 8, "signals": 2, "clocks": 2, "full_disks": 4, "mutations": 100}
    words = [f"--{kind}={count}" for kind, count in asked.items()]
    command = [sys.executable, ROOT / "tests" / "campaign.py", *words, "--seed=3", f"--output_dir={tmp_path}"]
    done = subprocess.run([*command, "--recipes", *RECIPES], capture_output=True, text=True)
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["others"] == [] and results["other"] == 0 and done.returncode == 0, done.stderr[-2000:]
    assert {kind: sum(counts.values()) for kind, counts in results["by_fault"].items()} == asked
    assert results["same_bits"] + results["refused"] == sum(asked.values())
    assert results["seed"] == 3
    # The faults strike: damage is refused, and what is killed goes on to the same bits.
    assert results["by_fault"]["bit_flips"]["refused"] > 0 and results["by_fault"]["mutations"]["refused"] > 0
    assert results["by_fault"]["kills"]["same_bits"] > 0


@pytest.mark.unit
@pytest.mark.parametrize(
    ("work", "how", "text"),
    [
        (lambda: {"wer": 0.5}, "done", ""),
        (lambda: [][0], "failed", "IndexError"),
        (lambda: exec("raise UserError('no such file; give one')", globals()), "refused", "no such file; give one"),
        (kill_self, "killed", ""),
        (lambda: os._exit(3), "failed", "died"),
        (lambda: time.sleep(60), "hung", "no end"),
    ],
)
def test_how_a_child_ends_is_told(tmp_path, work, how, text):
    assert UserError  # for the one that raises it
    ended = run(work, tmp_path / "log.txt", longest=2 if how == "hung" else 60)
    assert ended.how == how and text in ended.text
    assert ended.result == ({"wer": 0.5} if how == "done" else None)


@pytest.mark.unit
@pytest.mark.parametrize(("error", "how", "left"), [(errno.ENOSPC, "refused", ["a"]), (errno.EROFS, "refused", ["a"])])
def test_a_disk_fails_from_a_moment_on(tmp_path, error, how, left):
    out = tmp_path / "run"
    out.mkdir()

    def work() -> None:
        watch.install()
        for name in "abc":
            with contextlib.suppress(OSError) if name == "b" else contextlib.nullcontext():
                (out / name).write_text(name)

    watch = full_disks.Unwritable(out, Tally(), 2, error)
    ended = run(work, tmp_path / "log.txt")
    assert (ended.how, sorted(path.name for path in out.iterdir())) == (how, left)
    assert str(out / "c") in ended.text and full_disks.not_refused(ended, out) is None
    assert full_disks.not_refused(ended, tmp_path / "another") is not None


@pytest.mark.unit
def test_a_small_disk_is_really_full(tmp_path):
    with full_disks.small_disk(tmp_path, 8192) as mounted:
        if not mounted:
            pytest.skip("a small file system cannot be mounted here")
        with pytest.raises(OSError, match="No space left"):
            (tmp_path / "a").write_bytes(bytes(20_000))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.unit
def test_a_run_is_killed_at_its_moment(tmp_path):
    out = tmp_path / "run"
    out.mkdir()

    def work() -> None:
        watch.install()
        for name in "abc":
            (out / name).write_text(name)

    tally = Tally()
    watch = Watch(out, tally)
    assert run(work, tmp_path / "log.txt", tally).events == 3
    shutil.rmtree(out)
    out.mkdir()
    tally = Tally()
    watch = Watch(out, tally, 3, kill_self)
    ended = run(work, tmp_path / "log.txt", tally)
    assert (ended.how, ended.events) == ("killed", 3) and sorted(path.name for path in out.iterdir()) == ["a", "b"]


def contents_after(write, folder: Path) -> list[dict[str, str]]:
    """Every file with its text, in each state that power cuts after the end of `write` leave."""
    found = []
    for out in states_after(write, folder):
        files = sorted(path for path in out.rglob("*") if path.is_file())
        found.append({path.relative_to(out).as_posix(): path.read_text() for path in files})
    return found


def careless(folder: Path) -> None:
    """The record is on the disk, but its file may not be."""
    (folder / "stage").mkdir()
    (folder / "stage" / "weights").write_text("weights" * 100)
    write_json(folder / "stage" / "done.json", {})


def careful(folder: Path) -> None:
    (folder / "stage").mkdir()
    (folder / "stage" / "weights").write_text("weights" * 100)
    sync_folder(folder / "stage")
    write_json(folder / "stage" / "done.json", {})


def renamed_without_its_folder(folder: Path) -> None:
    """The content is on the disk, but its new name may not be."""
    with (folder / "new").open("w") as file:
        file.write("weights" * 100)
        file.flush()
        os.fsync(file.fileno())
    (folder / "new").rename(folder / "weights")


def renamed_with_its_folder(folder: Path) -> None:
    renamed_without_its_folder(folder)
    sync_folder(folder)


@pytest.mark.unit
def test_a_power_cut_takes_what_was_not_synced_and_nothing_else(tmp_path):
    whole = "weights" * 100
    lost = [state for state in contents_after(careless, tmp_path / "1") if "stage/done.json" in state]
    assert any(state.get("stage/weights") != whole for state in lost)
    states = contents_after(careful, tmp_path / "2")
    kept = [state for state in states if "stage/done.json" in state]
    assert kept and all(state["stage/weights"] == whole for state in kept)
    names = {tuple(state) for state in contents_after(renamed_without_its_folder, tmp_path / "3")}
    assert ("weights",) in names and len(names) > 1
    assert contents_after(renamed_with_its_folder, tmp_path / "4") == [{"weights": whole}] * 30


@pytest.mark.unit
def test_damage_keeps_size_and_time_and_is_undone(tmp_path):
    file = tmp_path / "a.bin"
    file.write_bytes(bytes(range(256)) * 8)
    before = file.read_bytes(), file.stat().st_mtime_ns
    ways = set()
    for seed in range(20):
        with damage.damage(file, random.Random(seed)) as how:
            assert file.read_bytes() != before[0] and file.stat().st_mtime_ns == before[1], how
            ways.add(how.split()[0])
        assert (file.read_bytes(), file.stat().st_mtime_ns) == before
    assert ways == {"bit", "cut", "bytes"}


@pytest.mark.unit
def test_what_is_spoiled_follows_from_the_seed():
    good = b'{"id": "a", "text": "some words"}' * 10
    spoiled = [spoiling.spoil(good, random.Random(seed)) for seed in range(50)]
    assert spoiled == [spoiling.spoil(good, random.Random(seed)) for seed in range(50)]
    assert len(set(spoiled)) > 45 and sum(one == good for one in spoiled) < 3


@pytest.mark.unit
def test_results_count_by_fault_and_name_what_repeats_the_others():
    results = Results(7, {"kills": 3, "mutations": 1})
    for number, verdict in enumerate(("same_bits", "same_bits", "other")):
        results.add(Verdict("kills", number, "learn_units", "SIGKILL", verdict, "details"))
    results.add(Verdict("mutations", 0, "audio", "clip.wav", "refused", "clip.wav: unreadable"))
    summary = results.summary(1.4)
    assert [summary[name] for name in ("same_bits", "refused", "other", "seed")] == [2, 1, 1, 7]
    assert summary["by_fault"]["kills"] == {"same_bits": 2, "refused": 0, "other": 1}
    assert summary["by_name"]["mutations"] == {"audio": {"same_bits": 0, "refused": 1, "other": 0}}
    assert [(other["kind"], other["number"]) for other in summary["others"]] == [("kills", 2)]
