"""How a recipe ends when it is told to: by Ctrl-C, by SIGTERM, or because its launcher has ended."""

import contextlib
import ctypes
import os
import signal
import sys
from pathlib import Path

PR_SET_PDEATHSIG = 1  # of prctl: a signal when the parent ends
IN_ORDER = 30  # seconds until a run that was stopped ends in any case


class Stopped(KeyboardInterrupt):
    """The run was told to end by the signal `number`."""

    def __init__(self, number: int):
        super().__init__()
        self.number = number


def stop_in_order() -> None:
    """Let SIGTERM and Ctrl-C raise `Stopped`: locks and temporary files go, and the run says how to continue.

    One of several processes dies at once instead: it may wait for the others, and would not notice.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        return
    owner = os.getpid()

    def stop(number: int, _) -> None:
        if os.getpid() != owner:  # a helper process, which has inherited this by a fork
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # of the launcher, which ends at the same time
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.alarm(IN_ORDER)
        raise Stopped(number)

    signal.signal(signal.SIGTERM, stop)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else the shell has taken it away: nohup, &
        signal.signal(signal.SIGINT, stop)


def end_with_the_launcher() -> None:
    """Let this process end when `accelerate launch` ends: on SIGTERM it dies and does not pass the signal on.

    Else a training would go on with nobody to stop it, and keep its GPU and the lock of its folder. Only Linux can do
    this. A recipe that was started without the launcher may outlive its shell.
    """
    if sys.platform != "linux":
        return
    launcher = os.getppid()
    with contextlib.suppress(OSError):  # it has ended, or /proc cannot be read
        if b"accelerate" in Path(f"/proc/{launcher}/cmdline").read_bytes():
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
            if os.getppid() != launcher:  # it ended before this call
                os.kill(os.getpid(), signal.SIGTERM)
