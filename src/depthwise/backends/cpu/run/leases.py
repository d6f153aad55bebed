"""Memory that large tensors of a training step are in, one after another.

The system zeroes every page of new memory at its first touch, which takes longer than writing it, and what a step
frees the C library gives back to it.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import threading
from bisect import bisect_left, insort
from collections import deque
from functools import lru_cache
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..machine import FLOAT_BYTES
from . import memory

# Smaller tensors the C library puts where others were.
LEAST_BYTES = memory.MIB
# Blocks begin in one of so many places, so many bytes apart: in other sets of the caches than what a kernel reads and
# writes beside them.
_PLACES, _APART_BYTES = 31, 4096 + 5 * 64
# A block may be larger than what is in it by so many parts of that.
_SPARE = 8
# Of the most that was in use at once, what was before twice so many leases is forgotten.
_LEASES = 4096


class Block(NamedTuple):
    """`size` bytes at an address, there as long as `held` is.

    number: the less, the later it was freed
    """

    size: int
    number: int
    address: int
    held: Any


class Leases:
    """Blocks of memory, in use and free, together no more than were lately in use at once."""

    def __init__(self) -> None:
        # A signal's handler may come, and want memory or fork, while the thread that it interrupts holds it.
        self._lock: Any = threading.RLock()
        # By size; of one size the latest, which may be in cache, first.
        self._free: list[Block] = []
        # Whatever frees a tensor may do it anywhere, while the lock is held too: it leaves the block here.
        self._returned: deque[Block] = deque()
        self._used = self._kept = self._most = self._most_before = self._count = 0

    def new(self, size: tuple[int, ...], strides: tuple[int, ...]) -> Tensor:
        """A dense float32 tensor without values, whose memory is used again when nothing refers to it."""
        if self._lock._is_owned():
            return memory.new_result(size, strides, torch.float32)
        count = prod(size)
        block = self._take(count * FLOAT_BYTES)
        lease = _lease_of(count * FLOAT_BYTES).from_address(block.address)
        lease.block, lease.returned = block, self._returned
        storage = torch.frombuffer(lease, dtype=torch.float32, count=count).untyped_storage()
        # Not a view of another tensor: results may be changed in place.
        return memory.new_result((0,), (1,), torch.float32).set_(storage, 0, size, strides)

    def release(self) -> None:
        """Give the memory that nothing is in back to the system."""
        if not self._lock._is_owned():
            with self._lock:
                self._emptied()

    def before_fork(self) -> None:
        """No other thread is in here, and nothing is free: its pages would be copied when they are written again."""
        is_interrupted = self._lock._is_owned()
        self._lock.acquire()
        if not is_interrupted:
            self._emptied()

    def after_fork(self) -> None:
        self._lock.release()

    @property
    def bytes(self) -> tuple[int, int]:
        """In use, and free."""
        with self._lock:
            self._collect()
            return self._used, self._kept

    def _take(self, size: int) -> Block:
        with self._lock:
            self._collect()
            self._count += 1
            if self._count % _LEASES == 0:
                self._most, self._most_before = self._used, self._most
                self._drop(max(self._most, self._most_before))
            index = bisect_left(self._free, (size,))
            if index < len(self._free) and self._free[index].size <= size + size // _SPARE:
                block = self._free.pop(index)
                self._kept -= block.size
            else:
                block = self._mapped(-(-size // mmap.PAGESIZE) * mmap.PAGESIZE)
            self._used += block.size
            self._most = max(self._most, self._used)
            return block

    def _mapped(self, size: int) -> Block:
        self._drop(max(self._most, self._most_before, self._used + size) - size)
        shift = self._count % _PLACES * _APART_BYTES
        found = memory.mapped(size + shift)
        return Block(size, 0, found.address + shift, found.held)

    def _drop(self, most: int) -> None:
        """Give back what was free the longest, until no more than `most` is used and kept."""
        while self._free and self._used + self._kept > most:
            oldest = max(range(len(self._free)), key=lambda index: self._free[index].number)
            self._kept -= self._free.pop(oldest).size

    def _emptied(self) -> None:
        self._collect()
        self._free.clear()
        self._kept, self._most, self._most_before = 0, self._used, 0

    def _collect(self) -> None:
        """What was freed is free."""
        while self._returned:
            block = self._returned.popleft()
            self._used -= block.size
            self._kept += block.size
            # Numbers go down: of one size the latest comes first.
            insort(self._free, block._replace(number=-self._count), key=lambda each: each[:2])


@lru_cache(maxsize=1024)
def _lease_of(size: int) -> Any:
    """A class of so many bytes, whose instance is gone when the last tensor in them is."""

    def gone(self: Any) -> None:
        self.returned.append(self.block)

    return type("Lease", (ctypes.c_char * size,), {"__del__": gone})


_leases = Leases()
release = _leases.release
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_leases.before_fork, after_in_parent=_leases.after_fork, after_in_child=_leases.after_fork
    )


def new_image(size: tuple[int, ...], strides: tuple[int, ...]) -> Tensor:
    """A dense float32 tensor of a training step, without values: a large one in memory that another one was in."""
    if prod(size) * FLOAT_BYTES < LEAST_BYTES or not memory.MAPS:
        return memory.new_result(size, strides, torch.float32)
    return _leases.new(size, strides)
