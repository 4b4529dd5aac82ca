"""Logging of all recipes, and their entry point, which prints a user's mistake as one line."""

import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import transformers

from hf_components.runtime.disk import refusal
from hf_components.runtime.errors import UserError
from hf_components.runtime.files import visible
from hf_components.runtime.launcher import check_processes, end_with_the_launcher
from hf_components.runtime.memory import is_want_of_memory, return_freed_memory
from hf_components.runtime.signals import Stopped, stop_in_order

FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
DATE = "%Y-%m-%d %H:%M:%S"  # in a file, which is read days later
QUIET = (
    "accelerate",
    "httpx",
    "httpx2",
    "httpcore2",
    "urllib3",
    "matplotlib",
    "fsspec",
    "numba",
    "absl",
    "torchcodec",
)


class VisibleFormatter(logging.Formatter):
    """Escapes what would move the cursor, colour the terminal, or pass for another line of the log.

    Line ends stay only where the code writes them, in messages and tracebacks, and not in what is put into a message:
    ids, speakers and names of files may be somebody else's.
    """

    def format(self, record: logging.LogRecord) -> str:
        copy = logging.makeLogRecord(vars(record))
        if isinstance(record.args, tuple):
            copy.args = tuple(map(_visible_argument, record.args))
        elif isinstance(record.args, dict):
            copy.args = {name: _visible_argument(value) for name, value in record.args.items()}
        return visible(super().format(copy), keep="\n\t")


def _visible_argument(value: Any) -> Any:
    holds_text = isinstance(value, str | os.PathLike | BaseException | list | tuple | set | dict)
    return visible(value) if holds_text else value


def set_up_logging(log_file: str | Path | None = None) -> None:
    """Log to standard error and, if given, append to `log_file`; processes other than the main one log warnings only.

    `UNDERHEARD_LOG_LEVEL` (default INFO) sets the level. Raises UserError if the level is unknown or the file cannot
    be written.
    """
    is_main = int(os.environ.get("RANK", "0")) == 0  # accelerate and torchrun set it
    level = os.environ.get("UNDERHEARD_LOG_LEVEL", "INFO").upper() if is_main else "WARNING"
    if level not in logging.getLevelNamesMapping():
        raise UserError(f"UNDERHEARD_LOG_LEVEL must be DEBUG, INFO, WARNING or ERROR, got {level}")
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    if log_file is not None and is_main:
        try:
            Path(log_file).parent.mkdir(parents=True, exist_ok=True)
            handlers.append(logging.FileHandler(log_file, encoding="utf-8"))
        except OSError as error:
            raise UserError(f"cannot write --log_file {log_file}: {error.strerror}; choose another") from error
    for handler, date in zip(handlers, ("%H:%M:%S", DATE), strict=False):
        handler.setFormatter(VisibleFormatter(FORMAT, datefmt=date))
    logging.basicConfig(level=level, handlers=handlers, force=True)
    if "TRANSFORMERS_VERBOSITY" not in os.environ:
        # Whisper's `generate` calls itself with arguments that transformers warns about in every batch.
        transformers.logging.set_verbosity_error()
    if not sys.stderr.isatty():  # a log file would get one line for every state of a bar
        transformers.logging.disable_progress_bar()
        datasets.disable_progress_bars()
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)


def run_recipe(main: Callable[[list[str] | None], dict]) -> None:
    """Run a recipe's `main` as a program: exit 0, or print the `UserError` and exit 2.

    What ended the run is also written to its `--log_file`. A result may say by `exit_status` that not all is well.
    """
    sys.stdout.reconfigure(errors="backslashreplace")  # of a terminal that has not all letters, as stderr is
    end_with_the_launcher()
    try:
        check_processes()
        return_freed_memory()
        stop_in_order()
        result = main(None)
    except UserError as error:
        print(f"error: {visible(error)}", file=sys.stderr)
        if error.details:
            print(visible(error.details, keep="\n\t"), file=sys.stderr)
        write_to_file(f"error: {visible(error)}", logging.ERROR)
        sys.exit(2)
    except KeyboardInterrupt as error:
        what = "terminated" if isinstance(error, Stopped) and error.number == signal.SIGTERM else "interrupted"
        print(f"{what}; run the same command again to continue", file=sys.stderr)
        write_to_file(what, logging.ERROR)
        sys.exit(128 + (signal.SIGTERM if what == "terminated" else signal.SIGINT))
    except Exception as error:
        text = f"error: {visible(of_disk)}" if (of_disk := refusal(error)) else None
        if is_want_of_memory(error):
            text = f"error: out of memory: {error}".splitlines()[0]
            text += "; take smaller batches, see docs/troubleshooting.md"
        if text:
            print(text, file=sys.stderr)
            write_to_file(text, logging.ERROR)
            sys.exit(2)
        write_to_file(traceback.format_exc(), logging.ERROR)
        raise
    if status := result.get("exit_status"):
        sys.exit(status)


def write_to_file(text: str, level: int = logging.INFO) -> None:
    """Write to the log file alone, if there is one, what is shown on the terminal by other means."""
    record = logging.LogRecord("recipe", level, __file__, 0, text, None, None)
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.FileHandler):
            handler.handle(record)
