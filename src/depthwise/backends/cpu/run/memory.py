"""Memory for results and for scratch."""

from __future__ import annotations

import ctypes
import mmap
import sys
import threading
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..machine import FLOAT_BYTES

MIB = 2**20
# Named at every allocation: the default may be another one (torch.set_default_device).
CPU = torch.device("cpu")
# glibc maps larger blocks anew each time; smaller ones may come from memory used before.
LEAST_HUGE_BYTES = 32 * MIB
# A larger buffer is asked of torch anew at each call, rather than kept for every thread that ever called.
MOST_KEPT_BYTES = 64 * MIB
PAGE_BYTES = 4096
HUGE_PAGE_BYTES = 2 * MIB
_MADV_DONTNEED, _MADV_HUGEPAGE = 4, 14
# Whether memory is mapped here, and huge pages are asked for.
MAPS = sys.platform == "linux"

# new_result(size, stride, dtype), what torch's own generated code calls: `torch.empty_strided` reads its arguments in
# 1 us more.
new_result: Callable[[tuple[int, ...], tuple[int, ...], torch.dtype], Tensor] = (
    torch._C._dynamo.guards._empty_strided_cpu  # type: ignore[attr-defined]
)

_buffers = threading.local()


class Buffer(NamedTuple):
    """`size` bytes at an address, there as long as `tensor` is."""

    size: int
    address: int
    tensor: Tensor | None


_NO_BUFFER = Buffer(0, 0, None)


def ask_for_huge_pages(out: Tensor, size: int) -> None:
    """For the `size` bytes of a new result, where the system has them.

    The first touch of every small page costs more than writing it.
    """
    advise = _advise()
    if advise is not None:
        start = -(-out.data_ptr() // PAGE_BYTES) * PAGE_BYTES
        advise(start, (out.data_ptr() + size - start) // PAGE_BYTES * PAGE_BYTES, _MADV_HUGEPAGE)


def scratch(size: int) -> Buffer:
    """At least `size` bytes for one call of this thread: kept, and grown where they are too few."""
    if size > MOST_KEPT_BYTES:
        return _buffer(size)
    kept: Buffer = getattr(_buffers, "scratch", _NO_BUFFER)
    if kept.size < size:
        kept = _buffers.scratch = _buffer(size)
    return kept


def _buffer(size: int) -> Buffer:
    tensor = torch.empty(size, dtype=torch.uint8, device=CPU)
    if size >= LEAST_HUGE_BYTES:
        ask_for_huge_pages(tensor, size)
    return Buffer(size, tensor.data_ptr(), tensor)


class Mapping(NamedTuple):
    """`size` bytes of `held` from `start` on, at an address where a huge page begins."""

    held: mmap.mmap
    start: int
    address: int
    size: int


def mapped(size: int) -> Mapping:
    """So many bytes of new memory, in huge pages where the system has them; only where `MAPS`."""
    # Of its own, and not of memory that was in use before, whose small pages would stay.
    held = mmap.mmap(-1, size + HUGE_PAGE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    address = ctypes.addressof(ctypes.c_char.from_buffer(held))
    start = -address % HUGE_PAGE_BYTES
    advise = _advise()
    if advise is not None:
        advise(address + start, size // PAGE_BYTES * PAGE_BYTES, _MADV_HUGEPAGE)
    return Mapping(held, start, address + start, size)


def give_back(start: int, stop: int) -> None:
    """Let the system take the pages between two addresses, which hold nothing; they are zeros when they are read."""
    advise, start = _advise(), -(-start // PAGE_BYTES) * PAGE_BYTES
    if advise is not None and start < stop:
        advise(start, (stop - start) // PAGE_BYTES * PAGE_BYTES, _MADV_DONTNEED)


def lasting(elements: int) -> Tensor | None:
    """Memory for so many numbers that stay, in huge pages; None where the system is not asked for them.

    Weights are read once in a call, from far away: the address of every small page would have to be looked up.
    """
    if not MAPS:
        return None
    found = mapped(-(-elements * FLOAT_BYTES // HUGE_PAGE_BYTES) * HUGE_PAGE_BYTES)
    return torch.frombuffer(found.held, dtype=torch.float32, count=elements, offset=found.start)


def zeros(elements: int) -> Tensor:
    """At least so many zeros to read from: of each power of two one tensor is kept, up to plan.filters.MOST_ZEROS."""
    return _zeros(1 << elements.bit_length())


@cache
def _zeros(elements: int) -> Tensor:
    return torch.zeros(elements, dtype=torch.float32, device=CPU)


@cache
def _advise() -> Callable[[int, int, int], int] | None:
    """madvise(address, bytes, advice) of Linux. It is a hint: what it answers does not matter."""
    if not MAPS:
        return None
    found: Any = ctypes.CDLL(None).madvise
    found.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return found  # type: ignore[no-any-return]
