"""What one core, or all, can do at most: measured with generated loops, to be compared with in the same run."""

from __future__ import annotations

import ctypes
import statistics
import time
from collections.abc import Callable
from functools import reduce

import torch

from ..weights import NO_PRINTS
from . import jit, threads
from .driver import RUNTIME_FUNCTIONS, RUNTIME_SLOTS, write_module
from .ir import Block, Int, Vec
from .launch import machine
from .machine import FLOAT_BYTES

SLOTS = (*RUNTIME_SLOTS, "turns", "memory")
# Each thread reads and writes memory of its own, well inside L1.
_VECTORS = 64
# Long enough that starting a region counts for nothing: about half a millisecond.
_TURNS = 50_000


def fma_gflops(threads_asked: int, seconds: float = 0.2) -> float:
    """10^9 float32 operations a second, two to a fused multiply-add, of threads that do nothing else."""
    target = machine()
    # Enough independent sums to cover the latency of the multiply-adds, and not more than there are registers.
    sums = target.vector_registers - 4

    def body(_: Block, __: Int, vectors: list[Vec]) -> list[Vec]:
        *vectors, factor, term = vectors
        return [*(vector.fma(factor, term) for vector in vectors), factor, term]

    operations = 2 * sums * target.vector_lanes
    return _rate("fma", body, sums + 2, operations, threads_asked, seconds)


def load_gbytes(threads_asked: int, seconds: float = 0.2) -> float:
    """10^9 bytes a second that `threads_asked` threads load from L1."""
    lanes = machine().vector_lanes

    def body(e: Block, offset: Int, vectors: list[Vec]) -> list[Vec]:
        loaded = [(e.pointer("memory") + (offset + i * lanes)).load(lanes) for i in range(_VECTORS)]
        return [reduce(Vec.__add__, loaded[i :: len(vectors)], vector) for i, vector in enumerate(vectors)]

    return _rate("load", body, 8, _VECTORS * lanes * FLOAT_BYTES, threads_asked, seconds)


def store_gbytes(threads_asked: int, seconds: float = 0.2) -> float:
    """10^9 bytes a second that `threads_asked` threads store to L1."""
    lanes = machine().vector_lanes

    def body(e: Block, offset: Int, vectors: list[Vec]) -> list[Vec]:
        for i in range(_VECTORS):
            (e.pointer("memory") + (offset + i * lanes)).store(vectors[0])
        return vectors

    return _rate("store", body, 1, _VECTORS * lanes * FLOAT_BYTES, threads_asked, seconds)


_Body = Callable[[Block, Int, list[Vec]], list[Vec]]


def _rate(name: str, body: _Body, sums: int, work: int, threads_asked: int, seconds: float) -> float:
    """10^9 units of `work` a second; the median of repeated runs, `work` being done once a turn on each thread."""
    target = machine()

    def stage(e: Block, thread: Int, _: Int) -> None:
        own = thread * (_VECTORS * target.vector_lanes)
        first = [e.constant(1 / (i + 1), target.vector_lanes) for i in range(sums)]
        with e.loop(0, e.number("turns"), carried=first) as turn:
            turn.values = body(e, own, turn.values)
        # All of them count: what is not stored would not be computed.
        (e.pointer("memory") + own).store(reduce(Vec.__add__, turn.values))

    code = jit.load(f"peak_{name}", target, lambda: write_module(f"peak_{name}", SLOTS, [stage]))
    memory = torch.zeros(threads_asked * _VECTORS * target.vector_lanes)
    runtime = threads.runtime()
    functions = runtime.addresses if runtime else (0,) * len(RUNTIME_FUNCTIONS)
    slots = (ctypes.c_int64 * len(SLOTS))(*functions, threads_asked, _TURNS, memory.data_ptr())
    serial, parallel = (threads.ENTRY(code.address(name)) for name in ("serial", "parallel"))
    took: list[float] = []
    until = time.perf_counter() + seconds
    while time.perf_counter() < until or len(took) < 3:
        start = time.perf_counter()
        threads.launch(serial, parallel, ctypes.addressof(slots), NO_PRINTS.address, threads_asked)
        took.append(time.perf_counter() - start)
    return work * _TURNS * threads_asked / statistics.median(took) * 1e-9
