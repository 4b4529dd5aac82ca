"""Ctrl-C and SIGTERM through make and accelerate: all ends, nothing is left locked, and the next run goes on."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from killed_pipelines import PIPELINES
from paths import CONFIGS, ROOT

PATIENCE = 120  # seconds
BIN = Path(sys.executable).parent


def make(folder: Path, sources: list[str]) -> list[str]:
    """`make recipe-units` on tiny recordings; the environment counts as made."""
    (data,) = (word.removeprefix("--data=") for word in sources)
    return [
        *("make", "-o", f"{BIN.parent}/.installed", "recipe-units", f"VENV={BIN.parent}", f"DATA={data}"),
        *(f"CONFIG={CONFIGS / 'run_units_pipeline' / 'quick.yaml'}", f"OUTPUT={folder / 'run'}"),
        f"ARGS={' '.join(PIPELINES['units'].flags)}",
    ]


def accelerate(folder: Path, sources: list[str]) -> list[str]:
    return [
        *(f"{BIN}/accelerate", "launch", "--quiet", "--config_file", f"{ROOT}/accelerate_configs/cpu.yaml"),
        *(f"{ROOT}/recipes/run_units_pipeline.py", f"--config={CONFIGS / 'run_units_pipeline' / 'quick.yaml'}"),
        *(*sources, f"--output_dir={folder / 'run'}", *PIPELINES["units"].flags),
    ]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent has ended")
@pytest.mark.parametrize(
    ("command", "number", "whom", "message"),
    [
        (make, signal.SIGINT, os.killpg, "interrupted"),  # Ctrl-C
        (make, signal.SIGTERM, os.kill, "terminated"),  # a batch system, or a shell that is closed
        (make, signal.SIGTERM, os.killpg, "terminated"),
        (accelerate, signal.SIGTERM, os.kill, "terminated"),
    ],
)
def test_a_stopped_run_ends_clears_away_and_goes_on(tmp_path, command, number, whom, message):
    words = command(tmp_path, PIPELINES["units"].sources(tmp_path))
    log = tmp_path / "log.txt"
    started = start(words, log)
    wait_for(lambda: (tmp_path / "run" / ".units.partial").exists() or started.poll() is not None)
    assert started.poll() is None, log.read_text()
    family = psutil.Process(started.pid).children(recursive=True)
    whom(started.pid, number)
    assert started.wait(timeout=PATIENCE) != 0
    _, alive = psutil.wait_procs(family, timeout=PATIENCE)
    assert not alive
    printed = log.read_text()
    assert printed.count(f"{message}; run the same command again to continue") == 1
    assert "Traceback" not in printed
    assert not list((tmp_path / "run").glob(".*.lock"))
    assert start(words, log).wait(timeout=PATIENCE) == 0, log.read_text()
    assert f"{tmp_path / 'run' / 'segments'} is complete, skipped" in log.read_text()
    assert (tmp_path / "run" / "results.json").exists()


def start(words: list[str], log: Path) -> subprocess.Popen:
    with log.open("a") as output:
        return subprocess.Popen(
            words,
            cwd=ROOT,
            stdout=output,
            stderr=output,
            start_new_session=True,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        )


def wait_for(condition) -> None:
    until = time.monotonic() + PATIENCE
    while not condition() and time.monotonic() < until:
        time.sleep(0.05)
    assert condition()
