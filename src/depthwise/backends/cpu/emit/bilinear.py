"""An image resized: each pixel of the result weighs the four around its place in the image.

    for n, y in images, rows of the result:
        v, top, bottom = place(y, step_y, rows)
        for x in range(columns of the result):
            u, left, right = place(x, step_x, columns)
            out[n, y, x] = (image[n, top, left] · (1 - u) + image[n, top, right] · u) · (1 - v)
                         + (image[n, bottom, left] · (1 - u) + image[n, bottom, right] · u) · v

    place(i, step, size): at = max(step · (i + 1/2) - 1/2, 0), or step · i where corners lie on corners
                          at - floor(at), floor(at), the next one if there is one

Places are float64, weights float32.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..plan.bilinear import BilinearPlan
from .elementwise import each_channel
from .ir import Block, Int, Ptr, Vec, least
from .kernel import OnePlanKernel
from .wide import narrowed, of_bits, of_count, truncated


@dataclass(frozen=True)
class BilinearKernel(OnePlanKernel):
    """Tasks: rows."""

    kind = "bilinear_f32"
    pointers = ("x", "out")
    numbers = ("all_rows", "in_y", "in_x", "out_y", "out_x", "y_bits", "x_bits")

    plan: BilinearPlan

    def write(self, e: Block, thread: Int, threads: Int) -> None:
        k, rows, columns = self.plan, e.number("all_rows"), e.number("out_x")
        with e.loop(thread * rows // threads, (thread + 1) * rows // threads) as row:
            image, y = row.index // e.number("out_y"), row.index % e.number("out_y")
            v, *lines = _place(e, k, y, "y")
            begins = [
                e.pointer("x") + (image * e.number("in_y") + line) * e.number("in_x") * k.channels for line in lines
            ]
            with e.loop(0, columns) as column:
                u, *places = _place(e, k, column.index, "x")
                pixels = [[begin + place * k.channels for place in places] for begin in begins]
                out = e.pointer("out") + (row.index * columns + column.index) * k.channels

                def write(c: Int, lanes: int, u: Vec = u, pixels: list[list[Ptr]] = pixels, out: Ptr = out) -> None:
                    top, bottom = (_between(*((place + c).load(lanes) for place in pair), weight=u) for pair in pixels)
                    (out + c).store(_between(top, bottom, weight=v))

                each_channel(e, k.channels, k.lanes, write)


def _place(e: Block, k: BilinearPlan, index: Int, axis: str) -> tuple[Vec, Int, Int]:
    """The weight of the later neighbour, and both."""
    step, last = of_bits(e.number(f"{axis}_bits"), 1), e.number(f"in_{axis}") - 1
    at: Vec = of_count(index, 1)
    at = at * step if k.aligned else ((at + 0.5) * step - 0.5).at_least(0.0)
    first = least(truncated(at), last)
    return narrowed(at - of_count(first, 1)), first, least(first + 1, last)


def _between(one: Vec, other: Vec, *, weight: Vec) -> Vec:
    weights = weight.permuted([0] * one.lanes)
    return one * (1.0 - weights) + other * weights
