"""Small whole numbers for the picture's cells, and the sums they come to: the same ones for the same layer, always.

`values.js` has the same lines in the same order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

from ..geometry import Geometry

Place = tuple[int, int, int]

# A sum of more products is not added up for a picture.
MOST_PRODUCTS = 20_000
PRIME = 1009


@dataclass(frozen=True, slots=True)
class Axis:
    """One spatial dimension of a convolution."""

    n: int
    k: int
    s: int
    before: int
    after: int
    d: int
    out: int

    @property
    def reach(self) -> int:
        """Pixels from the kernel's first tap to its last."""
        return self.d * (self.k - 1) + 1


def axes_of(g: Geometry) -> tuple[Axis, Axis, Axis]:
    """Depth, height and width; those that a layer does not have are one pixel."""
    sides = zip(g.input_size[1:], g.kernel_size, g.stride, g.padding, g.dilation, g.out_spatial, strict=True)
    axes = [Axis(n, k, s, before, after, d, out) for n, k, s, (before, after), d, out in sides]
    z, y, x = [Axis(1, 1, 1, 0, 0, 1, 1)] * (3 - g.rank) + axes
    return z, y, x


class Values:
    """The numbers of one layer; `j` is a channel after the depthwise step, `f` a filter. Sums are kept."""

    def __init__(self, g: Geometry) -> None:
        self.g, self.axes = g, axes_of(g)
        z, y, x = self.axes
        self.taps: list[Place] = list(product(range(z.k), range(y.k), range(x.k)))
        self.kept: dict[tuple[str, int, Place], int] = {}

    def inputs(self, c: int, place: Place) -> int:
        """0 to 3; zeros outside."""
        z, y, x = self.axes
        inside = 0 <= place[0] < z.n and 0 <= place[1] < y.n and 0 <= place[2] < x.n
        return _mixed(11, c, place) % 4 if inside else 0

    def dense(self, f: int, c: int, tap: Place) -> int:
        return _mixed(23 + 37 * f, c, tap) % 3 - 1

    def depthwise(self, j: int, tap: Place) -> int:
        return _mixed(37, j, tap) % 3 - 1

    def pointwise(self, f: int, j: int) -> int:
        return _mixed(155, j, (0, 0, f)) % 5 - 2

    def taps_few(self, most: int) -> list[Place]:
        """All taps of a small kernel, none of a large one."""
        return self.taps if self.g.kernel_area <= most else []

    def under(self, tap: Place, at: Place) -> Place:
        """The input's place that a tap lies on, for the output at `at`."""
        z, y, x = self.axes
        return (
            at[0] * z.s - z.before + tap[0] * z.d,
            at[1] * y.s - y.before + tap[1] * y.d,
            at[2] * x.s - x.before + tap[2] * x.d,
        )

    def dense_part(self, f: int, c: int, at: Place) -> int:
        """One channel's share of a dense output."""
        return sum(self.dense(f, c, tap) * self.inputs(c, self.under(tap, at)) for tap in self.taps)

    def dense_sum(self, f: int, at: Place) -> int | None:
        if self.g.in_channels * self.g.kernel_area > MOST_PRODUCTS:
            return None
        return self._keep("dense", f, at, lambda: sum(self.dense_part(f, c, at) for c in range(self.g.in_channels)))

    def depthwise_sum(self, j: int, at: Place) -> int:
        c = j // self.g.depth_multiplier
        return self._keep(
            "depthwise",
            j,
            at,
            lambda: sum(self.depthwise(j, tap) * self.inputs(c, self.under(tap, at)) for tap in self.taps),
        )

    def pointwise_sum(self, f: int, at: Place) -> int | None:
        channels = self.g.depthwise_channels
        if channels * self.g.kernel_area > MOST_PRODUCTS:
            return None
        return self._keep(
            "pointwise", f, at, lambda: sum(self.pointwise(f, j) * self.depthwise_sum(j, at) for j in range(channels))
        )

    def _keep(self, name: str, number: int, at: Place, compute: Callable[[], int]) -> int:
        key = (name, number, at)
        if key not in self.kept:
            self.kept[key] = compute()
        return self.kept[key]


def _mixed(seed: int, channel: int, place: Place) -> int:
    z, y, x = place
    h = (seed + 73 * channel + 151 * z + 179 * y + 283 * x) % PRIME
    return (h * h + seed) % PRIME
