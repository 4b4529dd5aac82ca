"""Memory that is full is a message with a remedy, and what is free is known."""

import ctypes
import os
from types import SimpleNamespace

import pytest
import torch

from hf_components.runtime import memory
from hf_components.runtime.errors import UserError
from hf_components.runtime.logs import run_recipe
from hf_components.runtime.memory import free_memory, full_memory_explained, return_freed_memory

pytestmark = pytest.mark.unit

FULL = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore"),
    MemoryError(),
    RuntimeError("[enforce fail at alloc_cpu.cpp:114] DefaultCPUAllocator: can't allocate memory: you tried"),
]


@pytest.mark.parametrize("error", FULL)
def test_it_says_what_takes_less(error):
    with (
        pytest.raises(UserError, match="out of memory: .*; a smaller --batch_size; docs/troubleshooting.md"),
        full_memory_explained("a smaller --batch_size"),
    ):
        raise error


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), UserError("a mistake")])
def test_other_errors_stay_what_they_are(error):
    with pytest.raises(type(error), match=str(error)), full_memory_explained("less"):
        raise error


@pytest.mark.parametrize("error", FULL)
def test_any_recipe_ends_with_one_line(error, capsys):
    def main(argv):
        raise error

    with pytest.raises(SystemExit) as stop:
        run_recipe(main)
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith("error: out of memory") and "\n" not in capsys.readouterr().err[:-1]


def test_free_memory(monkeypatch):
    monkeypatch.setattr(memory.psutil, "virtual_memory", lambda: SimpleNamespace(available=5))
    assert free_memory(torch.device("cpu")) == 5
    kept = {"mem_get_info": (100, 1000), "memory_reserved": 30, "memory_allocated": 10}
    for name, value in kept.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
    assert free_memory(torch.device("cuda")) == 120  # what torch keeps for later is free, too


def test_freed_memory_is_returned_unless_somebody_has_decided(monkeypatch):
    for name in [name for name in os.environ if name.startswith(("MALLOC_", "GLIBC_TUNABLES"))]:
        monkeypatch.delenv(name)
    settings = {}
    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace(mallopt=settings.__setitem__))
    return_freed_memory()
    assert settings == {-3: 8 * 2**20, -1: 256 * 2**20}  # M_MMAP_THRESHOLD and M_TRIM_THRESHOLD of malloc.h
    settings.clear()
    monkeypatch.setenv("MALLOC_ARENA_MAX", "2")
    return_freed_memory()
    assert not settings
    monkeypatch.delenv("MALLOC_ARENA_MAX")
    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace())  # another C library
    return_freed_memory()
