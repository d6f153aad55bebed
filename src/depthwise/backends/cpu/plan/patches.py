"""The plan of a depthwise kernel over patches of contiguous planes: a vector holds a row of each of some patches."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from ....geometry import Geometry
from ...base import Activation
from ..machine import Machine
from .cut import Cut
from .filters import Filters
from .sizes import seen_outside, window_of
from .tuning import tuning_of


@dataclass(frozen=True, slots=True)
class PatchPlan(Filters):
    """The constants of a loop nest over patches.

    lanes:   columns per vector, of as many patches as have their strides in it
    patches: side by side in a tile
    """

    lanes: int
    patches: int

    @property
    def name(self) -> str:
        return f"{self.window_name}_v{self.lanes}x{self.patches}"

    @property
    def vectors(self) -> int:
        """Of a row of a tile."""
        return self.patches * self.stride[2] // self.lanes

    @property
    def rows(self) -> int:
        """Of the kernel, over all its planes."""
        return self.kernel[0] * self.kernel[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Patches(Cut):
    """Rows of all planes are dealt out one by one."""


def patch_plan(g: Geometry, activation: Activation, machine: Machine) -> PatchPlan:
    kernel, stride, dilation = window_of(g)
    return PatchPlan(
        rank=g.rank,
        channels=g.in_channels,
        multiplier=g.depth_multiplier,
        kernel=kernel,
        stride=stride,
        dilation=dilation,
        activation=activation,
        lanes=machine.vector_lanes,
        patches=_patches(g, machine),
    )


def patches_cut(g: Geometry, machine: Machine, threads: int) -> Patches:
    elements = prod(g.kernel_size[:-1]) * machine.vector_lanes
    return Patches(threads=threads, scratch_elements=elements)


def runs_patches(g: Geometry, machine: Machine) -> bool:
    """Whether a contiguous depthwise convolution is computed from rows of patches.

    Each has a power of two of lanes, of which its taps fill more than half.
    """
    stride, width, kernel = g.stride[-1], g.out_spatial[-1], g.kernel_size[-1]
    divides = stride in tuning_of(machine).patch_strides and machine.vector_lanes % stride == 0
    fills = stride < 2 * kernel <= 2 * stride and g.dilation[-1] == 1
    is_inside = seen_outside(g) == (0, 0) and width * stride <= g.input_size[-1]
    return g.out_channels is None and divides and fills and is_inside and width >= _patches(g, machine) > 0


def _patches(g: Geometry, machine: Machine) -> int:
    """The most of a tile that a row has, in whole vectors of results or halves of one."""
    lanes, stride = machine.vector_lanes, g.stride[-1]
    choices = [n for n in (lanes, lanes // 2) if n * stride % lanes == 0 and n <= g.out_spatial[-1]]
    return choices[0] if choices else 0
