"""Prepare the rows of a corpus by several processes, in shards that are complete or absent."""

import contextlib
import hashlib
import multiprocessing
import os
import shutil
import signal
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import datasets
import torch
from datasets.arrow_writer import ParquetWriter

from dataset_scripts.utterances import Reader, Rejection, Utterance
from hf_components.runtime import (
    FILES,
    Progress,
    UserError,
    check_files,
    damage_named,
    describe_files,
    estimate_rest,
    make_folder,
    read_record,
    sync,
    sync_folder,
    write_record,
)
from hf_components.speech import LONG

IDS_PER_SHARD = 500  # work that a kill may lose per process; also the most rows of a Parquet file
ROWS_IN_MEMORY = 32  # per process and split, 1 MB each at most (except in the long split)
CONTENT = "shard.json"
CONTENT_FORM = {
    "files": [[(str, int)]],
    "rejected": [{"id": str, "reason": str}],
    "remarks": {str: [str]},
    "statistics": [dict],
    "sounds?": {str: str},
    "written?": FILES,
}
SECONDS_BETWEEN_UPDATES = 0.5  # of the progress bar
SECONDS_UNTIL_ESTIMATE = 30.0  # a short run reports none

_worker = SimpleNamespace()  # state of a worker process


@dataclass(frozen=True)
class Writer:
    """How a shard is written: the reader, the columns, and the most bytes of audio per file.

    Recordings longer than `max_duration` seconds go uncut to the split `<split>_long`.
    """

    reader: Reader
    features: datasets.Features
    max_duration: float
    max_bytes: int
    unit: ClassVar[str] = "utterances"  # what the progress bar counts

    def write(self, folder: Path, split: str, utterances: list[Utterance], progress: Callable[[int], Any]) -> None:
        """Write the usable rows to `folder/<number>.parquet`, and the outcome for all rows to `folder/shard.json`.

        `folder` exists complete or not at all. `progress` gets the amount of work done.
        """
        temporary = folder.with_name(f".{folder.name}.partial")
        shutil.rmtree(temporary, ignore_errors=True)  # left by a killed run
        make_folder(temporary)
        content = self.fill(temporary, split, utterances, progress)
        write_record(temporary / CONTENT, {**content, "written": describe_files(temporary)})
        sync_folder(temporary)
        temporary.rename(folder)
        sync(folder.parent)

    def divide(self, utterances: list[Utterance]) -> Iterable[list[Utterance]]:
        """The utterances of each shard."""
        return _divide(utterances)

    def size(self, utterance: Utterance) -> int:
        """How far an utterance moves the progress bar."""
        return 1

    def fill(
        self, folder: Path, split: str, utterances: list[Utterance], progress: Callable[[int], Any]
    ) -> dict[str, Any]:
        """Write the Parquet files of a shard; return the content of its `shard.json`.

        If several utterances have the same id, the first usable one is a row.
        """
        rejected = []
        remarks = defaultdict(list)
        accepted = set()
        sounds: dict[str, str] = {}
        files = Files(folder, self)
        for utterance in utterances:
            progress(self.size(utterance))
            try:
                row, odd = self.reader.read(utterance)
                if utterance.id in accepted:
                    raise Rejection(
                        "duplicate id", f"{utterance.id} is listed more than once; the first usable row is kept"
                    )
            except Rejection as problem:
                rejected.append(problem.row(utterance.id, utterance.file, split, utterance.manifest, utterance.line))
                continue
            accepted.add(utterance.id)
            digest = hashlib.md5(row["audio"]["bytes"], usedforsecurity=False).hexdigest()
            sounds.setdefault(digest, utterance.id)
            files.add(split + LONG if row["duration"] > self.max_duration else split, row)
            for remark in odd:
                remarks[remark].append(utterance.id)
        return {"files": files.close(), "rejected": rejected, "remarks": remarks, "statistics": [], "sounds": sounds}


@dataclass
class Prepared:
    """The outcome for the utterances, in the order in which they were listed.

    Attributes:
        files: Parquet files of each split.
        rows: number of rows per split.
        rejected: rows of `rejected.jsonl`.
        remarks: ids of odd rows, by what is odd.
        statistics: figures of each recording, from the writer.
        records: further JSON files of the prepared corpus, by name.
        sounds: digest of each different recording and the id of its first row, of each split as it is listed.
        written: size and digest of each file.
    """

    files: dict[str, list[Path]] = field(default_factory=lambda: defaultdict(list))
    rows: Counter = field(default_factory=Counter)
    rejected: list[dict[str, Any]] = field(default_factory=list)
    remarks: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    statistics: list[dict[str, Any]] = field(default_factory=list)
    records: dict[str, dict] = field(default_factory=dict)
    sounds: dict[str, dict[str, str]] = field(default_factory=lambda: defaultdict(dict))
    written: dict[Path, dict] = field(default_factory=dict)


def write_shards(splits: dict[str, list[Utterance]], folder: Path, writer: Writer, num_proc: int) -> Prepared:
    """Write the shards that are not in `folder` yet, and collect the outcome for all utterances.

    The division into shards does not depend on `num_proc`. Utterances with the same id are in the same shard.

    Raises:
        UserError: a process was killed from outside.
    """
    shards = [
        (folder / f"{split}-{number:05d}", split, utterances)
        for split, listed in splits.items()
        for number, utterances in enumerate(writer.divide(listed))
    ]
    missing = [shard for shard in shards if not shard[0].exists()]
    _check_shards(shard[0] for shard in shards if shard[0].exists())
    total, left = (
        sum(writer.size(utterance) for *_, utterances in some for utterance in utterances)
        for some in (shards, missing)
    )
    make_folder(folder)
    with Progress(desc="Preparing", total=total, initial=total - left, unit=f" {writer.unit}") as bar:
        _work(writer, missing, num_proc, _Progress(bar, folder, left))
    return collect((place, split) for place, split, _ in shards)


def _check_shards(places: Iterable[Path]) -> None:
    """Raise UserError if a file of a shard of an earlier run is another one now. Those moved since are left out."""
    for place in places:
        again = f"delete {place} to prepare these rows again"
        written = read_record(place / CONTENT, CONTENT_FORM, again).get("written", {})
        check_files(place, {name: was for name, was in written.items() if (place / name).exists()}, again)


def collect(shards: Iterable[tuple[Path, str]]) -> Prepared:
    """The outcome of finished shards of splits. Raises UserError if the record of one is damaged."""
    prepared = Prepared()
    for place, listed_as in shards:
        again = f"delete {place} to prepare these rows again"
        content = read_record(place / CONTENT, CONTENT_FORM, again)
        with damage_named(place / CONTENT, again):
            for number, (split, rows) in enumerate(content["files"]):
                prepared.files[split].append(place / f"{number}.parquet")
                prepared.rows[split] += rows
        prepared.written |= {place / name: was for name, was in content.get("written", {}).items()}
        prepared.rejected += content["rejected"]
        prepared.statistics += content["statistics"]
        prepared.sounds[listed_as] = content.get("sounds", {}) | prepared.sounds[listed_as]
        for remark, ids in content["remarks"].items():
            prepared.remarks[remark] += ids
    return prepared


class Files:
    """The Parquet files of a shard: one at a time for each split, closed at `max_bytes`."""

    def __init__(self, folder: Path, writer: Writer):
        self.folder = folder
        self.writer = writer
        self.content: list[list] = []  # [split, rows] of each file
        self.open: dict[str, tuple[int, ParquetWriter]] = {}  # by split, with the file's number
        self.sizes: Counter = Counter()  # by split, bytes of audio

    def add(self, split: str, row: dict) -> None:
        if split not in self.open:
            number = len(self.content)
            path = str(self.folder / f"{number}.parquet")
            self.open[split] = (
                number,
                ParquetWriter(path=path, features=self.writer.features, writer_batch_size=ROWS_IN_MEMORY),
            )
            self.content.append([split, 0])
        number, file = self.open[split]
        file.write(self.writer.features.encode_example(row))
        self.content[number][1] += 1
        self.sizes[split] += len(row["audio"]["bytes"])
        if self.sizes[split] >= self.writer.max_bytes:
            self._close(split)

    def close(self) -> list[list]:
        for split in list(self.open):
            self._close(split)
        return self.content

    def discard(self) -> None:
        """Delete all files: the shard has no rows."""
        self.close()
        for number in range(len(self.content)):
            (self.folder / f"{number}.parquet").unlink()
        self.content.clear()

    def _close(self, split: str) -> None:
        self.open.pop(split)[1].finalize()
        del self.sizes[split]


class _Progress:
    """Moves the bar and, after some time, reports what the rest of the work will cost.

    Args:
        folder: folder that the work fills.
        total: amount of work.
    """

    def __init__(self, bar: Progress, folder: Path, total: int):
        self.bar = bar
        self.folder = folder
        self.total = total
        self.done = 0
        self.told = False
        self.start = time.monotonic()
        self.bytes = _bytes_in(folder)

    def __call__(self, count: int) -> None:
        self.bar.update(count)
        self.done += count
        seconds = time.monotonic() - self.start
        if self.told or not 0 < self.done < self.total or seconds < SECONDS_UNTIL_ESTIMATE:
            return
        if written := _bytes_in(self.folder) - self.bytes:  # rows are written some at a time
            self.told = True
            estimate_rest(
                "preparing", self.folder, done=self.done, total=self.total, seconds=seconds, bytes_written=written
            )


def _bytes_in(folder: Path) -> int:
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # workers rename folders meanwhile
                total += Path(place, name).stat().st_size
    return total


def _divide(utterances: list[Utterance]) -> Iterator[list[Utterance]]:
    """Yield shards of `IDS_PER_SHARD` ids, in the order in which the ids are first listed."""
    by_id: dict[str, list[Utterance]] = {}
    for utterance in utterances:
        by_id.setdefault(utterance.id, []).append(utterance)
    ids = list(by_id.values())
    for start in range(0, len(ids), IDS_PER_SHARD):
        yield [utterance for of_one_id in ids[start : start + IDS_PER_SHARD] for utterance in of_one_id]


def _work(writer: Writer, shards: list[tuple], num_proc: int, progress: Callable[[int], Any]) -> None:
    """Write the shards, and report to `progress` how much is done."""
    num_proc = min(num_proc, len(shards))
    if num_proc <= 1:
        for shard in shards:
            writer.write(*shard, progress)
        return
    done = multiprocessing.Value("q")
    told = 0
    with ProcessPoolExecutor(num_proc, initializer=_start_worker, initargs=(done,)) as pool:
        waiting = {pool.submit(_write, writer, shard) for shard in shards}
        try:
            while waiting:
                finished, waiting = wait(waiting, timeout=SECONDS_BETWEEN_UPDATES, return_when=FIRST_COMPLETED)
                for future in finished:
                    future.result()
                told, more = done.value, done.value - told
                progress(more)
        except KeyboardInterrupt:
            for worker in multiprocessing.active_children():  # else the end would come after their shards
                worker.kill()
            raise
        except BrokenProcessPool as error:
            raise UserError(
                "a worker process was killed, most likely because memory ran out; run the same command again "
                "with a smaller --num_proc"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _start_worker(done: Synchronized) -> None:
    """Prepare a worker, which adds its finished work to `done`."""
    _worker.done = done
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the main process, which ends this one
    torch.set_num_threads(1)  # the other workers use the other cores
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End the worker if its parent is killed; else it would wait forever, and write into shards of the next run."""
    multiprocessing.parent_process().join()
    os._exit(1)


def _write(writer: Writer, shard: tuple) -> None:
    def progress(count: int) -> None:
        with _worker.done.get_lock():
            _worker.done.value += count

    writer.write(*shard, progress)
