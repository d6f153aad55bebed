"""What a problem is lowered to."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch

from ....geometry import Geometry
from ...formats import Strides
from ..run.program import Program


@dataclass(frozen=True, slots=True)
class Layout:
    """How an input is read and a result is written; `copied` is why the input is copied first, or None.

    residual_pixels: the residual of a result in planes is read as pixels
    """

    planar_in: bool
    planar_out: bool
    copied: str | None = None
    residual_pixels: bool = False


@dataclass(frozen=True, slots=True)
class Decision:
    """What runs a call: pure numbers; `name` is what it is called in reports."""

    program: Program
    layout: Layout
    memory_format: torch.memory_format

    @property
    def name(self) -> str:
        return self.program.name + ("" if self.layout.copied is None else f" after a copy: {self.layout.copied}")


def dense_strides(g: Geometry, *, channels_last: bool) -> Strides:
    """Strides of an input that lies dense in memory."""
    channels, *spatial = g.input_size
    along = [prod(spatial[axis + 1 :]) for axis in range(len(spatial))]
    if channels_last:
        return prod(g.input_size), 1, *(channels * stride for stride in along)
    return prod(g.input_size), prod(spatial), *along


def of_pixels(program: Program) -> Decision:
    """Of an operation on pixels whose channels lie side by side."""
    return Decision(program, Layout(planar_in=False, planar_out=False), torch.channels_last)
