"""What the process of `apart` does: it decodes what it is asked for, within bounds of memory and time."""

import contextlib
import os
import resource
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from . import reading
from .messages import BUFFER, receive, send

SECONDS = 120  # for a block (a minute of sound at 16 kHz), or for the length; a slow network disk takes some
MEMORY = 2 << 30  # bytes more than at the start and than the recording has; 64 channels take 1.1 GB


def serve() -> None:
    """Answer requests until standard input ends: with the process that asks, however it ends."""
    asked = sys.stdin.buffer
    answers = os.fdopen(os.dup(1), "wb", BUFFER)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # nobody reads the answer: end without a word
    send(answers, {"ready": True})
    answers.flush()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):  # what libraries print of a file may move the cursor of a terminal
        os.dup2(nowhere, stream)
    at_start = _address_space()
    with contextlib.suppress(EOFError):
        while True:
            request, content = receive(asked)
            source = bytes(content) if request["path"] is None else request["path"]
            _bound_memory(at_start + MEMORY + 2 * _size(source))
            _answer(answers, source, request["sampling_rate"])


def _answer(answers: BinaryIO, source: str | bytes, sampling_rate: int | None) -> None:
    """Send the blocks of a recording, or its length if there is no sampling rate; or why it cannot be read."""
    try:
        if sampling_rate is None:
            signal.alarm(SECONDS)  # without a handler it ends the process, whatever that is doing
            last = {"seconds": reading.read_duration(source)}
        else:
            for block in _in_time(reading.stream(source, sampling_rate)):
                samples = np.ascontiguousarray(block.waveform, np.float32).view(np.uint8)
                send(answers, {"source_samples": block.source_samples, "clipped": block.clipped}, samples.data)
            last = {"end": True}
    except reading.SoundError as error:
        last = {"problem": [error.reason, error.detail]}
    except MemoryError:
        last = _unreadable(f"more than {MEMORY >> 30} GiB of memory are needed to decode it")
    except Exception as error:  # a file costs itself, and not the run
        last = _unreadable(f"the decoder failed on it ({type(error).__name__}: {error})")
    signal.alarm(0)
    send(answers, last)
    answers.flush()


def _unreadable(what: str) -> dict:
    return {"problem": ["unreadable audio", f"{what}; repair or leave it out"]}


def _in_time(blocks: Iterator[reading.Block]) -> Iterator[reading.Block]:
    """The blocks, each within `SECONDS`. The time in which nobody asks for the next one does not count."""
    while True:
        signal.alarm(SECONDS)
        block = next(blocks, None)
        signal.alarm(0)
        if block is None:
            return
        yield block


def _size(source: str | bytes) -> int:
    """Bytes of a recording; 0 if it is missing, which is reported when it is opened."""
    with contextlib.suppress(OSError):
        return len(source) if isinstance(source, bytes) else Path(source).stat().st_size
    return 0


def _address_space() -> int:
    """Bytes that this process has mapped. Only Linux tells, and only there is a limit kept."""
    if sys.platform != "linux":
        return 0
    return int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0]) * resource.getpagesize()


def _bound_memory(wanted: int) -> None:
    if sys.platform == "linux":
        _, most = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (wanted if most == resource.RLIM_INFINITY else min(wanted, most), most))
