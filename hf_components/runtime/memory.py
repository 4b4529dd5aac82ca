"""How much memory is free, and what to say when that of the GPU or of the machine is full."""

import contextlib
from collections.abc import Iterator

import psutil
import torch

from hf_components.runtime.errors import UserError, causes

ON_CPU = ("can't allocate memory", "not enough memory")  # of torch's allocator for the CPU, a `RuntimeError`


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
