"""A norm over groups of channels of each image: sums of each channel, what they make of it, then a scale and a shift.

    for n, block of channels in images, blocks:            (GroupSumsKernel)
        for pixel p of n:
            sums[n][0][c] += x[n, p, c];  sums[n][1][c] += x[n, p, c]²          # float64
    for n, group in images, groups:                        (GroupFactorsKernel)
        mean = sum of sums[n][0][c] in group / count;  var = sum of sums[n][1][c] / count - mean²
        scales[n][c] = scale[c] / sqrt(var + eps);  shifts[n][c] = shift[c] - mean · scales[n][c]

Then x · scales + shifts. float64 holds the square of a float32 exactly. The order does not depend on the threads.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ..plan.group_norm import GroupPlan
from .ir import Block, Int, Ptr, Vec, least
from .kernel import OnePlanKernel
from .wide import CELLS, Wide, constant, load_wide, narrowed, of_bits, of_count, root, store_wide, widened


@dataclass(frozen=True)
class GroupSumsKernel(OnePlanKernel):
    """Tasks: images x blocks of channels."""

    kind = "group_sums_f32"
    pointers = ("x", "sums")
    numbers = ("images", "image_rows")
    writes = ("sums",)

    plan: GroupPlan

    def write(self, e: Block, thread: Int, threads: Int) -> None:
        k, pixels = self.plan, e.number("image_rows")
        width = k.lanes * k.vectors
        with _share(e, k.blocks, thread, threads) as (image, block):
            channel = least(block * width, k.channels - width)
            x = e.pointer("x") + (image * pixels * k.channels + channel)
            zero: Vec = constant(e, 0.0, k.lanes)
            with e.loop(0, pixels, carried=[zero] * (2 * k.vectors)) as pixel:
                for j in range(k.vectors):
                    value = widened((x + (pixel.index * k.channels + j * k.lanes)).load(k.lanes))
                    pixel.values[2 * j] = pixel.values[2 * j] + value
                    pixel.values[2 * j + 1] = value.fma(value, pixel.values[2 * j + 1])
            for j in range(k.vectors):
                for which in (0, 1):
                    store_wide(_sum(e, k, image, which, channel + j * k.lanes), pixel.values[2 * j + which])


@dataclass(frozen=True)
class GroupFactorsKernel(OnePlanKernel):
    """Tasks: images x groups."""

    kind = "group_factors_f32"
    pointers = ("sums", "scale", "shift", "scales", "shifts")
    numbers = ("images", "image_rows", "eps_bits")
    writes = ("scales", "shifts")

    plan: GroupPlan

    def write(self, e: Block, thread: Int, threads: Int) -> None:
        k, each = self.plan, self.plan.channels // self.plan.groups
        count, eps = of_count(e.number("image_rows") * each, 1), of_bits(e.number("eps_bits"), 1)
        with _share(e, k.groups, thread, threads) as (image, group):
            first = group * each
            zero: Vec = constant(e, 0.0, 1)
            with e.loop(first, first + each, carried=[zero, zero]) as c:
                c.values = [value + load_wide(_sum(e, k, image, n, c.index), 1) for n, value in enumerate(c.values)]
            mean = c.values[0] / count
            # Rounding may leave less than nothing; of what is no number it leaves that.
            variance = (mean * -1.0).fma(mean, c.values[1] / count).at_least(0.0)
            inverse = constant(e, 1.0, 1) / root(variance + eps)
            with e.loop(first, first + each) as channel:
                scale, shift = _one(e, k, "scale", channel.index), _one(e, k, "shift", channel.index)
                factor: Vec = inverse if scale is None else inverse * scale
                term = mean * factor * -1.0 if shift is None else (mean * -1.0).fma(factor, shift)
                for name, value in (("scales", factor), ("shifts", term)):
                    (e.pointer(name) + (image * k.channels + channel.index)).store(narrowed(value))


@contextmanager
def _share(e: Block, parts: int, thread: Int, threads: Int) -> Iterator[tuple[Int, Int]]:
    """Image and part of each task of a thread."""
    tasks = e.number("images") * parts
    with e.loop(thread * tasks // threads, (thread + 1) * tasks // threads) as task:
        yield task.index // parts, task.index % parts


def _sum(e: Block, k: GroupPlan, image: Int, which: int, channel: Int) -> Ptr:
    return e.pointer("sums") + ((image * 2 + which) * k.channels + channel) * CELLS


def _one(e: Block, k: GroupPlan, name: str, channel: Int) -> Wide | None:
    return widened((e.pointer(name) + channel).load(1)) if k.affine else None
