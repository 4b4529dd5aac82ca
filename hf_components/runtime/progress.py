"""Progress bars: as usual on a terminal, one line a minute in a log file."""

import sys
import time
from typing import Any

from tqdm.auto import tqdm

SECONDS_BETWEEN_LINES = 60
SHORTEST = 1.0  # seconds; faster work shows no bar


class Progress(tqdm):
    """`tqdm` on standard error. If that is not a terminal, it writes one line a minute and one at the end.

    Work of less than a second shows nothing.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        self.is_log = not sys.stderr.isatty()
        self.started = self.last_line = time.monotonic()
        self.shown = None  # `n` in the last line
        super().__init__(*args, **{"delay": SHORTEST, **kwargs})

    def display(self, msg: str | None = None, pos: int | None = None) -> bool | None:
        if not self.is_log:
            return super().display(msg, pos)
        if msg is None and time.monotonic() - self.last_line >= SECONDS_BETWEEN_LINES:
            self._write_line()
        return None

    def close(self) -> None:
        if self.is_log and not self.disable:
            if time.monotonic() - self.started >= SHORTEST and self.n != self.shown:
                self._write_line()
            self.leave = False  # else `tqdm` writes the same line again
        super().close()

    def _write_line(self) -> None:
        self.last_line = time.monotonic()
        self.shown = self.n
        self.fp.write(f"{self}\n")
        self.fp.flush()
