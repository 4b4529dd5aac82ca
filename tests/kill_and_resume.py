"""Kill the MoE pipeline at moments over all its stages, resume it, and compare with a run that was left alone.

    python tests/kill_and_resume.py                       every moment, about a minute each
    python tests/kill_and_resume.py --stages experts      the moments of one stage

A moment is the n-th optimizer step of a stage, or the n-th time that it opens a file for writing or renames one: the same
place in every run, however fast the machine. There the pipeline kills its whole process group. Stages and their
numbers of steps and files are read off the run that is left alone. Exit code 1 if anything differs at the end.
"""

import argparse
import difflib
import json
import math
import os
import re
import runpy
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from tiny_speech import save_tiny_whisper, speaker_folder
from torch.optim.optimizer import register_optimizer_step_post_hook

ROOT = Path(__file__).resolve().parents[1]
PIPELINE = ROOT / "recipes" / "run_moe_pipeline.py"
QUICK = ROOT / "recipes" / "configs" / "run_moe_pipeline" / "quick.yaml"
TRAINING = {"report_to": "none", "per_device_train_batch_size": 4, "save_strategy": "steps", "save_steps": 2,
            "full_context_fraction": 0.3, "max_new_tokens": 6, "logging_steps": 5}
OPTIONS = {  # small and still everything: checkpoints in every epoch, all three phases of routing
    "extract_embeddings": {"full_context_samples": 3, "batch_size": 4},
    "pretrain_router": {"num_train_epochs": 12, "save_every_n_epochs": 2, "validation_fraction": 0.5},
    "pretrain_experts": TRAINING, "train_moe_whisper": {**TRAINING, "soft_routing_epochs": 1, "topk_routing_epochs": 1},
    "benchmark_asr": {"max_new_tokens": 6, "num_bootstrap": 20},
}
FLAGS = ["--num_experts=3", "--shared_epochs=1", "--expert_epochs=1", "--joint_epochs=3", "--stage_options",
         *(f"{stage}.{flag}={value}" for stage, flags in OPTIONS.items() for flag, value in flags.items())]
MORE = {"joint": (("step", 1 / 6), ("step", 5 / 6)), "single_lora": (("file", 0.5),)}  # soft and hard routing; a checkpoint
TIMES = re.compile(r"(^|_)(seconds|runtime|time|time_factor|per_second|sha256)$")  # sha256: of a file with times
NOT_COMPARED = {"training_args.bin"}  # a pickle of paths; training does not read it


class Moment(NamedTuple):
    """The n-th event of a kind, optimizer step or file written, of a stage."""

    stage: str
    kind: str
    number: int


class Watch:
    """Counts the events of each stage by its unfinished folder, and kills the process group at one of them."""

    def __init__(self, out: Path, moment: tuple):
        self.out, self.moment, self.counts = out, moment, Counter()
        self.unfinished = re.compile(rf"{re.escape(str(out))}/\.(\w+)\.partial/")

    def install(self) -> None:
        sys.addaudithook(self.on_audit)
        register_optimizer_step_post_hook(lambda *_: self.count(next(self.out.glob(".*.partial")).name.split(".")[1], "step"))

    def on_audit(self, event: str, args: tuple) -> None:
        is_write = event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)
        if (is_write or event == "os.rename") and not isinstance(args[0], int):
            found = self.unfinished.match(os.fsdecode(args[0] if is_write else args[1]))
            if found:
                self.count(found[1], "file")

    def count(self, stage: str, kind: str) -> None:
        self.counts[f"{stage} {kind}"] += 1
        if self.moment == (stage, kind, self.counts[f"{stage} {kind}"]):
            os.killpg(0, signal.SIGKILL)


def child(moment: str, counts: str, out: str, *argv: str) -> None:
    """The pipeline as a program, watched."""
    watch = Watch(Path(out), tuple(json.loads(moment)))
    watch.install()
    sys.argv = [str(PIPELINE), *argv]
    runpy.run_path(str(PIPELINE), run_name="__main__")
    Path(counts).write_text(json.dumps(watch.counts))


def run_pipeline(sources: Path, folder: Path, *more: str, moment: Moment | None = None) -> int:
    """Run in `folder/run` and return the exit code; the log is in `folder/log.txt`."""
    out = folder / "run"
    argv = ["--config", QUICK, "--data", sources / "speakers", "--model", sources / "whisper", "--output_dir", out, *FLAGS]
    command = [sys.executable, __file__, "child", json.dumps(moment or ""), folder / "counts.json", out, *argv, *more]
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log.txt").open("a") as log:
        return subprocess.run([*map(str, command)], cwd=ROOT, start_new_session=True, stdout=log, stderr=log, env={
            **os.environ, "ACCELERATE_USE_CPU": "true", "HF_HUB_OFFLINE": "1",
            "HF_DATASETS_CACHE": str(folder / "cache"), "PYTHONPATH": str(ROOT)}).returncode


def moments(counts: dict[str, int], stages: list[str] | None) -> list[Moment]:
    """The middle of every stage, by steps where it trains and by files elsewhere, and more of some."""
    found = []
    for stage in dict.fromkeys(key.split()[0] for key in counts):
        kind = "step" if f"{stage} step" in counts else "file"
        shares = sorted({(kind, 0.5), *MORE.get(stage, ())}, key=lambda pair: (pair[0] != kind, pair[1]))
        found += [Moment(stage, kind, math.ceil(share * counts[f"{stage} {kind}"])) for kind, share in shares]
    return [moment for moment in found if not stages or moment.stage in stages]


def differences(one: Path, other: Path) -> list[str]:
    """What differs between two run folders, apart from times and their own names; a line per file."""
    files = [{path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()} for run in (one, other)]
    found = [f"{name}: only in {'one' if name in files[0] else 'other'}" for name in sorted(files[0] ^ files[1])]
    for name in sorted(files[0] & files[1]):
        if Path(name).name not in NOT_COMPARED:
            contents = [content(run / name, run) for run in (one, other)]
            if contents[0] != contents[1]:
                found.append(f"{name}: {first_difference(*contents)}")
    return found


def content(path: Path, run: Path):
    """Bytes; of text, its lines without times and without the run's own folder."""
    if path.suffix not in (".json", ".jsonl", ".md"):
        return path.read_bytes()
    text = path.read_text().replace(str(run), "RUN")
    if path.suffix == ".md":
        return re.sub(r"\d+ minutes|\d\.\d{3}", "", text).splitlines()  # the latter are real-time factors
    documents = [json.loads(line) for line in text.splitlines()] if path.suffix == ".jsonl" else [json.loads(text)]
    return json.dumps([timeless(document) for document in documents], indent=1, sort_keys=True).splitlines()


def timeless(value):
    if isinstance(value, dict):
        return {key: timeless(item) for key, item in value.items() if not TIMES.search(key) and key != "resume"}
    return [timeless(item) for item in value] if isinstance(value, list) else value


def first_difference(one, other) -> str:
    if isinstance(one, bytes):
        return f"{len(one)} and {len(other)} bytes"
    changed = list(difflib.unified_diff(one, other, lineterm="", n=0))[2:]
    return " | ".join(line.strip() for line in changed if not line.startswith("@@"))[:300]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stages", nargs="+", help="only moments of these stages (folders of the run)")
    parser.add_argument("--output_dir", help="keep the runs here; default: a temporary folder")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as temporary:
        return compare_all(Path(args.output_dir or temporary).resolve(), args.stages)


def compare_all(folder: Path, stages: list[str] | None) -> int:
    sources = folder / "sources"
    speaker_folder(sources / "speakers")
    save_tiny_whisper(sources / "whisper")
    whole, failed = folder / "whole", 0
    if run_pipeline(sources, whole):
        print((whole / "log.txt").read_text()[-3000:])
        return 1
    for moment in moments(json.loads((whole / "counts.json").read_text()), stages):
        start, killed = time.time(), folder / "_".join(map(str, moment))
        codes = [run_pipeline(sources, killed, moment=moment), run_pipeline(sources, killed, "--resume")]
        found = differences(whole / "run", killed / "run") if codes == [-signal.SIGKILL, 0] else [f"exit codes {codes}"]
        failed += bool(found)
        print(f"{moment.stage:20}{moment.kind} {moment.number:<6}{'differs' if found else 'equal':10}"
              f"{time.time() - start:.0f} s", *found, sep="\n    ", flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    if sys.argv[1:2] == ["child"]:
        child(*sys.argv[2:])
    else:
        sys.exit(main())
