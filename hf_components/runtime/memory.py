"""How much memory is free, and what to say when that of the GPU or of the machine is full."""

import contextlib
import ctypes
import os
from collections.abc import Iterator

import psutil
import torch

from hf_components.runtime.errors import UserError, causes

ON_CPU = ("can't allocate memory", "not enough memory")  # of torch's allocator for the CPU, a `RuntimeError`

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of mallopt(3)


def return_freed_memory() -> None:
    """Let the C library of Linux return large blocks to the system as soon as they are freed.

    It learns to keep blocks of up to 32 MiB, for it expects more of the same size. Batches of speech have many sizes,
    and the gaps between them grow: a training of Whisper tiny took 2.6 GiB instead of 1.5, at the same speed. Blocks
    of less than 8 MiB are still kept, since returning those costs a third of the time. Whoever has set variables of
    malloc decides instead.
    """
    if any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        return
    with contextlib.suppress(OSError, AttributeError, TypeError):  # another system, or another C library
        library = ctypes.CDLL(None)
        library.mallopt(M_MMAP_THRESHOLD, 8 * 2**20)
        library.mallopt(M_TRIM_THRESHOLD, 256 * 2**20)


def free_memory(device: torch.device) -> int:
    """Bytes that are free on a GPU, with what torch keeps there for later; for the CPU, those of this machine."""
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept
    return psutil.virtual_memory().available


@contextlib.contextmanager
def full_memory_explained(advice: str) -> Iterator[None]:
    """If memory runs out, raise a `UserError` with `advice`, which says what takes less."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if not is_want_of_memory(error):
            raise
        raise UserError(
            f"out of memory: {str(error).partition(chr(10))[0]}; {advice}; docs/troubleshooting.md says more"
        ) from error


def is_want_of_memory(error: BaseException) -> bool:
    """Whether the memory of a GPU or of this machine was used up."""
    return any(
        isinstance(cause, (torch.OutOfMemoryError, MemoryError)) or any(words in str(cause) for words in ON_CPU)
        for cause in causes(error)
    )
