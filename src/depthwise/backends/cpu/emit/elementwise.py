"""What is done to each number alone.

    for i in range(elements):                              (ElementsKernel)
        out[i] = terms(x[i], operands[i])

    for n, row in images, rows of each:                    (RowsKernel)
        for c in range(channels):
            out[n, row, c] = terms(x[n, row, c], an operand's [n, row, c], [n, c], [n, row] or [c])

Every number is read once, before it is written, and by nobody after: out may lie where x or an operand does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ...pixels import MOST_OPERANDS
from ..plan.elementwise import ElementwisePlan
from ..plan.sizes import LINE_ELEMENTS
from .activations import activated
from .derivatives import through
from .ir import Block, Int, Ptr, Vec, ceil_div, greatest, least
from .kernel import OnePlanKernel

OPERANDS = tuple(f"operand_{index}" for index in range(MOST_OPERANDS))
# Vectors of one turn of a loop.
AT_ONCE = 4

# The offsets of a number from where x, an image's factors, a pixel's and a channel's begin.
_Place = tuple[Int, Int, Int, Int]


@dataclass(frozen=True)
class ElementsKernel(OnePlanKernel):
    """Tasks: cache lines."""

    kind = "each_f32"
    pointers = ("x", *OPERANDS, "out")
    numbers = ("elements",)

    plan: ElementwisePlan

    def write(self, e: Block, thread: Int, threads: Int) -> None:
        elements, nothing = e.number("elements"), e.whole(0)
        lines = ceil_div(elements, LINE_ELEMENTS)
        first = thread * lines // threads * LINE_ELEMENTS
        stop = least((thread + 1) * lines // threads * LINE_ELEMENTS, elements)
        for lanes, count in ((self.plan.lanes, AT_ONCE), (self.plan.lanes, 1), (1, 1)):
            step = lanes * count
            end = first + greatest(stop - first, 0) // step * step
            with e.loop(first, end, step) as at:
                for i in range(count):
                    place = at.index + i * lanes
                    _store(e, self.plan, (place, nothing, nothing, nothing), lanes)
            first = end


@dataclass(frozen=True)
class RowsKernel(OnePlanKernel):
    """Tasks: rows."""

    kind = "each_f32"
    pointers = ("x", *OPERANDS, "out")
    numbers = ("all_rows", "image_rows")

    plan: ElementwisePlan

    def write(self, e: Block, thread: Int, threads: Int) -> None:
        rows, each, channels = e.number("all_rows"), e.number("image_rows"), self.plan.channels
        first, last = thread * rows // threads, (thread + 1) * rows // threads
        with e.loop(first // each, ceil_div(last, each)) as image:
            start, stop = greatest(first, image.index * each), least(last, (image.index + 1) * each)
            with e.loop(start, stop) as row:
                begin, factors = row.index * channels, image.index * channels

                def write(c: Int, lanes: int, begin: Int = begin, factors: Int = factors, row: Int = row.index) -> None:
                    _store(e, self.plan, (begin + c, factors + c, row, c), lanes)

                each_channel(e, channels, self.plan.lanes, write)


def each_channel(e: Block, channels: int, lanes: int, write: Callable[[Int, int], None]) -> None:
    """`write` all channels of a row by their first and their number: vectors, then narrower ones."""
    whole = channels // (lanes * AT_ONCE) * (lanes * AT_ONCE)
    with e.loop(0, whole, lanes * AT_ONCE) as c:
        for i in range(AT_ONCE):
            write(c.index + i * lanes, lanes)
    while whole < channels:
        while whole + lanes > channels:
            lanes //= 2
        write(e.whole(whole), lanes)
        whole += lanes


def _store(e: Block, k: ElementwisePlan, place: _Place, lanes: int) -> None:
    (e.pointer("out") + place[0]).store(_value(e, k, place, lanes))


def _value(e: Block, k: ElementwisePlan, place: _Place, lanes: int) -> Vec:
    """The terms of `lanes` numbers from a place on."""
    at, in_image, pixel, channel = place
    value, operands = (e.pointer("x") + at).load(lanes), iter(OPERANDS)
    offsets = {"each": at, "image": in_image, "channel": channel}
    for term in k.terms:
        if term.operation == "activation":
            value = activated(value, term.activation)
            continue
        if term.operand in offsets:
            start: Ptr = e.pointer(next(operands))
            other = (start + offsets[term.operand]).load(lanes)
        elif term.operand == "pixel":
            other = e.splat(e.pointer(next(operands)) + pixel, lanes)
        else:
            other = e.constant(term.value, lanes)
        if term.operation == "derivative":
            value = through(value, other, term.activation)
        else:
            value = _OPERATIONS[term.operation](value, other)
    return value


_OPERATIONS: dict[str, Callable[[Vec, Vec], Vec]] = {
    "add": lambda x, y: x + y,
    "sub": lambda x, y: x - y,
    "from": lambda x, y: y - x,
    "mul": lambda x, y: x * y,
    "div": lambda x, y: x / y,
}
