"""Progress: a bar on a terminal, a line a minute in a log."""

import io
import sys

import pytest

from hf_components.runtime import progress
from hf_components.runtime.progress import Progress

pytestmark = pytest.mark.unit


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    """Time that goes on by as many seconds as are added to `clock[0]`."""
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def run(monkeypatch, stream: io.StringIO, clock: list[float], seconds: float) -> str:
    monkeypatch.setattr(sys, "stderr", stream)
    with Progress(total=10, desc="counting", file=stream, mininterval=0, delay=0) as bar:
        for _ in range(10):
            clock[0] += seconds
            bar.update()
            bar.set_postfix(loss=1)
    return stream.getvalue()


def test_a_log_gets_a_line_a_minute_and_one_at_the_end(monkeypatch, clock):
    written = run(monkeypatch, io.StringIO(), clock, 25.0)
    lines = written.splitlines()
    assert len(lines) == 4 and "\r" not in written
    assert all(line.startswith("counting: ") for line in lines) and "10/10" in lines[-1]


@pytest.mark.parametrize(("seconds", "lines"), [(0.05, 0), (0.2, 1)])
def test_a_short_step_is_one_line_and_a_very_short_one_none(monkeypatch, clock, seconds, lines):
    assert len(run(monkeypatch, io.StringIO(), clock, seconds).splitlines()) == lines


def test_a_terminal_gets_a_bar(monkeypatch, clock):
    written = run(monkeypatch, Terminal(), clock, 25.0)
    assert written.count("\r") > 10 and written.count("\n") == 1


def test_a_disabled_bar_is_silent(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    assert list(Progress(range(3), disable=True)) == [0, 1, 2]
    assert stream.getvalue() == ""
