"""`accelerate launch` for the Makefile: at Ctrl-C it waits for the recipe, and adds no traceback of its own.

python launchers/quiet_accelerate.py launch --config_file accelerate_configs/cpu.yaml recipes/...
"""

import contextlib
import os
import sys


def main() -> None:
    try:
        from accelerate.commands.accelerate_cli import main as accelerate

        accelerate()
    except KeyboardInterrupt:
        with contextlib.suppress(ChildProcessError):  # none is left
            while True:
                os.wait()
        sys.exit(130)


if __name__ == "__main__":
    main()
