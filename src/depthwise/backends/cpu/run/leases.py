"""Memory that large tensors of a training step are in, one after another.

The system zeroes every page of new memory at its first touch, which takes longer than writing it, and what a step
frees the C library gives back to it.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections import deque
from functools import lru_cache
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..machine import FLOAT_BYTES
from . import memory
from .ranges import Range, Ranges

# Smaller tensors the C library puts where others were.
LEAST_BYTES = memory.MIB
# Memory is asked of the system in pieces of at least so much, each as large as all before: none of it is there before
# it is written.
_LEAST_MAPPED_BYTES = 64 * memory.MIB
# What lies between two blocks, which so begin in different sets of the caches.
LINE_BYTES, APART_BYTES = 64, 4096 + 5 * 64
# What is free is in pieces: of the most that was in use, so many parts more may be there.
_SPARE = 16
# Of the most that was in use at once, what was before twice so many leases is forgotten.
_LEASES = 4096


class Block(NamedTuple):
    """Bytes at an address, there as long as `held` is."""

    start: int
    stop: int
    held: list[memory.Mapping]


class Leases:
    """Blocks of memory, in use and free, together hardly more than were lately in use at once."""

    def __init__(self) -> None:
        # A signal's handler may come, and want memory or fork, while the thread that it interrupts holds it.
        self._lock: Any = threading.RLock()
        self._mapped: list[memory.Mapping] = []
        # Free: what holds memory, and what would have to be zeroed by the system first.
        self._warm, self._cold = Ranges(), Ranges()
        # Whatever frees a tensor may do it anywhere, while the lock is held too: it leaves the block here.
        self._returned: deque[Block] = deque()
        self._used = self._most = self._most_before = self._count = self._mapped_bytes = 0

    def new(self, size: tuple[int, ...], strides: tuple[int, ...]) -> Tensor:
        """A dense float32 tensor without values, whose memory is used again when nothing refers to it."""
        if self._lock._is_owned():
            return memory.new_result(size, strides, torch.float32)
        count = prod(size)
        block, returned = self._take(count * FLOAT_BYTES)
        lease = _lease_of(count * FLOAT_BYTES).from_address(block.start)
        lease.block, lease.returned = block, returned
        # In place: no view of another tensor, as results may be changed in place.
        return torch.frombuffer(lease, dtype=torch.float32, count=count).as_strided_(size, strides)

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
        """In use, and free in memory."""
        with self._lock:
            self._collect()
            return self._used, self._warm.size

    def _take(self, size: int) -> tuple[Block, deque[Block]]:
        """A block, and where it goes when it is free."""
        size = -(-size // LINE_BYTES) * LINE_BYTES + APART_BYTES
        with self._lock:
            try:
                self._collect()
                self._count += 1
                if self._count % _LEASES == 0:
                    self._most, self._most_before = self._used, self._most
                start = self._warm.take(size)
                if start is None:
                    start = self._taken_cold(size)
                self._used += size
                self._most = max(self._most, self._used)
                most = max(self._most, self._most_before)
                self._drop(most + most // _SPARE)
                return Block(start, start + size, self._mapped), self._returned
            except BaseException:
                self._forget()
                raise

    def _forget(self) -> None:
        """Begin anew: an interrupt may have left half a change. What is in use holds its memory itself."""
        self._mapped, self._mapped_bytes, self._returned = [], 0, deque()
        self._warm, self._cold = Ranges(), Ranges()
        self._used = self._most = self._most_before = 0

    def _taken_cold(self, size: int) -> int:
        start = self._cold.take(size)
        while start is None:
            new = _mapped(size, max(size, _LEAST_MAPPED_BYTES, self._mapped_bytes))
            self._mapped.append(new)
            self._mapped_bytes += new.size
            self._cold.add(new.address, new.address + new.size, 0)
            start = self._cold.take(size)
        return start

    def _drop(self, most: int) -> None:
        """Give back what was free the longest, until no more than `most` is used and kept."""
        # In whole huge pages where that is enough, so that those around stay such.
        for unit in (memory.HUGE_PAGE_BYTES, memory.PAGE_BYTES):
            if self._used + self._warm.size <= most:
                return
            for each in self._warm.by_age():
                excess = -(-(self._used + self._warm.size - most) // unit) * unit
                stop = each.stop // unit * unit
                start = max(-(-each.start // unit) * unit, stop - excess)
                if start < stop:
                    self._cooled(each, start, stop)

    def _cooled(self, each: Range, start: int, stop: int) -> None:
        memory.give_back(start, stop)
        self._warm.take_out(each, start, stop)
        self._cold.add(start, stop, 0)

    def _emptied(self) -> None:
        try:
            self._collect()
            if not self._used:
                self._forget()
            for each in self._warm.by_age():
                self._cooled(each, each.start, each.stop)
            self._most, self._most_before = self._used, 0
        except BaseException:
            self._forget()
            raise

    def _collect(self) -> None:
        """What was freed is free."""
        while self._returned:
            start, stop, _ = self._returned.popleft()
            self._used -= stop - start
            # Numbers go down: of one size the latest comes first.
            self._warm.add(start, stop, -self._count)


def _mapped(least: int, wanted: int) -> memory.Mapping:
    try:
        return memory.mapped(wanted)
    except OSError:
        # A limit on addresses (ulimit -v).
        return memory.mapped(least)


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


def scratch(size: int) -> memory.Buffer:
    """At least `size` bytes for one call, a large one where another tensor was."""
    if size < LEAST_BYTES or not memory.MAPS:
        return memory.scratch(size)
    tensor = _leases.new((-(-size // FLOAT_BYTES),), (1,))
    return memory.Buffer(size, tensor.data_ptr(), tensor)


def new_image(size: tuple[int, ...], strides: tuple[int, ...]) -> Tensor:
    """A dense float32 tensor of a training step, without values: a large one in memory that another one was in."""
    if prod(size) * FLOAT_BYTES < LEAST_BYTES or not memory.MAPS:
        return memory.new_result(size, strides, torch.float32)
    return _leases.new(size, strides)
