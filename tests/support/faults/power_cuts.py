"""A power cut at a moment of a recipe: what was not synced is lost, in whole or in part; then the same command again.

A `Journal` in the child notes the entries of every folder below the run before each event, and what was synced. At the
cut the child is killed, and the folder is built anew as the disk may hold it after the cut:

- Entries. Each folder is as it was at some moment since it was last synced. By the rules of a journal (ext4, XFS) this
  is one moment for all folders, and no earlier than the last sync of anything. By those of POSIX it is another moment
  for each folder, and only a synced folder is sure of its entries. Half of the trials take each rule.
- Contents. A file is as it was synced. What was written since is there, missing, cut short, or zeros.

What this cannot do: the moments are those that Python sees (see `moments.Watch`), so two renamings by a library in
Rust or C++ without an event in between would count as one. None of our libraries renames anything. Blocks of one file
do not change their order, and a sector is written whole or not at all. What lies outside of the run's folder, such as
the cache of `datasets`, is left as it is.
"""

import os
import pickle
import random
import shutil
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from faults.children import kill_self, run
from faults.kills import after_fault
from faults.moments import Tally, Watch
from faults.verdicts import OTHER, Verdict
from faults.whole_runs import WholeRuns, draw

Entries = dict[str, int]  # name in a folder -> inode
SYNCED = ".synced"


@dataclass
class Record:
    """What a journal knows at the cut.

    Attributes:
        root: inode of the run's folder.
        history: for each folder, by its inode, its entries at each event since it was last synced, with the number of
            the event; the first is what is sure.
        last_sync: number of the event at which anything was last synced.
        cut: number of the event of the cut.
    """

    root: int
    history: dict[int, list[tuple[int, Entries]]] = field(default_factory=dict)
    last_sync: int = 0
    cut: int = 0


class Journal(Watch):
    """Notes what a power cut would leave. `store` gets a link to every file, so that none is lost by deletion."""

    def __init__(self, folder: Path, tally: Tally, store: Path, number: int):
        super().__init__(folder, tally, number, self.cut)
        self.root = folder
        self.store = store
        self.record = Record(folder.stat().st_ino)
        self._opened: list[int] = []
        self.store.mkdir()

    def cut(self) -> None:
        self.save()
        kill_self()

    def save(self) -> None:
        self._look()
        self.record.cut = self.events
        (self.store / "record").write_bytes(pickle.dumps(self.record))

    def happens(self, kind: str, path: str) -> None:
        if path.startswith(self.folder) or path == str(self.root):
            self._look()
        super().happens(kind, path)

    def before_an_event(self) -> None:
        """A renaming survives a power cut once its folder is synced, see `synced`."""

    def synced(self, path: str) -> None:
        if self._renamed and path == str(Path(self._renamed).parent):
            super().before_an_event()
        if not (path.startswith(self.folder) or path == str(self.root)):
            return
        self._look()
        self.record.last_sync = self.events
        inode = Path(path).stat().st_ino
        if inode in self.record.history:
            self.record.history[inode] = self.record.history[inode][-1:]
        else:
            shutil.copyfile(path, self.store / f"{inode}{SYNCED}")

    def _look(self) -> None:
        """Add the entries of every folder to its history, if they have changed."""
        folders = [self.root]
        while folders:
            folder = folders.pop()
            entries: Entries = {}
            for entry in os.scandir(folder):
                inode = entry.inode()
                entries[entry.name] = inode
                if entry.is_dir(follow_symlinks=False):
                    folders.append(Path(entry.path))
                elif not (self.store / str(inode)).exists():
                    os.link(entry.path, self.store / str(inode), follow_symlinks=False)
            # A folder that is new is sure of nothing.
            inode = folder.stat().st_ino
            if inode not in self.record.history:
                self._opened.append(os.open(folder, os.O_RDONLY))  # else its inode may become that of another
            history = self.record.history.setdefault(inode, [(0, {})])
            if history[-1][1] != entries:
                history.append((self.events, entries))


def trial(runs: WholeRuns, number: int, chance: random.Random, place: Path, only: list[str] | None) -> Verdict:
    """Cut the power of a recipe drawn at random at a moment drawn at random, and run it again."""
    name = draw(chance, only)
    whole = runs[name]
    moment = chance.randint(1, whole.ended.events + 1)  # the last is after the end
    rule = chance.choice(("journal", "POSIX"))
    fault = f"power cut at event {moment} of {whole.ended.events}, entries by the rule of {rule}"
    out = place / "run"
    out.mkdir(parents=True)
    tally = Tally()
    journal = Journal(out, tally, place / "store", moment)
    work = runs.work(name, out, journal)

    def to_the_end() -> dict:
        result = work()
        journal.save()
        return result

    ended = run(to_the_end, place / "log.txt", tally)
    if ended.how not in ("killed", "done"):
        return Verdict("power_cuts", number, name, fault, OTHER, f"before the cut: {ended.how}, {ended.text}")
    build_anew(out, place / "store", rule, chance)
    if ended.how == "done":
        ended.safe = ended.steps
    return after_fault(runs, "power_cuts", number, name, fault, ended, place)


def states_after(write: Callable[[Path], object], folder: Path, count: int = 30) -> Iterator[Path]:
    """The folder that `write` has filled, as each of some power cuts after its end may leave it."""
    out = folder / "run"
    out.mkdir(parents=True)
    journal = Journal(out, Tally(), folder / "store", 0)

    def work() -> None:
        journal.install()
        write(out)
        journal.save()

    ended = run(work, folder / "log.txt")
    if ended.how != "done":
        raise RuntimeError(ended.text)
    for seed in range(count):
        build_anew(out, folder / "store", ("POSIX", "journal")[seed % 2], random.Random(seed))
        yield out


def build_anew(out: Path, store: Path, rule: str, chance: random.Random) -> None:
    """Replace a run's folder by what the disk may hold after the cut."""
    record: Record = pickle.loads((store / "record").read_bytes())
    chosen = _choose(record, rule, chance)
    shutil.rmtree(out)
    _build(record.root, out, chosen, store, chance)


def _choose(record: Record, rule: str, chance: random.Random) -> dict[int, Entries]:
    """The entries of each folder after the cut."""
    moment = chance.randint(record.last_sync, record.cut)
    chosen = {}
    for inode, history in sorted(record.history.items()):
        if rule == "journal":
            chosen[inode] = [entries for event, entries in history if event <= moment][-1]
        else:
            chosen[inode] = chance.choice(history)[1]
    return chosen


def _build(inode: int, folder: Path, chosen: dict[int, Entries], store: Path, chance: random.Random) -> None:
    folder.mkdir()
    for name, child in sorted(chosen[inode].items()):
        if child in chosen:
            _build(child, folder / name, chosen, store, chance)
        elif stat.S_ISREG((store / str(child)).lstat().st_mode):
            (folder / name).write_bytes(_content(store / str(child), chance))
        else:
            shutil.copy2(store / str(child), folder / name, follow_symlinks=False)


def _content(file: Path, chance: random.Random) -> bytes:
    """What is left of a file: at least what was synced."""
    written = file.read_bytes()
    kept = file.with_name(f"{file.name}{SYNCED}")
    synced = kept.read_bytes() if kept.exists() else b""
    if written == synced:
        return written
    end = chance.randint(len(synced) if written.startswith(synced) else 0, len(written))
    return chance.choice((written, synced, written[:end], written[:end] + bytes(len(written) - end)))
