"""Decode in a process apart: a file that crashes its decoder, hangs it or fills its memory costs that file alone.

The process is a small Python that has nothing but the decoders. It is started once, serves one recording after the
other, and is replaced when it has died. It ends with the process that asks, since its standard input ends then.
"""

import atexit
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from .messages import BUFFER, receive, send
from .reading import Block, SoundError
from .server import SECONDS

ROOT = Path(__file__).parents[2]
START = "from hf_components.decoding.server import serve; serve()"
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


class Died(Exception):
    """The process has ended, or says what it never would."""


class Decoder:
    """A process that decodes. Another process that inherits it by a fork leaves it alone."""

    def __init__(self):
        program = f"import sys; sys.path.insert(0, {str(ROOT)!r}); {START}"
        self.owner = os.getpid()
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            process_group=0,  # Ctrl-C is for the recipe, which then ends this process too
            bufsize=BUFFER,
            pipesize=BUFFER if sys.platform == "linux" else -1,
            env={**os.environ, **ONE_THREAD},
        )
        try:
            receive(self.process.stdout)
        except EOFError:
            problem = self.process.stderr.read().decode(errors="replace")
            raise RuntimeError(f"the process that decodes audio does not start: {problem}") from None

    def ask(self, source: str | bytes, sampling_rate: int | None) -> Iterator[tuple[dict[str, Any], bytearray]]:
        """The messages about a recording; the last one has "end", "seconds" or "problem". Raises Died."""
        by_path = isinstance(source, str)
        request = {"path": source if by_path else None, "sampling_rate": sampling_rate}
        try:
            send(self.process.stdin, request, b"" if by_path else source)
            self.process.stdin.flush()
            while True:
                message, content = receive(self.process.stdout)
                yield message, content
                if "source_samples" not in message:
                    return
        except (EOFError, OSError, ValueError, LookupError, TypeError) as error:
            raise Died from error

    def status(self) -> int:
        """The exit code of a process that has died; negative if a signal ended it."""
        try:
            return self.process.wait(timeout=1)
        except subprocess.TimeoutExpired:  # it lives, and does not keep to the form
            self.end()
            return 0

    def end(self) -> None:
        """End the process; a process that was forked from its owner leaves it alone."""
        if self.owner != os.getpid():
            return
        self.process.kill()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            with contextlib.suppress(OSError):  # what it did not read any more
                pipe.close()
        self.process.wait()


_idle: list[Decoder] = []
os.register_at_fork(after_in_child=_idle.clear)


@atexit.register
def end_all() -> None:
    """End the processes that wait for work."""
    while _idle:
        _idle.pop().end()


def stream(source: str | bytes, sampling_rate: int) -> Iterator[Block]:
    """The same as `reading.stream`, in a process apart. Paths are absolute."""
    for message, content in _answers(source, sampling_rate):
        if "source_samples" in message:
            yield Block(np.frombuffer(content, np.float32), message["source_samples"], message["clipped"])


def read_duration(source: str | bytes) -> float:
    """The same as `reading.read_duration`, in a process apart. Paths are absolute."""
    ((message, _),) = _answers(source, None)
    return message["seconds"]


def _answers(source: str | bytes, sampling_rate: int | None) -> Iterator[tuple[dict[str, Any], bytearray]]:
    """What a decoder says of a recording. If one dies of it, a fresh one tries: files before it may be to blame."""
    given = 0
    for is_last in (False, True):
        decoder = Decoder() if is_last else _take()
        is_free = False
        try:
            for number, (message, content) in enumerate(decoder.ask(source, sampling_rate)):
                if "problem" in message:
                    is_free = True
                    raise SoundError(*message["problem"])
                if number >= given:
                    given += 1
                    yield message, content
            is_free = True
            return
        except Died:
            status = decoder.status()
            if is_last or status == -signal.SIGALRM:
                raise SoundError("unreadable audio", f"{_cause(status)}; repair or leave it out") from None
        finally:
            if is_free:
                _idle.append(decoder)
            else:
                decoder.end()


def _take() -> Decoder:
    try:
        return _idle.pop()
    except IndexError:
        return Decoder()


def _cause(status: int) -> str:
    if status == -signal.SIGALRM:
        return f"the decoder did not come to an end within {SECONDS} s"
    if status == -signal.SIGKILL:
        return "the decoder was killed, most likely because memory ran out"
    if status < 0:
        return f"the decoder crashed on it ({signal.Signals(-status).name})"
    return f"the decoder ended on it (exit code {status})"
