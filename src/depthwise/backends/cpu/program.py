"""Programs: stages that run in one parallel region with a barrier between them, and the slots they read.

Every stage has one signature, `void stage(ptr slots, i64 thread, i64 threads)`; see driver.py.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

from . import fused, jit
from .depthwise import write_depthwise
from .driver import RUNTIME_SLOTS, Stage, write_module
from .fused import write_fused, write_planar_fused
from .machine import Machine
from .plan_depthwise import DepthwiseKernel
from .plan_pointwise import PointwiseKernel
from .planar import write_planar_depthwise
from .planes import write_planes
from .pointwise import write_pointwise

SLOTS = (*RUNTIME_SLOTS, *fused.SLOTS)
Slots = ctypes.c_int64 * len(SLOTS)
SLOT = {name: index for index, name in enumerate(SLOTS)}


@dataclass(frozen=True)
class Program:
    """What runs in one parallel region: a depthwise stage, a depthwise and a pointwise one, or both fused in one."""

    machine: Machine
    depthwise: DepthwiseKernel
    pointwise: PointwiseKernel | None = None
    fused: bool = False
    planar_out: bool = False

    @property
    def name(self) -> str:
        kind = "dw" if self.pointwise is None else "fused" if self.fused else "dw_pw"
        parts = [kind, "f32", self.depthwise.name, *([self.pointwise.name] if self.pointwise else [])]
        return "_".join([*parts, *(["planar"] if self.planar_out else [])]) + f"__{self.machine.isa}"

    @property
    def packing(self) -> tuple[object, ...]:
        """What the order of packed weights goes by."""
        d, p = self.depthwise, self.pointwise
        return d.tap_stride, *((p.groups, p.lanes, p.vectors) if p else ())

    @property
    def stages(self) -> list[Stage]:
        d, p = self.depthwise, self.pointwise
        if p is None:
            if d.edges is not None:
                return [lambda e, thread, team: write_planes(e, d, thread, team)]
            if self.planar_out:
                return [lambda e, thread, team: write_planar_depthwise(e, d, thread, team)]
            return [lambda e, thread, team: write_depthwise(e, d, d.filters, thread, team)]
        if self.planar_out:
            return [lambda e, thread, team: write_planar_fused(e, d, p, thread, team)]
        if self.fused:
            return [lambda e, thread, team: write_fused(e, d, p, thread, team)]
        return [
            lambda e, thread, team: write_depthwise(e, d, p.pixel_stride, thread, team),
            lambda e, thread, team: write_pointwise(e, p, thread, team),
        ]

    def ir(self) -> str:
        return write_module(self.name, SLOTS, self.stages)

    def assembly(self) -> str:
        return jit.assembly(self.ir(), self.machine)

    @property
    def code(self) -> jit.Code:
        return jit.load(self.name, self.machine, self.ir)
