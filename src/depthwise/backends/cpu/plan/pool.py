"""The plan of a pooling: vectors of channels, and how its pixels are dealt out."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from ...pixels import AveragePool, Pool
from ..machine import Machine
from .constants import Plan
from .cut import Cut
from .elementwise import shared_by
from .sizes import Axes, lanes_below, three, window_of

# Of a pixel of results, at most, that are done together.
MOST_VECTORS = 8


@dataclass(frozen=True, slots=True)
class PoolPlan(Plan):
    """The constants of a pooling's loop nest.

    averages: sums, divided; else the greatest
    divisor:  of all sums; None: counted
    lanes, vectors: channels of a pixel are done in `vectors` vectors of `lanes` at a time
    """

    rank: int
    channels: int
    kernel: Axes
    stride: Axes
    dilation: Axes
    averages: bool
    divisor: int | None
    lanes: int
    vectors: int

    @property
    def name(self) -> str:
        window = "_".join(
            f"{letter}{'x'.join(map(str, numbers[3 - self.rank :]))}"
            for letter, numbers in (("k", self.kernel), ("s", self.stride), ("d", self.dilation))
        )
        kind = f"mean{self.divisor or ''}" if self.averages else "max"
        return f"{kind}_{window}_c{self.channels}_v{self.lanes}x{self.vectors}"

    @property
    def pixel_vectors(self) -> int:
        """Of a pixel; the last overlaps the one before it where channels do not fill it."""
        return -(-self.channels // self.lanes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Windows(Cut):
    """Pixels of the result are dealt out.

    first_z, last_z, ...: the places of the input that are counted, from first to before last
    """

    first_z: int
    first_y: int
    first_x: int
    last_z: int
    last_y: int
    last_x: int


def pool_plan(problem: Pool, machine: Machine) -> PoolPlan:
    g = problem.geometry
    lanes = lanes_below(g.in_channels, machine.vector_lanes)
    averages = isinstance(problem, AveragePool)
    kernel, stride, dilation = window_of(g)
    return PoolPlan(
        rank=g.rank,
        channels=g.in_channels,
        kernel=kernel,
        stride=stride,
        dilation=dilation,
        averages=averages,
        divisor=problem.divisor if isinstance(problem, AveragePool) else None,
        lanes=lanes,
        vectors=min(MOST_VECTORS, -(-g.in_channels // lanes)),
    )


def windows(problem: Pool, threads: int) -> Windows:
    g = problem.geometry
    counted = problem.counted if isinstance(problem, AveragePool) else ((0, 0),) * g.rank
    first = three(tuple(-before for before, _ in counted), 0)
    last = three(tuple(n + after for n, (_, after) in zip(g.input_size[1:], counted, strict=True)), 1)
    pixels = problem.images * prod(g.out_spatial)
    team = shared_by(pixels * g.in_channels * g.kernel_area, pixels, threads)
    return Windows(
        threads=team,
        **{f"first_{axis}": n for axis, n in zip("zyx", first, strict=True)},
        **{f"last_{axis}": n for axis, n in zip("zyx", last, strict=True)},
    )
