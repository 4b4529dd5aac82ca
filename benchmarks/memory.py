"""Time and memory of one process, for the scripts that ask whether memory grows with the work."""

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path


def in_own_process(script: str, words: Sequence[object]) -> dict:
    """Run a script anew, so that its peak memory is its own, and read the JSON that it prints last."""
    command = [sys.executable, script, *map(str, words)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def cpu_seconds() -> float:
    """CPU time of this process and of those that it has waited for."""
    return sum(os.times()[:4])


def own_memory(process: int | str = "self") -> float:
    """Memory of a process in MiB without mapped files, on Linux."""
    return int(re.search(r"RssAnon:\s*(\d+) kB", Path(f"/proc/{process}/status").read_text())[1]) / 2**10


class PeakMemory(threading.Thread):
    """Looks at `own_memory` of a process within a block; `peak` is the most that it saw."""

    def __init__(self, process: int | str = "self"):
        super().__init__(daemon=True)
        self.process = process
        self.peak = own_memory(process)
        self._ended = threading.Event()

    def run(self) -> None:
        while not self._ended.wait(0.02):
            self.peak = max(self.peak, own_memory(self.process))

    def __enter__(self) -> "PeakMemory":
        self.start()
        return self

    def __exit__(self, *_) -> None:
        self._ended.set()
        self.join()
