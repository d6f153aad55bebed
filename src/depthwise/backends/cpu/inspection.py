"""What is generated for a convolution, to be read: its plan, its IR, its assembly."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

import torch

from ...errors import DepthwiseError
from ...geometry import Geometry, check_countable
from ..formats import suggested_strides
from ..problem import Activation, Operation, Problem
from . import machine
from .launch import decide
from .lower.decision import Decision
from .plan.constants import Plan
from .plan.cut import Cut

MACHINES = {"avx2": machine.avx2, "neon": machine.neon}


@dataclass(frozen=True, slots=True)
class Inspection:
    """One call's decision; the texts are made when asked for."""

    decision: Decision

    @property
    def plan(self) -> str:
        """The constants of each loop nest, then the numbers of this call."""
        stages = self.decision.program.stages
        parts: list[Plan | Cut] = []
        for stage in stages:
            parts += [*stage.kernel.plans, stage.cut]
        lines = [self.decision.name]
        for part in parts:
            lines.append(f"\n{type(part).__name__}")
            lines += [f"  {field.name:<17}{getattr(part, field.name)}" for field in fields(part)]
        return "\n".join(lines)

    @property
    def ir(self) -> str:
        return self.decision.program.ir()

    @property
    def assembly(self) -> str:
        return self.decision.program.assembly()


def inspect(
    g: Geometry,
    *,
    batch: int = 1,
    layout: Literal["channels_last", "contiguous"] = "channels_last",
    activations: tuple[Activation, Activation] = (None, None),
    residual: bool = False,
    isa: str | None = None,
) -> Inspection:
    """What would run a convolution; `isa` is "avx2", "neon" or None for this machine's own.

    >>> from depthwise.geometry import geometry
    >>> print(inspect(geometry((64, 56, 56), 3, padding=1, out_channels=128), isa="avx2").plan.split()[0])
    fused_f32_k3x3_s1x1x1_d1x1x1_c64m1_linear_v8x6t3ub8p64_n128k64g1_linear_m6to5x2v8fa1p64__avx2
    """
    if isa is not None and isa not in MACHINES:
        raise DepthwiseError(f"isa is one of {', '.join(MACHINES)}, or None for this machine; got {isa!r}")
    area = (g.kernel_area,)
    check_countable("the input", *(batch, *g.input_size))
    check_countable("the depthwise step's output", *(batch, *g.depthwise_size))
    check_countable("the output", *(batch, *g.output_size))
    check_countable("the weight", *(g.depthwise_channels, *(g.output_size[:1] if g.out_channels else area)))
    # What the code reckons with: a step of the stride, and the reach of the kernel, in elements.
    check_countable("a step of the stride over the input", *(*g.input_size, max(g.stride)))
    check_countable("the kernel's reach over the input", *(*g.input_size, *g.dilation, *g.kernel_size))
    x = torch.empty((batch, *g.input_size), device="meta")
    if layout == "channels_last":
        x = x.movedim(1, -1).contiguous().movedim(-1, 1)
    size = (batch, *g.output_size)
    result = suggested_strides(size, x)
    operation: Operation = "depthwise" if g.out_channels is None else "separable"
    added = result if residual else None
    problem = Problem(operation, g, torch.float32, "cpu", batch, x.stride(), result, activations, added)
    return Inspection(decide(problem, None if isa is None else MACHINES[isa]()))
