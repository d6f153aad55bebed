"""One convolution bound to its program, weights and input sizes: what is left for a call is to fill in pointers."""

from __future__ import annotations

import ctypes
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from math import prod
from typing import Any

import torch
from torch import Tensor

from ...geometry import Geometry
from .. import recall
from ..base import Activation, Runner, Weights
from ..formats import memory_format_of
from .emit.tile import zero_elements
from .machine import FLOAT_BYTES, Machine, host
from .pack import Pack, pack_of
from .plan.depthwise import DepthwiseKernel, depthwise_kernel
from .plan.pointwise import pointwise_kernel
from .plan.schedule import Schedule, schedule
from .plan.sizes import three
from .run import jit, memory, threads
from .run.program import SLOT, Program, Slots

_X, _OUT, _RESIDUAL = SLOT["x"], SLOT["out"], SLOT["residual"]
_DEPTHWISE_OUT, _SCRATCH = SLOT["depthwise_out"], SLOT["scratch"]
_FLOAT32 = torch.float32


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


def layout_of(x: Tensor, memory_format: torch.memory_format, pixels: int) -> Layout:
    """Read what can be read as it lies, and write a result of so many pixels in `memory_format`."""
    planar_out = memory_format == torch.contiguous_format
    if x.stride(1) == 1 or (x.shape[1] == 1 and not planar_out):
        # One pixel lies alike in all formats.
        return Layout(planar_in=False, planar_out=planar_out and pixels > 1)
    columns_together = x.stride(-1) == 1 or x.shape[-1] == 1
    if columns_together and planar_out:
        return Layout(planar_in=True, planar_out=True)
    if columns_together:
        why = "the input is contiguous, the weights and so the result are channels-last"
    else:
        why = f"neither channels nor columns lie side by side in strides {tuple(x.stride())}"
    return Layout(planar_in=planar_out, planar_out=planar_out, copied=why)


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
    memory_format = memory_format or memory_format_of(x)
    layout, target = layout_of(x, memory_format, prod(g.out_spatial)), target or machine()
    s = schedule(g, x.shape[0], target, threads.team_size(), planar_in=layout.planar_in, planar_out=layout.planar_out)
    dense = layout.copied is not None or x.stride(-1) == g.in_channels or x.shape[-1] == 1
    d = depthwise_kernel(
        g,
        activations[0],
        target,
        planar=layout.planar_in,
        pixel_stride=g.in_channels if dense and not layout.planar_in else None,
    )
    if d.to_planes:
        # From registers: nothing passes through memory of the thread's own.
        s = replace(s, scratch_elements=0)
    p = None
    if g.out_channels is not None:
        p = pointwise_kernel(g, activations[1], target, residual=residual, pixels=s.tile_pixels)
    program = Program(target, d, p, fused=s.fused and p is not None, planar_out=layout.planar_out)
    return Decision(program, s, layout, memory_format)


def _zero_elements(k: DepthwiseKernel, x: Tensor) -> int:
    if k.edges is not None:
        return x.shape[-1]
    return zero_elements(k, k.lanes if k.planar else x.stride(-1))


class Launch:
    """`run` is a runner: for inputs and residuals of the sizes and strides it was made for."""

    def __init__(self, decision: Decision, pack: Pack, x: Tensor, residual: Tensor | None, g: Geometry) -> None:
        self.decision = decision
        self.pack = pack
        program, s = decision.program, decision.schedule
        self._code = program.code
        self._serial, self._parallel = (threads.ENTRY(self._code.address(name)) for name in ("serial", "parallel"))
        self._threads = s.threads
        self._shared_elements = s.shared_elements
        self._elements = s.shared_elements + s.threads * s.scratch_elements
        self._size = (x.shape[0], *g.output_size)
        size = prod(self._size) * FLOAT_BYTES
        self._huge_bytes = size if size >= memory.LEAST_HUGE_BYTES else 0
        self._memory_format = decision.memory_format
        self._stride = torch.empty(self._size, device="meta").to(memory_format=self._memory_format).stride()
        self._copied = decision.layout.copied is not None
        self._residual_copied = residual is not None and (
            residual.is_neg() or not residual.is_contiguous(memory_format=self._memory_format)
        )
        self._out_slot = _DEPTHWISE_OUT if program.pointwise is None else _OUT
        slots = Slots()
        source = x.contiguous(memory_format=self._memory_format) if self._copied else x
        # Held here, as the slots hold its address.
        self._zeros = memory.zeros(_zero_elements(program.depthwise, source))
        for name, value in self._numbers(source, g, s).items():
            slots[SLOT[name]] = value
        slots[SLOT["zeros"]] = self._zeros.data_ptr()
        runtime = threads.runtime()
        for index, address in enumerate(runtime.addresses if runtime else ()):
            slots[index] = address
        self._template = bytes(slots)
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
            taken = self._new_slots()
        slots, address = taken
        slots[_X] = x.data_ptr()
        slots[self._out_slot] = out.data_ptr()
        if residual is not None:
            if self._residual_copied:
                residual = residual.resolve_neg().contiguous(memory_format=self._memory_format)
            slots[_RESIDUAL] = residual.data_ptr()
        if self._elements:
            scratch = memory.scratch(self._elements * FLOAT_BYTES)
            if self._shared_elements:
                slots[_DEPTHWISE_OUT] = scratch.address
            slots[_SCRATCH] = scratch.address + self._shared_elements * FLOAT_BYTES
        threads.launch(self._serial, self._parallel, address, self._threads)
        self._spare.append(taken)
        return out

    def _new_slots(self) -> tuple[Any, int]:
        """Slots but for the pointers of a call, and their address."""
        slots = Slots.from_buffer_copy(self._template)
        return slots, ctypes.addressof(slots)

    def _numbers(self, x: Tensor, g: Geometry, s: Schedule) -> Mapping[str, int]:
        pack = self.pack
        spatial, strides = three(g.input_size[1:], 1), three(x.stride()[2:], 0)
        outputs, padding = three(g.out_spatial, 1), three(tuple(before for before, _ in g.padding), 0)
        axes = ("z", "y", "x")
        numbers = {"batch": x.shape[0], "x_n": x.stride(0), "x_c": x.stride(1)}
        numbers |= {f"x_{axis}": stride for axis, stride in zip(axes, strides, strict=True)}
        numbers |= {f"in_{axis}": size for axis, size in zip(axes, spatial, strict=True)}
        numbers |= {f"out_{axis}": size for axis, size in zip(axes, outputs, strict=True)}
        numbers |= {f"pad_{axis}": size for axis, size in zip(axes, padding, strict=True)}
        numbers |= {"rows": x.shape[0] * outputs[0] * outputs[1], "pixels": x.shape[0] * prod(outputs)}
        names = {field.name for field in fields(s)} & set(SLOT)
        numbers |= {name: getattr(s, name) for name in names}
        numbers["depthwise_weight"] = pack.depthwise_weight.data_ptr()
        numbers["depthwise_bias"] = pack.depthwise_bias.data_ptr()
        if pack.pointwise_weight is not None and pack.pointwise_bias is not None:
            numbers["pointwise_weight"] = pack.pointwise_weight.data_ptr()
            numbers["pointwise_bias"] = pack.pointwise_bias.data_ptr()
        return numbers
