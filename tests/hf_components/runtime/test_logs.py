"""Logging and the way a recipe ends: 0, one line and 2, or 130."""

import io
import logging
import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass

import psutil
import pytest
from paths import ROOT
from rich.table import Table

from hf_components.reporting import show
from hf_components.runtime.arguments import parse_arguments
from hf_components.runtime.errors import UserError
from hf_components.runtime.flags import flag
from hf_components.runtime.logs import run_recipe, set_up_logging
from hf_components.runtime.recipe_arguments import LogArguments

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
    assert "the same command again" in capsys.readouterr().err


def test_bug_keeps_its_traceback():
    def main(argv):
        raise KeyError("a bug of ours")

    with pytest.raises(KeyError):
        run_recipe(main)


def test_a_terminal_that_has_not_all_letters_shows_the_result(monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="latin-1"))

    def main(argv):
        table = Table("text")
        table.add_row("\u00e9 \u0259" * 200)
        show(table)
        return {}

    run_recipe(main)
    sys.stdout.flush()
    assert b"\xe9 \\u0259" in written.getvalue()


def test_success_returns():
    run_recipe(lambda argv: {"wer": 0.1})


@dataclass
class Arguments(LogArguments):
    count: int = flag("how many", default=1, min=1)


def test_what_a_quantiser_says_when_it_is_imported_is_not_shown(caplog):
    logger = logging.getLogger("bitsandbytes.backends.cpu.ops")
    logger.warning("Failed to load CPU gemm_4bit_forward from kernels-community: %s.", "no module")
    logger.warning("another warning")
    assert caplog.messages == ["another warning"]


@pytest.mark.integration
def test_nothing_is_said_before_a_recipe_starts():
    recipes = sorted((ROOT / "recipes").glob("*.py"))
    before = {
        line
        for recipe in recipes
        for line in recipe.read_text().split("\nfrom hf_components", 1)[0].splitlines()
        if re.match(r"(from|import) (?!dataset_scripts|hf_components)\w", line) and not line.endswith("(")
    }
    assert len(before) > 10
    code = "\n".join([*sorted(before), "import sys; assert 'peft' not in sys.modules, 'it comes before our filter'"])
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    helped = [sys.executable, "recipes/finetune_whisper.py", "--help"]
    for command in ([sys.executable, "-c", code], helped):
        run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        assert (run.returncode, run.stderr) == (0, "")


@pytest.mark.parametrize(
    "error", [UserError("speakers.json, line 3: not JSON"), KeyError("a bug"), KeyboardInterrupt()]
)
def test_what_ended_a_run_is_in_its_log_file_with_the_date(tmp_path, monkeypatch, error):
    file = tmp_path / "log.txt"

    def main(argv):
        parse_arguments(Arguments, [f"--log_file={file}"])
        raise error

    with pytest.raises((SystemExit, KeyError)):
        run_recipe(main)
    text = file.read_text()
    assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ERROR", text)
    assert (str(error) or "interrupted") in text and ("Traceback" in text) == isinstance(error, KeyError)


@pytest.mark.parametrize("words", [["--count=0"], ["--cuont=1"], ["--config=/no/where.yaml"]])
def test_a_mistake_in_the_flags_is_in_the_log_file_too(tmp_path, words):
    file = tmp_path / "log.txt"
    with pytest.raises(SystemExit):
        run_recipe(lambda argv: parse_arguments(Arguments, [*words, "--log-file", str(file)]))
    assert "ERROR recipe: error: " in file.read_text()


def test_tables_are_in_the_log_file(tmp_path, capsys):
    set_up_logging(tmp_path / "log.txt")
    show("rejected: 3 missing file")
    assert "rejected: 3 missing file" in (tmp_path / "log.txt").read_text()
    assert capsys.readouterr().out == "rejected: 3 missing file\n"


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


STOPPED = """
import os, signal, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # tests that run in the background inherit that it is ignored
from hf_components.runtime.logs import run_recipe
def main(argv):
    helper = os.fork()
    if helper == 0:
        print(os.getpid(), flush=True)
        time.sleep(60)
        os._exit(0)
    try:
        print(os.waitstatus_to_exitcode(os.waitpid(helper, 0)[1]), flush=True)
        time.sleep(60)
    finally:
        os.kill(os.getpid(), 15)  # as that of a launcher which ends too
        print("cleared away", flush=True)
run_recipe(main)
"""


@pytest.mark.parametrize(("number", "what", "code"), [(signal.SIGTERM, "terminated", 143), (2, "interrupted", 130)])
def test_a_run_that_is_stopped_clears_away_and_a_helper_dies_at_once(number, what, code):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-c", STOPPED],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**environment, "WORLD_SIZE": "1"},
    )
    os.kill(int(process.stdout.readline()), signal.SIGTERM)
    assert process.stdout.readline() == "-15\n"
    process.send_signal(number)
    output, errors = process.communicate(timeout=60)
    assert output == "cleared away\n"
    assert errors.splitlines()[-1] == f"{what}; run the same command again to continue" and "Traceback" not in errors
    assert process.returncode == code
