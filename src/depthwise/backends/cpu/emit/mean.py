"""The mean over the pixels of an image, whose channels lie side by side.

    for n, block of channels in images, blocks:
        total[c] = 0
        for some rows of numbers p of n:
            total[c] += sum of x[n, p, c]
        out[n, c] = total[c] / pixels

Sums of some pixels are added up, and not one after another: rounding grows with the number of both, not of all. The
order does not depend on the threads. Of sums of rows (row_sums.py) x holds those, and they are added up likewise.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..plan.mean import MeanPlan
from .ir import Block, Int, Ptr, Vec, least
from .kernel import OnePlanKernel
from .row_sums import pairwise

# Pixels that are summed side by side, and one after another before the sums are added up.
SIDE_BY_SIDE, AT_ONCE = 4, 64


@dataclass(frozen=True)
class MeanKernel(OnePlanKernel):
    """Tasks: images x blocks of channels."""

    kind = "mean_f32"
    pointers = ("x", "out")
    numbers = ("images", "image_rows", "pixels")

    plan: MeanPlan

    def write(self, e: Block, thread: Int, threads: Int) -> None:
        k = self.plan
        rows, tasks = e.number("image_rows"), e.number("images") * k.blocks
        width = k.lanes * k.vectors
        with e.loop(thread * tasks // threads, (thread + 1) * tasks // threads) as task:
            image, block = task.index // k.blocks, task.index % k.blocks
            channel = least(block * width, k.channels - width)
            x = e.pointer("x") + (image * rows * k.row_elements + (block * width if k.of_sums else channel))
            total = _total(e, k, x, rows)
            count = e.every(e.value(f"sitofp i64 {e.number('pixels').value} to float"), k.lanes)
            out = e.pointer("out") + (image * k.channels + channel)
            for j in range(k.vectors):
                (out + j * k.lanes).store(total[j] / count)


def _total(e: Block, k: MeanPlan, x: Ptr, pixels: Int) -> list[Vec]:
    zero = e.constant(0.0, k.lanes)
    with e.loop(0, pixels, AT_ONCE, carried=[zero] * k.vectors) as some:
        stop = least(some.index + AT_ONCE, pixels)
        whole = some.index + (stop - some.index) // SIDE_BY_SIDE * SIDE_BY_SIDE
        with e.loop(some.index, whole, SIDE_BY_SIDE, carried=[zero] * (k.vectors * SIDE_BY_SIDE)) as pixel:
            for i in range(SIDE_BY_SIDE):
                for j in range(k.vectors):
                    value = (x + ((pixel.index + i) * k.row_elements + j * k.lanes)).load(k.lanes)
                    pixel.values[i * k.vectors + j] = pixel.values[i * k.vectors + j] + value
        sums = [pairwise(pixel.values[j :: k.vectors]) for j in range(k.vectors)]
        with e.loop(whole, stop, carried=sums) as last:
            for j in range(k.vectors):
                last.values[j] = last.values[j] + (x + (last.index * k.row_elements + j * k.lanes)).load(k.lanes)
        some.values = [total + one for total, one in zip(some.values, last.values, strict=True)]
    return some.values
