"""What one core, or all, can do at most: measured with generated loops, to be compared with in the same run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce

import torch

from ..weights import NO_PRINTS
from .emit.ir import Block, Int, Vec
from .emit.kernel import Kernel
from .launch import machine
from .machine import FLOAT_BYTES
from .plan.constants import Plan
from .plan.cut import Cut
from .plan.view import View
from .run import threads
from .run.program import Program, Stage, Table

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


@dataclass(frozen=True)
class LoopKernel(Kernel):
    """`body` turned `turns` times on `sums` vectors, on each thread beside memory of its own."""

    pointers = ("memory",)
    numbers = ("turns",)
    writes = ()

    what: str
    body: _Body
    sums: int

    @property
    def label(self) -> str:
        return f"peak_{self.what}"

    @property
    def plans(self) -> tuple[Plan, ...]:
        return ()

    def write(self, e: Block, thread: Int, threads: Int) -> None:  # noqa: ARG002  each does the same
        own = thread * (_VECTORS * self.machine.vector_lanes)
        first = [e.constant(1 / (i + 1), self.machine.vector_lanes) for i in range(self.sums)]
        with e.loop(0, e.number("turns"), carried=first) as turn:
            turn.values = self.body(e, own, turn.values)
        # All of them count: what is not stored would not be computed.
        (e.pointer("memory") + own).store(reduce(Vec.__add__, turn.values))


@dataclass(frozen=True, slots=True, kw_only=True)
class Turns(Cut):
    turns: int


def _rate(name: str, body: _Body, sums: int, work: int, threads_asked: int, seconds: float) -> float:
    """10^9 units of `work` a second; the median of repeated runs, `work` being done once a turn on each thread."""
    target = machine()
    kernel, cut = LoopKernel(target, name, body, sums), Turns(threads=threads_asked, turns=_TURNS)
    table = Table(Program((Stage(kernel, View(), cut),)))
    memory = torch.zeros(threads_asked * _VECTORS * target.vector_lanes)
    table.fill("memory", memory.data_ptr())
    # Held as long as the address is used.
    _cells, address = table.copy()
    took: list[float] = []
    until = time.perf_counter() + seconds
    while time.perf_counter() < until or len(took) < 3:
        start = time.perf_counter()
        threads.launch(table.serial, table.parallel, address, NO_PRINTS.address, threads_asked)
        took.append(time.perf_counter() - start)
    return work * _TURNS * threads_asked / statistics.median(took) * 1e-9
