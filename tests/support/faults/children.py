"""A run in a forked process: it has imported everything, so that a kill costs a second and not the start of Python."""

import contextlib
import gc
import os
import pickle
import select
import signal
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from faults.moments import Tally
from hf_components.runtime import UserError
from hf_components.runtime.disk import refusal

LONGEST = 300.0  # seconds until a run counts as hung


@dataclass
class Ended:
    """How a run ended.

    Attributes:
        how: "done", "refused" (by a `UserError`, or as to the disk), "stopped" (by a signal), "failed" (by another
            error), "killed" or "hung".
        text: message of the `UserError`, or the traceback.
        result: what the function returned.
        events, steps, safe: see `Tally`.
    """

    how: str
    text: str = ""
    result: Any = None
    events: int = 0
    steps: int = 0
    safe: int = 0
    seconds: float = field(default=0.0, compare=False)


def run(
    work: Callable[[], Any],
    log: Path,
    tally: Tally | None = None,
    stop: tuple[Any, float] | None = None,
    longest: float = LONGEST,
) -> Ended:
    """Run a function in a child, and wait for it.

    Args:
        log: file that its output is appended to.
        tally: counts events in the child.
        stop: reading end of a pipe, and seconds: the child is killed so long after it writes a byte to the pipe.
    """
    tally = tally or Tally()
    result, report = os.pipe()
    start = time.monotonic()
    gc.freeze()  # else collecting the parent's garbage would copy its pages
    child = os.fork()
    if child == 0:
        os.close(result)
        _be_the_child(work, log, report)
    os.close(report)
    how, content = _wait(child, result, start + longest, stop)
    os.close(result)
    _kill_group(child)
    _, status = os.waitpid(child, 0)
    counted = dict(zip(("events", "steps", "safe"), tally.read(), strict=True))
    seconds = time.monotonic() - start
    if how == "hung":
        return Ended("hung", f"no end after {longest:.0f} s", **counted, seconds=seconds)
    if content:
        how, text, value = pickle.loads(content)
        return Ended(how, text, value, **counted, seconds=seconds)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return Ended("killed", **counted, seconds=seconds)
    return Ended("failed", f"the process died with status {status}", **counted, seconds=seconds)


def kill_self() -> None:
    """SIGKILL for this child and the processes that it started."""
    os.killpg(0, signal.SIGKILL)


def _be_the_child(work: Callable[[], Any], log: Path, report: int) -> None:
    os.setsid()
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    try:
        ended = ("done", "", work())
    except UserError as error:
        ended = ("refused", str(error), None)
    except KeyboardInterrupt as error:
        ended = ("stopped", type(error).__name__, None)
    except OSError as error:  # as `run_recipe` does
        ended = ("refused", text, None) if (text := refusal(error)) else ("failed", traceback.format_exc(), None)
    except BaseException:  # whatever it is, the parent must hear of it
        ended = ("failed", traceback.format_exc(), None)
    try:
        content = pickle.dumps(ended)
    except Exception:
        content = pickle.dumps((*ended[:2], None))
    with os.fdopen(report, "wb") as file:
        file.write(content)
    os._exit(0)


def _wait(child: int, result: int, until: float, stop: tuple[Any, float] | None) -> tuple[str, bytes]:
    """Read what the child reports until it ends; kill it if it is told to, or too slow."""
    content = b""
    pipes = [result] + ([stop[0]] if stop else [])
    while (left := until - time.monotonic()) > 0:
        ready, _, _ = select.select(pipes, [], [], left)
        if stop and stop[0] in ready:
            pipes.remove(stop[0])
            time.sleep(stop[1])
            _kill_group(child)
        elif result in ready:
            part = os.read(result, 1 << 20)
            content += part
            if not part:
                return "", content
    return "hung", content


def _kill_group(child: int) -> None:
    try:
        os.killpg(child, signal.SIGKILL)
    except ProcessLookupError:  # it has ended, or is not yet the leader of its group
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
