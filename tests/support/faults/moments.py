"""The moments of a run at which a fault may strike: events below its folder, counted in the order of the run."""

import mmap
import os
import struct
import sys
from collections.abc import Callable
from pathlib import Path

from torch.optim.optimizer import register_optimizer_step_post_hook

ENTRIES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir")  # audit events that change a folder; the path comes first
FOLDERS_OF = {"os.rename": (2, 3), "os.remove": (1,), "os.mkdir": (2,), "os.rmdir": (1,)}  # where a `dir_fd` may stand
STAGE = "stage.json"
CHECKPOINT = "complete"  # the marker of a training checkpoint


class Tally:
    """Numbers that a process leaves behind however it ends: events, optimizer steps, and steps that are safe.

    Steps are safe once a checkpoint or a stage that holds them is complete.
    """

    FORM = struct.Struct("qqq")

    def __init__(self):
        self._shared = mmap.mmap(-1, self.FORM.size)

    def read(self) -> tuple[int, int, int]:
        return self.FORM.unpack(self._shared[:])

    def write(self, events: int, steps: int, safe: int) -> None:
        self._shared[:] = self.FORM.pack(events, steps, safe)


class Watch:
    """Counts the events below a folder, and calls `strike` just before the n-th one happens.

    Python's audit hooks see files that Python opens, and every renaming and deletion. Libraries in Rust and C++ open
    their files unseen (safetensors, Arrow); the syncing and renaming that follows is seen.

    Args:
        folder: folder of the run.
        number: event at which to strike, from 1; None only counts.
        strike: function to call then.
    """

    def __init__(
        self, folder: Path, tally: Tally, number: int | None = None, strike: Callable[[], None] | None = None
    ):
        self.folder = f"{folder}{os.sep}"
        self.tally = tally
        self.number = number
        self.strike = strike
        self.events = self.steps = self.safe = 0
        self._renamed: str | None = None  # what will make the steps so far safe

    def install(self) -> None:
        sync = os.fsync

        def fsync(file) -> None:
            path = _opened(file if isinstance(file, int) else file.fileno())
            self.happens("fsync", path)
            sync(file)
            self.synced(path)

        os.fsync = fsync
        sys.addaudithook(self._on_audit)
        register_optimizer_step_post_hook(lambda *_: self._on_step())

    def happens(self, kind: str, path: str) -> None:
        """Called just before an event."""
        if not path.startswith(self.folder):
            return
        self.before_an_event()
        self.events += 1
        self.tally.write(self.events, self.steps, self.safe)
        if self.events == self.number:
            self.strike()
        if kind == "os.rename" and Path(path).name in (STAGE, CHECKPOINT):
            self._renamed = path

    def before_an_event(self) -> None:
        """The next event shows that a renaming has happened."""
        if self._renamed:
            self.safe, self._renamed = self.steps, None

    def synced(self, path: str) -> None:
        """Called after a file or folder was synced."""

    def _on_step(self) -> None:
        self.steps += 1
        self.happens("step", self.folder)

    def _on_audit(self, event: str, args: tuple) -> None:
        if event == "open" and isinstance(args[0], str | bytes | os.PathLike) and isinstance(args[2], int):
            if args[2] & (os.O_WRONLY | os.O_RDWR):
                self.happens(event, os.fsdecode(args[0]))
        elif event in ENTRIES:
            which = 1 if event == "os.rename" else 0  # a file is renamed to its name, a folder to its place
            self.happens(event, _absolute(args[which], args[FOLDERS_OF[event][which]]))


def _absolute(path, folder: int) -> str:
    path = os.fsdecode(path)
    if path.startswith(os.sep) or folder == -1:
        return path
    return f"{_opened(folder)}{os.sep}{path}"


def _opened(descriptor: int) -> str:
    return str(Path(f"/proc/self/fd/{descriptor}").readlink())
