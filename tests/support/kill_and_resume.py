"""Kill a pipeline at moments over all its stages, resume it, and compare with a run that was left alone.

    python tests/support/kill_and_resume.py moe                       every moment, about a minute each
    python tests/support/kill_and_resume.py units --stages vocoder    the moments of one stage

A moment is the n-th optimizer step of a stage, or the n-th time that it opens a file for writing or renames one,
perhaps of a
certain place: the same in every run, however fast the machine. There the pipeline kills its whole process group.
Stages and their numbers of steps and files are read off the run that is left alone. Long recordings that are finished
must not be read again. Exit code 1 if that happens, or anything differs at the end.
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
import zipfile
from collections import Counter
from collections.abc import Callable, Collection
from pathlib import Path
from typing import NamedTuple

from killed_pipelines import PIPELINES, Pipeline
from paths import ROOT
from torch.optim.optimizer import register_optimizer_step_post_hook

from dataset_scripts import segment_writer

RECIPES = ROOT / "recipes"
# sha256: of a file with times
TIMES = re.compile(r"(^|_)(seconds|runtime|time|time_factor|per_second|sha256)$|^seconds_(by|per|to)_")
NOT_CONTENT = {
    "resume",
    "results.json",
    "fingerprint",
    "files",
    "seal",
    "places",
    "kept",
}  # digests of what has times, where inputs lie, and how much an interrupted run had done
NOT_COMPARED = {"training_args.bin"}  # a pickle of paths; training does not read it
NO_RESULT = re.compile(r"\.lock$|/events\.out\.tfevents\.[^/]*$")  # empty; and logs named by time


class Moment(NamedTuple):
    """The n-th event of a kind of a stage: an optimizer step, a file written, or one of a place."""

    stage: str
    kind: str
    number: int


class Watch:
    """Counts the events of each stage by its unfinished folder, and kills the process group at one of them."""

    def __init__(self, out: Path, places: dict[str, str], moment: tuple):
        self.out, self.places, self.moment, self.counts = out, places, moment, Counter()
        self.unfinished = re.compile(rf"{re.escape(str(out))}/\.(\w+)\.partial/(.*)")

    def install(self) -> None:
        sys.addaudithook(self.on_audit)
        register_optimizer_step_post_hook(
            lambda *_: self.count(next(self.out.glob(".*.partial")).name.split(".")[1], "step")
        )

    def on_audit(self, event: str, args: tuple) -> None:
        is_write = event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)
        if (is_write or event == "os.rename") and not isinstance(args[0], int):
            found = self.unfinished.match(os.fsdecode(args[0] if is_write else args[1]))
            if found:
                self.count(found[1], "file")
                for place, pattern in self.places.items():
                    if re.match(pattern, found[2]):
                        self.count(found[1], place)

    def count(self, stage: str, kind: str) -> None:
        self.counts[f"{stage} {kind}"] += 1
        if self.moment == (stage, kind, self.counts[f"{stage} {kind}"]):
            os.killpg(0, signal.SIGKILL)


def child(pipeline: str, moment: str, folder: str, *argv: str) -> None:
    """The pipeline as a program, watched."""
    recipe, folder = RECIPES / f"{PIPELINES[pipeline].recipe}.py", Path(folder)
    watch = Watch(folder / "run", PIPELINES[pipeline].places, tuple(json.loads(moment)))
    watch.install()
    segment_writer.stream = noting(segment_writer.stream, folder / "read.txt")
    sys.argv = [str(recipe), *argv]
    runpy.run_path(str(recipe), run_name="__main__")
    (folder / "counts.json").write_text(json.dumps(watch.counts))


def noting(stream: Callable, file: Path) -> Callable:
    """`stream`, which adds a line to the file for each recording that is read."""

    def noted(path: Path):
        with file.open("a") as opened:
            opened.write(f"{path.name}\n")
        return stream(path)

    return noted


def run_pipeline(pipeline: str, words: list[str], folder: Path, *more: str, moment: Moment | None = None) -> int:
    """Run in `folder/run` and return the exit code; the log is in `folder/log.txt`."""
    recipe = PIPELINES[pipeline].recipe
    argv = ["--config", RECIPES / "configs" / recipe / "quick.yaml", "--output_dir", folder / "run", *words]
    command = [sys.executable, __file__, "child", pipeline, json.dumps(moment or ""), folder, *argv, *more]
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log.txt").open("a") as log:
        return subprocess.run(
            [*map(str, command)],
            cwd=ROOT,
            start_new_session=True,
            stdout=log,
            stderr=log,
            env={
                **os.environ,
                "ACCELERATE_USE_CPU": "true",
                "HF_HUB_OFFLINE": "1",
                "HF_DATASETS_CACHE": str(folder / "cache"),
                "PYTHONPATH": str(ROOT),
            },
        ).returncode


def moments(
    counts: dict[str, int], stages: list[str] | None, more: dict[str, tuple[tuple[str, float], ...]]
) -> list[Moment]:
    """The middle of every stage, by steps where it trains and by files elsewhere, and more of some."""
    found = []
    for stage in dict.fromkeys(key.split()[0] for key in counts):
        kind = "step" if f"{stage} step" in counts else "file"
        shares = sorted({(kind, 0.5), *more.get(stage, ())}, key=lambda pair: (pair[0] != kind, pair))
        found += [Moment(stage, kind, math.ceil(share * counts[f"{stage} {kind}"])) for kind, share in shares]
    return [moment for moment in found if not stages or moment.stage in stages]


def read_again(folder: Path) -> list[str]:
    """Recordings that were read more than once, but for one, which a kill may have interrupted."""
    file = folder / "read.txt"
    times = Counter(file.read_text().splitlines()) if file.exists() else {}
    again = [name for name, count in times.items() if count > 1]
    return [f"read again: {', '.join(again)}"] if len(again) > 1 or max(times.values(), default=0) > 2 else []


def differences(one: Path, other: Path, names: Collection[str] | None = None) -> list[str]:
    """What differs between two run folders, apart from times and their own names; a line per file.

    Args:
        names: files and folders of `one` that are compared; by default all.
    """
    files = [{path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()} for run in (one, other)]
    files = [{name for name in found if not NO_RESULT.search(name)} for found in files]
    if names is not None:
        files[0] = {name for name in files[0] if name.split("/")[0] in names}
    found = [f"{name}: only in {'one' if name in files[0] else 'other'}" for name in sorted(files[0] ^ files[1])]
    for name in sorted(files[0] & files[1]):
        if Path(name).name not in NOT_COMPARED:
            contents = [content(run / name, (one, other)) for run in (one, other)]
            if contents[0] != contents[1]:
                found.append(f"{name}: {first_difference(*contents)}")
    return found


def content(path: Path, runs: tuple[Path, ...]):
    """Bytes; of text, its lines without times and without the names of the runs' folders."""
    if path.suffix == ".zip":  # its entries have times
        with zipfile.ZipFile(path) as package:
            return b"".join(name.encode() + package.read(name) for name in package.namelist())
    if path.suffix not in (".json", ".jsonl", ".md", ".html", ".eaf") and path.name != "complete":
        return path.read_bytes()
    text = path.read_text()
    for run in runs:
        text = text.replace(str(run), "RUN")
    if path.suffix in (".html", ".eaf"):
        return re.sub(r' (DATE|RELATIVE_MEDIA_URL)="\S+"', "", text).splitlines()
    if path.suffix == ".md":
        return re.sub(r"\d+ minutes|\d+ s\b|\d\.\d{3}", "", text).splitlines()  # the latter are real-time factors
    documents = [json.loads(line) for line in text.splitlines()] if path.suffix == ".jsonl" else [json.loads(text)]
    return json.dumps([timeless(document) for document in documents], indent=1, sort_keys=True).splitlines()


def timeless(value):
    if isinstance(value, dict):
        return {key: timeless(item) for key, item in value.items() if not TIMES.search(key) and key not in NOT_CONTENT}
    return [timeless(item) for item in value] if isinstance(value, list) else value


def first_difference(one, other) -> str:
    if isinstance(one, bytes):
        return f"{len(one)} and {len(other)} bytes"
    changed = list(difflib.unified_diff(one, other, lineterm="", n=0))[2:]
    return " | ".join(line.strip() for line in changed if not line.startswith("@@"))[:300]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pipeline", choices=PIPELINES)
    parser.add_argument("--stages", nargs="+", help="only moments of these stages (folders of the run)")
    parser.add_argument("--kinds", nargs="+", help="only moments of these kinds: step, file, or a place")
    parser.add_argument("--output_dir", help="keep the runs here; default: a temporary folder")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as temporary:
        return compare_all(args.pipeline, Path(args.output_dir or temporary).resolve(), args.stages, args.kinds)


def compare_all(pipeline: str, folder: Path, stages: list[str] | None, kinds: list[str] | None) -> int:
    described: Pipeline = PIPELINES[pipeline]
    words = [*described.sources(folder / "sources"), *described.flags]
    whole, failed = folder / "whole", 0
    if run_pipeline(pipeline, words, whole):
        print((whole / "log.txt").read_text()[-3000:])
        return 1
    for moment in moments(json.loads((whole / "counts.json").read_text()), stages, described.more):
        if kinds and moment.kind not in kinds:
            continue
        start, killed = time.time(), folder / "_".join(map(str, moment))
        codes = [
            run_pipeline(pipeline, words, killed, *more, moment=at)
            for more, at in (((), moment), (("--resume",), None))
        ]
        found = [f"exit codes {codes}"]
        if codes == [-signal.SIGKILL, 0]:
            found = differences(whole / "run", killed / "run") + read_again(killed)
        failed += bool(found)
        print(
            f"{moment.stage:20}{moment.kind} {moment.number:<6}{'differs' if found else 'equal':10}"
            f"{time.time() - start:.0f} s",
            *found,
            sep="\n    ",
            flush=True,
        )
    return int(failed > 0)


if __name__ == "__main__":
    if sys.argv[1:2] == ["child"]:
        child(*sys.argv[2:])
    else:
        sys.exit(main())
