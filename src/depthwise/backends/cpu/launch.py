"""One problem bound to its program: what is left for a call is to fill in pointers."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor

from ...geometry import Geometry
from .. import calls
from ..base import DenseTensors, SeparableTensors, Weights
from ..calls import Prepared
from ..formats import Strides, same_strides
from ..pixels import PixelProblem
from ..problem import Problem
from ..weights import snapshot
from .lower import lower
from .lower.decision import Decision
from .lower.fresh import packing_itself
from .machine import FLOAT_BYTES, Machine, host
from .pack import NAMES, Fresh, Pack, pack_of
from .run import jit, leases, memory, threads
from .run.program import ZEROS, Program, Table

_FLOAT32, _CONTIGUOUS = torch.float32, torch.contiguous_format


def prepared(weights: Weights, problem: Problem, *, keeps: bool = True) -> Prepared | None:
    """What runs a problem with these weights as they are now; None where the code for it could not be made.

    keeps: what is made of the weights may stay for the next call
    """
    if not keeps and not isinstance(weights, SeparableTensors | DenseTensors):
        bare = bound_afresh(problem, turned=False, bias=weights.bias is not None)
        return None if bare is None else Prepared(bare, Fresh(weights.weight, weights.bias))
    bound = calls.bound((problem, threads.team_size()), partial(_bind, problem))
    if not isinstance(bound, Launch):
        return None if bound is None else Prepared(bound, None)
    key = (bound.packing, tuple(norm and norm.eps for norm in weights.norms))

    def packed() -> Pack:
        return pack_of(weights, bound.decision.program.pointwise)

    if keeps:
        own = snapshot(weights.weights)
        pack = own.packed(key, weights.weights, packed)
        if pack is not None:
            return Prepared(bound, pack, own)
    return Prepared(bound, packed())


def bound_afresh(problem: Problem, *, turned: bool, bias: bool) -> Launch | Empty | None:
    """What runs a problem of one convolution and packs its weights, a `Fresh`, itself.

    turned: the weights are those of the pointwise convolution whose input's gradient the problem is
    """
    key = problem, turned, bias, threads.team_size()
    finished = partial(_packing_itself, turned=turned, bias=bias)
    return calls.bound(key, partial(_bind, problem, finished, trains=True))


def _packing_itself(program: Program, problem: Problem, *, turned: bool, bias: bool) -> Program:
    return packing_itself(program, problem.geometry, machine(), turned=turned, bias=bias)


def _bind(
    problem: Problem,
    finished: Callable[[Program, Problem], Program] = lambda program, _: program,
    *,
    trains: bool = False,
) -> Launch | Empty | None:
    if not prod(problem.output_size):
        return Empty(problem)
    decision = decide(problem)
    decision = replace(decision, program=finished(decision.program, problem))
    return Launch(decision, problem, trains=trains) if compiles(decision.program) else None


class Empty:
    """A bound call without a pixel to compute."""

    def __init__(self, problem: Problem) -> None:
        self._size, self._strides = problem.output_size, problem.result or _dense(problem.output_size, _CONTIGUOUS)

    def run(self, x: Tensor, residual: Tensor | None, pack: object, prints: int) -> Tensor:  # noqa: ARG002
        return memory.new_result(self._size, self._strides, _FLOAT32)


_failed: set[str] = set()


def compiles(program: Program) -> bool:
    """Whether there is code for a program; where there is none, it is said once."""
    if program.name in _failed:
        return False
    try:
        program.codes  # noqa: B018  compiled, or found, here
    except jit.CompilationError as error:
        _failed.add(program.name)
        warnings.warn(f"{program.name} could not be compiled, PyTorch's operators run instead: {error}", stacklevel=2)
        return False
    return True


def machine() -> Machine:
    """The machine that code is made for, in a process where the backend does not refuse it."""
    found = host()
    if found is None:
        raise RuntimeError("no generator serves this CPU")
    return found


def decide(problem: Problem | PixelProblem, target: Machine | None = None) -> Decision:
    """The program and the numbers for a problem, on `target` or else this machine."""
    return lower(problem, target or machine(), threads.team_size())


def _dense(size: Sequence[int], memory_format: torch.memory_format) -> Strides:
    return torch.empty(size, device="meta", memory_format=memory_format).stride()


class Launch:
    """A bound call: for inputs and residuals of the sizes and strides of its problem, and weights packed as it says.

    packing: what tells such a pack from others of the same weights
    trains:  results are of training steps
    """

    def __init__(self, decision: Decision, problem: Problem, *, trains: bool = False) -> None:
        self.decision = decision
        program, table = decision.program, Table(decision.program)
        self.packing = program.packing
        self._serial, self._parallel, self._threads = table.serial, table.parallel, program.team
        own, self._elements = program.arena
        self._pace, self._title = threads.Pace(most_seconds(problem)), program.title
        self._size = problem.output_size
        size = prod(self._size) * FLOAT_BYTES
        self._leases = trains and size >= leases.LEAST_BYTES
        self._huge_bytes = size if size >= memory.LEAST_HUGE_BYTES and not self._leases else 0
        self._memory_format = decision.memory_format
        dense = _dense(self._size, self._memory_format)
        self._stride = problem.result or dense
        self._copied = decision.layout.copied is not None
        is_read = decision.layout.residual_pixels or problem.residual is None
        self._residual_copied = not is_read and not same_strides(self._size, problem.residual or dense, dense)
        # Held here, as the table holds its address.
        self._zeros = memory.zeros(program.zeros)
        table.fill(ZEROS, self._zeros.data_ptr())
        # Each is read or written by one stage.
        (self._x,), (self._out,) = table.places["x"], table.places["out"]
        self._residual = None if problem.residual is None else table.places["residual"][0]
        names = [name for name in (*NAMES, "weight", "bias") if name not in own]
        self._weights = [(name, place) for name in names for place in table.places.get(name, ())]
        self._inner = [(place, FLOAT_BYTES * begin) for name, begin in own.items() for place in table.places[name]]
        self._table = table
        # Those that no call is using, with the number of the pack that they point to; a call on another thread takes
        # others.
        self._spare: list[tuple[Any, int, int]] = []

    def run(self, x: Tensor, residual: Tensor | None, pack: Pack | Fresh, prints: int) -> Tensor | None:
        if self._copied:
            x = x.contiguous(memory_format=self._memory_format)
        if self._residual_copied and residual is not None:
            residual = residual.contiguous(memory_format=self._memory_format)
        read, added = x.data_ptr(), 0 if residual is None else residual.data_ptr()
        if not (read and (added or residual is None)):
            # Freed memory: torch has words for it.
            return None
        if self._leases:
            out = leases.new_image(self._size, self._stride)
        else:
            out = memory.new_result(self._size, self._stride, _FLOAT32)
        if self._huge_bytes:
            memory.ask_for_huge_pages(out, self._huge_bytes)
        try:
            cells, address, packed = self._spare.pop()
        except IndexError:
            (cells, address), packed = self._table.copy(), 0
        if packed != pack.number:
            for name, place in self._weights:
                cells[place] = pack.addresses[name]
        if added:
            cells[self._residual] = added
        cells[self._x], cells[self._out] = read, out.data_ptr()
        # Held until the call is over: a large one is nobody else's.
        held = self._scratch(cells) if self._elements else None
        team, pace, title = self._threads, self._pace, self._title
        changed = threads.launch(self._serial, self._parallel, address, prints, team, pace, title)
        del held
        self._spare.append((cells, address, pack.number))
        return None if changed else out

    def _scratch(self, cells: Any) -> memory.Buffer:
        """Memory of this thread's, and its place in the cells."""
        scratch = memory.scratch(self._elements * FLOAT_BYTES)
        for place, begin in self._inner:
            cells[place] = scratch.address + begin
        return scratch


def most_seconds(problem: Problem) -> float:
    """What a problem takes at most, on a slow machine and in new memory, on a team that has its cores to itself."""
    g = problem.geometry
    return most_seconds_of(g, problem.batch, g.kernel_area if problem.operation == "dense" else 1)


def most_seconds_of(g: Geometry, batch: int, taps: int = 1) -> float:
    """taps: of the convolution to `out_channels`"""
    multiplied = g.depthwise_channels * (g.kernel_area / 0.5e9 + taps * (g.out_channels or 0) / g.groups / 4e9)
    moved_bytes = FLOAT_BYTES * (prod(g.input_size) + prod(g.output_size))
    return 0.001 + batch * (multiplied * prod(g.out_spatial) + moved_bytes / 1e9)
