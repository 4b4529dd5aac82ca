"""The processes that the launcher started for one run."""

from datetime import timedelta

from accelerate import PartialState
from accelerate.utils import parse_flag_from_env


def join_processes() -> PartialState:
    """Join the processes that the launcher started for this run. Must come before any other use of `PartialState`."""
    # The timeout is long because the other processes wait while the main one works alone.
    return PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"), timeout=timedelta(hours=12))
