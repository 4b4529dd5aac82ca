"""Estimate the time and the disk space that a step needs, once its first part is done."""

import importlib
import importlib.util
import logging
import shutil
import sys
from pathlib import Path

import psutil
from accelerate import PartialState

logger = logging.getLogger(__name__)


def estimate_rest(
    step: str, folder: str | Path, *, done: float, total: float, seconds: float, bytes_written: int = 0
) -> tuple[float, int]:
    """Print how long the rest of a step will take at the same speed, and warn if the disk is too small for it.

    Args:
        step: name for the message, such as "segmenting".
        folder: existing folder on the disk that is written to.
        done: finished work, in any unit, such as seconds of audio or batches.
        total: all of the work, in the same unit.
        seconds: time that `done` took.
        bytes_written: bytes that `done` left on the disk.
    Returns:
        seconds and bytes that the rest needs.
    """
    share = (total - done) / done
    seconds_left = seconds * share
    bytes_left = round(bytes_written * share)
    free = shutil.disk_usage(folder).free
    room = f" and {_size(bytes_left)} of the {_size(free)} that the disk has left" if bytes_written else ""
    PartialState().print(
        f"Estimated rest of {step}: ~{seconds_left / 60:.1f} minutes{room} (measured on the first {done / total:.1%})",
        file=sys.stderr,
    )
    warn_of_full_disk(step, folder, bytes_left, "stop and choose another --output_dir")
    return seconds_left, bytes_left


def warn_of_full_disk(step: str, folder: str | Path, needed: int, advice: str) -> None:
    """Warn if the disk of a folder has less than `needed` bytes left. `advice` is the alternative to freeing space."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        text = "%s needs about %s more, and the disk of %s has %s left: free some space, or %s"
        logger.warning(text, step, _size(needed), folder, _size(free), advice)


def _size(count: float) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"


def peak_memory_gib() -> float:
    """Peak memory of this process in GiB; on Windows, which keeps no such record, its current memory."""
    if importlib.util.find_spec("resource") is None:
        return psutil.Process().memory_info().rss / 2**30
    resource = importlib.import_module("resource")
    unit = 1 if sys.platform == "darwin" else 2**10  # bytes on macOS, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
