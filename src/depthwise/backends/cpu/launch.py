"""One convolution bound to its program, weights and input sizes: what is left for a call is to fill in pointers."""

from __future__ import annotations

import warnings
from math import prod
from typing import Any

import torch
from torch import Tensor

from ...geometry import Geometry
from .. import recall
from ..base import Activation, Runner, Weights
from ..formats import memory_format_of
from .lower import Decision, lower
from .machine import FLOAT_BYTES, Machine, host
from .pack import Pack, pack_of
from .run import jit, memory, threads
from .run.program import ZEROS, Program, Table

_FLOAT32 = torch.float32


def launch_of(x: Tensor, weights: Weights, g: Geometry) -> Runner | None:
    """What runs `x` with these weights as they are now; None where the code for it could not be made."""
    memory_format = memory_format_of(x, *weights.filters)
    if x.numel() == 0:
        return lambda x, _: x.new_empty((x.shape[0], *g.output_size)).contiguous(memory_format=memory_format)
    residual = weights.residual is not None
    decision = decide(g, x, weights.activations, residual=residual, memory_format=memory_format)
    if not _compiles(decision.program):
        return None
    kept = None if recall.needs_gradient(x, None, weights.weights) else recall.remembered(weights.weights)
    key = (weights.operation, g.groups, tuple(norm and norm.eps for norm in weights.norms))
    pack = None if kept is None else kept.packs.get(key)
    if pack is None:
        pack = pack_of(weights, decision.program.pointwise)
        if kept is not None:
            kept.packs[key] = pack
    return Launch(decision, pack, x, weights.residual, g).run


_failed: set[str] = set()


def _compiles(program: Program) -> bool:
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


def decide(
    g: Geometry,
    x: Tensor,
    activations: tuple[Activation, Activation],
    *,
    residual: bool,
    memory_format: torch.memory_format | None = None,
    target: Machine | None = None,
) -> Decision:
    """The program and the numbers for an input of these sizes and strides, on `target` or else this machine.

    memory_format: of the result; None: as the input has it
    """
    return lower(
        g,
        x.shape[0],
        x.stride(),
        activations,
        residual=residual,
        memory_format=memory_format or memory_format_of(x),
        machine=target or machine(),
        threads=threads.team_size(),
    )


class Launch:
    """`run` is a runner: for inputs and residuals of the sizes and strides it was made for."""

    def __init__(self, decision: Decision, pack: Pack, x: Tensor, residual: Tensor | None, g: Geometry) -> None:
        self.decision = decision
        self.pack = pack
        program, table = decision.program, Table(decision.program)
        self._serial, self._parallel, self._threads = table.serial, table.parallel, program.team
        own, self._elements = program.arena
        self._size = (x.shape[0], *g.output_size)
        size = prod(self._size) * FLOAT_BYTES
        self._huge_bytes = size if size >= memory.LEAST_HUGE_BYTES else 0
        self._memory_format = decision.memory_format
        self._stride = torch.empty(self._size, device="meta").to(memory_format=self._memory_format).stride()
        self._copied = decision.layout.copied is not None
        self._residual_copied = residual is not None and (
            residual.is_neg() or not residual.is_contiguous(memory_format=self._memory_format)
        )
        # Held here, as the table holds their addresses.
        self._zeros = memory.zeros(program.zeros)
        table.fill(ZEROS, self._zeros.data_ptr())
        for name, tensor in pack.tensors.items():
            table.fill(name, tensor.data_ptr())
        # Each is read or written by one stage.
        (self._x,), (self._out,) = table.places["x"], table.places["out"]
        self._residual = table.places.get("residual", (0,))[0]
        self._inner = [(place, FLOAT_BYTES * begin) for name, begin in own.items() for place in table.places[name]]
        self._table = table
        # Those that no call is using; a call on another thread takes others.
        self._spare: list[tuple[Any, int]] = []

    def run(self, x: Tensor, residual: Tensor | None) -> Tensor:
        out = memory.new_result(self._size, self._stride, _FLOAT32)
        if self._huge_bytes:
            memory.ask_for_huge_pages(out, self._huge_bytes)
        if self._copied:
            x = x.contiguous(memory_format=self._memory_format)
        try:
            taken = self._spare.pop()
        except IndexError:
            taken = self._table.copy()
        slots, address = taken
        slots[self._x] = x.data_ptr()
        slots[self._out] = out.data_ptr()
        if residual is not None:
            if self._residual_copied:
                residual = residual.resolve_neg().contiguous(memory_format=self._memory_format)
            slots[self._residual] = residual.data_ptr()
        if self._elements:
            scratch = memory.scratch(self._elements * FLOAT_BYTES)
            for place, begin in self._inner:
                slots[place] = scratch.address + begin
        threads.launch(self._serial, self._parallel, address, self._threads)
        self._spare.append(taken)
        return out
