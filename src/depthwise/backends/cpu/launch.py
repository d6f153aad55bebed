"""One problem bound to its program: what is left for a call is to fill in pointers."""

from __future__ import annotations

import ctypes
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from math import prod
from typing import Any

import torch
from torch import Tensor

from .. import calls
from ..base import Weights
from ..calls import Prepared
from ..formats import Strides
from ..problem import Problem
from ..weights import snapshot
from . import jit, memory, threads
from .machine import FLOAT_BYTES, Machine, host
from .pack import Pack, pack_of
from .plan import least_steps, three
from .plan_depthwise import depthwise_kernel
from .plan_pointwise import pointwise_kernel
from .program import SLOT, Program, Slots
from .schedule import Schedule, schedule

_X, _OUT, _RESIDUAL = SLOT["x"], SLOT["out"], SLOT["residual"]
_DEPTHWISE_OUT, _SCRATCH = SLOT["depthwise_out"], SLOT["scratch"]
_WEIGHTS = [SLOT[name] for name in ("depthwise_weight", "depthwise_bias", "pointwise_weight", "pointwise_bias")]
_FLOAT32, _CONTIGUOUS = torch.float32, torch.contiguous_format


@dataclass(frozen=True, slots=True)
class Layout:
    """How an input is read and a result is written; `copied` is why the input is copied first, or None."""

    planar_in: bool
    planar_out: bool
    copied: str | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """What runs a call: pure numbers; `name` is what it is called in reports."""

    program: Program
    schedule: Schedule
    layout: Layout
    memory_format: torch.memory_format

    @property
    def name(self) -> str:
        return self.program.name + ("" if self.layout.copied is None else f" after a copy: {self.layout.copied}")


def prepared(weights: Weights, problem: Problem, *, keeps: bool = True) -> Prepared | None:
    """What runs a problem with these weights as they are now; None where the code for it could not be made.

    keeps: what is made of the weights may stay for the next call
    """
    bound = calls.bound((problem, threads.team_size()), lambda: _bind(problem))
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


def _bind(problem: Problem) -> Launch | Empty | None:
    if not prod(problem.output_size):
        return Empty(problem)
    decision = decide(problem)
    return Launch(decision, problem) if _compiles(decision.program) else None


class Empty:
    """A bound call without a pixel to compute."""

    def __init__(self, problem: Problem) -> None:
        self._size, self._strides = problem.output_size, problem.result or _dense(problem.output_size, _CONTIGUOUS)

    def run(self, x: Tensor, residual: Tensor | None, pack: object, prints: int) -> Tensor:  # noqa: ARG002
        return memory.new_result(self._size, self._strides, _FLOAT32)


_failed: set[str] = set()


def _compiles(program: Program) -> bool:
    """Whether there is code for a program; where there is none, it is said once."""
    if program.name in _failed:
        return False
    try:
        program.code  # noqa: B018  compiled, or found, here
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


def layout_of(problem: Problem) -> Layout:
    """Read what can be read as it lies, and write the result in its memory format."""
    strides = strides_of(problem)
    planar_out, columns = problem.memory_format == torch.contiguous_format, problem.geometry.input_size[-1]
    if strides[1] == 1 or (problem.geometry.in_channels == 1 and not planar_out):
        # One pixel lies alike in all formats.
        return Layout(planar_in=False, planar_out=planar_out and prod(problem.geometry.out_spatial) > 1)
    columns_together = strides[-1] == 1 or columns == 1
    if columns_together and planar_out:
        return Layout(planar_in=True, planar_out=True)
    if columns_together:
        why = "the input is contiguous, the weights and so the result are channels-last"
    else:
        why = f"neither channels nor columns lie side by side in strides {strides}"
    return Layout(planar_in=planar_out, planar_out=planar_out, copied=why)


def strides_of(problem: Problem) -> Strides:
    """Of the input."""
    if problem.strides is None:
        raise RuntimeError("a problem is planned for the strides of its input")
    return problem.strides


def decide(problem: Problem, target: Machine | None = None) -> Decision:
    """The program and the numbers for a problem, on `target` or else this machine."""
    g, layout, target = least_steps(problem.geometry), layout_of(problem), target or machine()
    s = schedule(
        g, problem.batch, target, threads.team_size(), planar_in=layout.planar_in, planar_out=layout.planar_out
    )
    dense = layout.copied is not None or strides_of(problem)[-1] == g.in_channels or g.input_size[-1] == 1
    d = depthwise_kernel(
        g,
        problem.activations[0],
        target,
        planar=layout.planar_in,
        pixel_stride=g.in_channels if dense and not layout.planar_in else None,
        distance=strides_of(problem)[-1],
    )
    if d.to_planes:
        # From registers: nothing passes through memory of the thread's own.
        s = replace(s, scratch_elements=0)
    p = None
    if g.out_channels is not None:
        residual = problem.residual is not None
        p = pointwise_kernel(g, problem.activations[1], target, residual=residual, pixels=s.tile_pixels)
    program = Program(target, d, p, fused=s.fused and p is not None, planar_out=layout.planar_out)
    return Decision(program, s, layout, problem.memory_format)


def _dense(size: Sequence[int], memory_format: torch.memory_format) -> Strides:
    return torch.empty(size, device="meta", memory_format=memory_format).stride()


class Launch:
    """A bound call: for inputs and residuals of the sizes and strides of its problem, and weights packed as it says.

    packing: what tells such a pack from others of the same weights
    """

    def __init__(self, decision: Decision, problem: Problem) -> None:
        self.decision = decision
        program, s = decision.program, decision.schedule
        self.packing = program.packing
        self._code = program.code
        self._serial, self._parallel = (threads.ENTRY(self._code.address(name)) for name in ("serial", "parallel"))
        self._threads = s.threads
        self._shared_elements = s.shared_elements
        self._elements = s.shared_elements + s.threads * s.scratch_elements
        self._size = problem.output_size
        size = prod(self._size) * FLOAT_BYTES
        self._huge_bytes = size if size >= memory.LEAST_HUGE_BYTES else 0
        self._memory_format = decision.memory_format
        dense = _dense(self._size, self._memory_format)
        self._stride = problem.result or dense
        self._copied = decision.layout.copied is not None
        self._residual_copied = problem.residual is not None and not _lies_as(problem.residual, dense, self._size)
        self._out_slot = _DEPTHWISE_OUT if program.pointwise is None else _OUT
        size_in = (problem.batch, *problem.geometry.input_size)
        strides = _dense(size_in, self._memory_format) if self._copied else strides_of(problem)
        # Held here, as the slots hold its address.
        self._zeros = memory.zeros(program.depthwise.zero_elements(strides[-1], size_in[-1]))
        slots = Slots()
        for name, value in _numbers(problem, strides, s).items():
            slots[SLOT[name]] = value
        slots[SLOT["zeros"]] = self._zeros.data_ptr()
        runtime = threads.runtime()
        for index, address in enumerate(runtime.addresses if runtime else ()):
            slots[index] = address
        self._template = bytes(slots)
        # Those that no call is using, with the number of the pack that they point to; a call on another thread takes
        # others.
        self._spare: list[tuple[Any, int, int]] = []

    def run(self, x: Tensor, residual: Tensor | None, pack: Pack, prints: int) -> Tensor | None:
        if self._copied:
            x = x.contiguous(memory_format=self._memory_format)
        if self._residual_copied and residual is not None:
            residual = residual.contiguous(memory_format=self._memory_format)
        read, added = x.data_ptr(), 0 if residual is None else residual.data_ptr()
        if not (read and (added or residual is None)):
            # Freed memory: torch has words for it.
            return None
        out = memory.new_result(self._size, self._stride, _FLOAT32)
        if self._huge_bytes:
            memory.ask_for_huge_pages(out, self._huge_bytes)
        slots, address, packed = self._take_slots()
        if packed != pack.number:
            for slot, pointer in zip(_WEIGHTS, pack.addresses, strict=True):
                slots[slot] = pointer
        slots[_X], slots[self._out_slot], slots[_RESIDUAL] = read, out.data_ptr(), added
        # Held until the call is over: a large one is nobody else's.
        held = self._scratch(slots) if self._elements else None
        changed = threads.launch(self._serial, self._parallel, address, prints, self._threads)
        del held
        self._spare.append((slots, address, pack.number))
        return None if changed else out

    def _scratch(self, slots: Any) -> memory.Buffer:
        """Memory of this thread's, and its place in the slots."""
        scratch = memory.scratch(self._elements * FLOAT_BYTES)
        if self._shared_elements:
            slots[_DEPTHWISE_OUT] = scratch.address
        slots[_SCRATCH] = scratch.address + self._shared_elements * FLOAT_BYTES
        return scratch

    def _take_slots(self) -> tuple[Any, int, int]:
        """Slots but for the pointers of a call, their address, and the number of the pack that they point to."""
        try:
            return self._spare.pop()
        except IndexError:
            slots = Slots.from_buffer_copy(self._template)
            return slots, ctypes.addressof(slots), 0


def _numbers(problem: Problem, x_strides: Strides, s: Schedule) -> Mapping[str, int]:
    g, batch = problem.geometry, problem.batch
    spatial, strides = three(g.input_size[1:], 1), three(x_strides[2:], 0)
    outputs, padding = three(g.out_spatial, 1), three(tuple(before for before, _ in g.padding), 0)
    axes = ("z", "y", "x")
    numbers = {"batch": batch, "x_n": x_strides[0], "x_c": x_strides[1]}
    numbers |= {f"x_{axis}": stride for axis, stride in zip(axes, strides, strict=True)}
    numbers |= {f"in_{axis}": size for axis, size in zip(axes, spatial, strict=True)}
    numbers |= {f"out_{axis}": size for axis, size in zip(axes, outputs, strict=True)}
    numbers |= {f"pad_{axis}": size for axis, size in zip(axes, padding, strict=True)}
    numbers |= {"rows": batch * outputs[0] * outputs[1], "pixels": batch * prod(outputs)}
    names = {field.name for field in fields(s)} & set(SLOT)
    return numbers | {name: getattr(s, name) for name in names}


def _lies_as(strides: Strides, others: Strides, size: Sequence[int]) -> bool:
    """Whether a tensor of these strides lies as one of `others` does: in a dimension of one element, all do."""
    return all(n == 1 or one == other for n, one, other in zip(size, strides, others, strict=True))
