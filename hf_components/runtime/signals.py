"""How a recipe ends when it is told to: by Ctrl-C or by SIGTERM."""

import os
import signal

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
