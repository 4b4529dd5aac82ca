"""`accelerate launch`, by which this process was started: how it is repeated, and that both end together."""

import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from accelerate import PartialState

from hf_components.runtime.errors import UserError

NUMBERS_OF_PROCESSES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_PORT")
PR_SET_PDEATHSIG = 1  # of prctl: a signal when the parent ends
LAUNCH = ("accelerate", "launch", "--quiet")  # without --quiet it adds its own traceback to every error message


def launch_words(script: str | None = None, of_launcher: Sequence[str] | None = None) -> list[str]:
    """The words that start a recipe in front of its file, as this one was started.

    Where that cannot be read, or no launcher was used, they are for one process on this machine.

    Args:
        script: file of this recipe as it was given to the launcher; that of this process if None.
        of_launcher: words of the launcher's command line; those of the parent process if None.
    """
    script = sys.argv[0] if script is None else script
    words = list(_words_of(os.getppid()) if of_launcher is None else of_launcher)
    if "launch" in words and script in words:
        options = words[words.index("launch") + 1 : words.index(script)]
        return [*LAUNCH, *(word for word in options if word not in ("--quiet", "-q"))]
    file = "cpu" if PartialState().device.type == "cpu" else "single_gpu"
    return [*LAUNCH, "--config_file", f"accelerate_configs/{file}.yaml"]


def check_processes() -> None:
    """Raise UserError if a variable that numbers the processes of a run has no number, as one left in a shell may."""
    for name in NUMBERS_OF_PROCESSES:
        try:
            int(os.environ.get(name, "0"))
        except ValueError as error:
            raise UserError(
                f"{name} must be a whole number, got {os.environ[name]!r}; a launcher sets this variable: unset "
                "it, and start the recipe by accelerate launch"
            ) from error


def end_with_the_launcher() -> None:
    """Let this process end when `accelerate launch` ends: on SIGTERM it dies and does not pass the signal on.

    Else a training would go on with nobody to stop it, and keep its GPU and the lock of its folder. Only Linux can do
    this. A recipe that was started without the launcher may outlive its shell.
    """
    launcher = os.getppid()
    if any("accelerate" in word for word in _words_of(launcher)):
        with contextlib.suppress(OSError):
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
            if os.getppid() != launcher:  # it ended before this call
                os.kill(os.getpid(), signal.SIGTERM)


def _words_of(process: int) -> list[str]:
    """The command line of a process; none where the system is not Linux, or the process has ended."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
    return []
