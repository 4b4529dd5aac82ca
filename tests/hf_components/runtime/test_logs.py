"""Logging and the way a recipe ends: 0, one line and 2, or 130."""

import logging
import os
import subprocess
import sys

import psutil
import pytest
from paths import ROOT

from hf_components.runtime.errors import UserError
from hf_components.runtime.logs import run_recipe, set_up_logging

pytestmark = pytest.mark.unit


@pytest.fixture(autouse=True)
def restore_root_logger():
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    for handler in root.handlers:
        if handler not in handlers:
            handler.close()
    root.handlers[:], root.level = handlers, level


def test_log_file_is_made_and_appended_to(tmp_path):
    path = tmp_path / "runs" / "log.txt"
    for word in ("first", "second"):
        set_up_logging(path)
        logging.getLogger("recipe").info(word)
    lines = path.read_text().splitlines()
    assert [line.split(": ")[-1] for line in lines] == ["first", "second"]


def test_log_file_that_cannot_be_written_is_a_users_mistake(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="log_file"):
        set_up_logging(tmp_path / "file" / "log.txt")


def test_unknown_level_is_a_users_mistake(monkeypatch):
    monkeypatch.setenv("UNDERHEARD_LOG_LEVEL", "loud")
    with pytest.raises(UserError, match="UNDERHEARD_LOG_LEVEL.*LOUD"):
        set_up_logging()


def test_later_processes_log_warnings_only(monkeypatch, tmp_path):
    monkeypatch.setenv("RANK", "1")
    set_up_logging(tmp_path / "log.txt")
    assert logging.getLogger().level == logging.WARNING
    assert not (tmp_path / "log.txt").exists()


def test_users_mistake_is_one_line_and_exit_2(capsys):
    def main(argv):
        raise UserError("corpus must exist, got /nowhere")

    with pytest.raises(SystemExit) as stop:
        run_recipe(main)
    assert stop.value.code == 2
    assert capsys.readouterr().err == "error: corpus must exist, got /nowhere\n"


def test_interruption_is_exit_130(capsys):
    def main(argv):
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as stop:
        run_recipe(main)
    assert stop.value.code == 130
    assert "--resume" in capsys.readouterr().err


def test_bug_keeps_its_traceback():
    def main(argv):
        raise KeyError("a bug of ours")

    with pytest.raises(KeyError):
        run_recipe(main)


def test_success_returns():
    run_recipe(lambda argv: {"wer": 0.1})


CHILD = """
import sys, time
from hf_components.runtime.logs import run_recipe
def main(argv):
    print("started", flush=True)
    time.sleep(60)
run_recipe(main)
"""
# It starts the recipe as `accelerate launch` does, and is killed.
LAUNCHER = "import subprocess, sys; subprocess.Popen([sys.executable, sys.argv[1]]).wait()"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent has ended")
@pytest.mark.parametrize(("name", "ends"), [("as_accelerate", True), ("as_a_shell", False)])
def test_a_recipe_ends_with_its_launcher_but_not_with_a_shell(tmp_path, name, ends):
    recipe = tmp_path / "recipe.py"
    launcher = tmp_path / f"{name}.py"
    recipe.write_text(CHILD)
    launcher.write_text(LAUNCHER)
    process = subprocess.Popen(
        [sys.executable, launcher, recipe],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout.readline() == "started\n"
    (child,) = psutil.Process(process.pid).children()
    process.terminate()
    process.wait()
    gone, alive = psutil.wait_procs([child], timeout=9 if ends else 1)
    for left in alive:
        left.kill()
    assert bool(gone) == ends
