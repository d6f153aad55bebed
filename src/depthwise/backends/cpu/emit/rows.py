"""What sees a whole row of channels at once.

    for row in rows:                                       (LayerNormKernel)
        mean = sum of x[row, c] / channels
        deviation = sqrt(sum of (x[row, c] - mean)² / channels + eps)
        for c in range(channels):
            out[row, c] = (x[row, c] - mean) / deviation · scale[c] + shift[c]

    for row in rows:                                       (SoftmaxKernel)
        greatest = max of x[row, c]
        for c in range(channels):
            out[row, c] = e^(x[row, c] - greatest)
        for c in range(channels):
            out[row, c] = out[row, c] / sum of out[row, c]

Every number is read before it is written, and by nobody after: out may lie where x does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce

from ..plan.rows import RowPlan
from .activations import exp_minus
from .elementwise import AT_ONCE, each_channel
from .ir import Block, Int, Ptr, Vec, select
from .kernel import OnePlanKernel
from .wide import root

Fold = Callable[[Vec, Vec], Vec]


@dataclass(frozen=True)
class LayerNormKernel(OnePlanKernel):
    """Tasks: rows."""

    kind = "norm_f32"
    pointers = ("x", "scale", "shift", "out")
    numbers = ("all_rows",)

    plan: RowPlan

    def write(self, e: Block, thread: Int, threads: Int) -> None:
        k, rows = self.plan, e.number("all_rows")
        with e.loop(thread * rows // threads, (thread + 1) * rows // threads) as row:
            x, out = (e.pointer(name) + row.index * k.channels for name in ("x", "out"))
            mean = _folded(e, k, lambda c, lanes: (x + c).load(lanes), _sum) / k.channels

            def square(c: Int, lanes: int, x: Ptr = x, mean: Vec = mean) -> Vec:
                apart = (x + c).load(lanes) - mean.permuted([0] * lanes)
                return apart * apart

            factor = 1.0 / root(_folded(e, k, square, _sum) / k.channels + k.eps)

            def write(c: Int, lanes: int, x: Ptr = x, out: Ptr = out, mean: Vec = mean, factor: Vec = factor) -> None:
                value = ((x + c).load(lanes) - mean.permuted([0] * lanes)) * factor.permuted([0] * lanes)
                if k.affine:
                    scale, shift = ((e.pointer(name) + c).load(lanes) for name in ("scale", "shift"))
                    value = value.fma(scale, shift)
                (out + c).store(value)

            each_channel(e, k.channels, k.lanes, write)


@dataclass(frozen=True)
class SoftmaxKernel(OnePlanKernel):
    """Tasks: rows."""

    kind = "softmax_f32"
    pointers = ("x", "out")
    numbers = ("all_rows",)

    plan: RowPlan

    def write(self, e: Block, thread: Int, threads: Int) -> None:
        k, rows = self.plan, e.number("all_rows")
        with e.loop(thread * rows // threads, (thread + 1) * rows // threads) as row:
            x, out = (e.pointer(name) + row.index * k.channels for name in ("x", "out"))
            most = _folded(e, k, lambda c, lanes: (x + c).load(lanes), _greater)

            def power(c: Int, lanes: int, x: Ptr = x, out: Ptr = out, most: Vec = most) -> Vec:
                value = exp_minus(most.permuted([0] * lanes) - (x + c).load(lanes))
                (out + c).store(value)
                return value

            total = _folded(e, k, power, _sum)

            def write(c: Int, lanes: int, out: Ptr = out, total: Vec = total) -> None:
                (out + c).store((out + c).load(lanes) / total.permuted([0] * lanes))

            each_channel(e, k.channels, k.lanes, write)


def _sum(a: Vec, b: Vec) -> Vec:
    return a + b


def _greater(a: Vec, b: Vec) -> Vec:
    """Of two that are no NaN; of a row with one, every power is NaN whatever this is."""
    return select(a.above(b), a, b)


def _folded(e: Block, k: RowPlan, value: Callable[[Int, int], Vec], fold: Fold) -> Vec:
    """One number for a row: all values, vectors side by side first."""
    width, parts = k.lanes * AT_ONCE, []
    whole = k.channels // width * width
    if whole:
        first = [value(e.whole(i * k.lanes), k.lanes) for i in range(AT_ONCE)]
        with e.loop(width, whole, width, carried=first) as c:
            c.values = [fold(one, value(c.index + i * k.lanes, k.lanes)) for i, one in enumerate(c.values)]
        parts.append(_one(reduce(fold, c.values), fold))
    lanes = k.lanes
    while whole < k.channels:
        while whole + lanes > k.channels:
            lanes //= 2
        parts.append(_one(value(e.whole(whole), lanes), fold))
        whole += lanes
    return reduce(fold, parts)


def _one(vector: Vec, fold: Fold) -> Vec:
    """One lane for all, halves first."""
    while vector.lanes > 1:
        half = vector.lanes // 2
        vector = fold(vector.permuted(range(half)), vector.permuted(range(half, vector.lanes)))
    return vector
