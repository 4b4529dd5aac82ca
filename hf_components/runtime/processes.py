"""The processes that the launcher started for one run."""

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import TypeVar

from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object, parse_flag_from_env

Item = TypeVar("Item")


def join_processes() -> PartialState:
    """Join the processes that the launcher started for this run. Must come before any other use of `PartialState`."""
    # The timeout is long because the other processes wait while the main one works alone.
    return PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"), timeout=timedelta(hours=12))


def share_of(work: Sequence[Item]) -> Sequence[Item]:
    """The part of some work that this process does; every process calls this with the same work."""
    state = PartialState()
    return work[state.process_index :: state.num_processes]


def gathered(found: list[Item]) -> list[Item]:
    """What all processes have found, in every one of them."""
    return gather_object(found) if PartialState().num_processes > 1 else found


def of_main(look: Callable[[], Item]) -> Item:
    """What the main process finds. Only it looks, so that all of them decide the same even if their disks differ."""
    return broadcast_object_list([look() if PartialState().is_main_process else None])[0]
