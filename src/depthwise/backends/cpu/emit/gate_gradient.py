"""The gradients of images whose channels were multiplied by factors of each image's own: squeeze-excite.

    for n in images:
        factors_gradient[n] = 0
        for some pixels of n:
            for some vectors of channels:
                for p in some pixels:
                    dx[n, p, c] = dy[n, p, c] * factors[n, c]
                    total[c] += dy[n, p, c] * x[n, p, c]
                factors_gradient[n, c] += total[c]

Sums of some pixels are added up, and not one after another: rounding grows with the number of both, not of all. An
image is one thread's, so the order does not depend on the threads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..plan.rows import RowPlan
from .ir import Block, Int, Ptr, Vec, least
from .kernel import OnePlanKernel
from .row_sums import pairwise

# Pixels that are summed one after another before the sums are added up, and side by side.
AT_ONCE, SIDE_BY_SIDE = 64, 2
# Vectors of one turn of a loop.
VECTORS = 4


@dataclass(frozen=True, slots=True)
class _Channels:
    """Some vectors of an image's pixels, from the first channel of these on."""

    lanes: int
    vectors: int
    x: Ptr
    dy: Ptr
    dx: Ptr
    factors: Ptr
    sums: Ptr


@dataclass(frozen=True)
class GateGradientKernel(OnePlanKernel):
    """Tasks: images."""

    kind = "gate_gradient_f32"
    pointers = ("x", "dy", "factors", "dx", "factors_gradient")
    numbers = ("images", "pixels")
    writes = ("dx", "factors_gradient")

    plan: RowPlan

    def write(self, e: Block, thread: Int, threads: Int) -> None:
        images, pixels, channels = e.number("images"), e.number("pixels"), self.plan.channels
        with e.loop(thread * images // threads, (thread + 1) * images // threads) as image:
            begin, own = image.index * pixels * channels, image.index * channels
            x, dy, dx = (e.pointer(name) + begin for name in ("x", "dy", "dx"))
            factors, sums = (e.pointer(name) + own for name in ("factors", "factors_gradient"))

            def clear(c: Int, lanes: int, vectors: int, sums: Ptr = sums) -> None:
                for j in range(vectors):
                    (sums + (c + j * lanes)).store(e.constant(0.0, lanes))

            each_vectors(e, channels, self.plan.lanes, clear)
            with e.loop(0, pixels, AT_ONCE) as some:
                stop = least(some.index + AT_ONCE, pixels)

                def write(
                    c: Int,
                    lanes: int,
                    vectors: int,
                    images: tuple[Ptr, Ptr, Ptr] = (x, dy, dx),
                    rows: tuple[Ptr, Ptr] = (factors, sums),
                    pixels: tuple[Int, Int] = (some.index, stop),
                ) -> None:
                    own = _Channels(lanes, vectors, *(place + c for place in (*images, *rows)))
                    _write(e, own, channels, pixels)

                each_vectors(e, channels, self.plan.lanes, write)


def each_vectors(e: Block, channels: int, lanes: int, write: Callable[[Int, int, int], None]) -> None:
    """`write` all channels by their first, lanes and vectors: VECTORS at a time, then one, then narrower ones."""
    whole = channels // (lanes * VECTORS) * (lanes * VECTORS)
    with e.loop(0, whole, lanes * VECTORS) as c:
        write(c.index, lanes, VECTORS)
    while whole < channels:
        while whole + lanes > channels:
            lanes //= 2
        write(e.whole(whole), lanes, 1)
        whole += lanes


def _write(e: Block, own: _Channels, channels: int, pixels: tuple[Int, Int]) -> None:
    first, stop = pixels
    offsets = [j * own.lanes for j in range(own.vectors)]
    factors = [(own.factors + offset).load(own.lanes) for offset in offsets]
    zero = e.constant(0.0, own.lanes)

    def added(total: Vec, pixel: Int, j: int) -> Vec:
        at = pixel * channels + offsets[j]
        dy = (own.dy + at).load(own.lanes)
        (own.dx + at).store(dy * factors[j])
        return dy.fma((own.x + at).load(own.lanes), total)

    whole = first + (stop - first) // SIDE_BY_SIDE * SIDE_BY_SIDE
    with e.loop(first, whole, SIDE_BY_SIDE, carried=[zero] * (own.vectors * SIDE_BY_SIDE)) as pixel:
        for i in range(SIDE_BY_SIDE):
            for j in range(own.vectors):
                at = i * own.vectors + j
                pixel.values[at] = added(pixel.values[at], pixel.index + i, j)
    sums = [pairwise(pixel.values[j :: own.vectors]) for j in range(own.vectors)]
    with e.loop(whole, stop, carried=sums) as last:
        for j in range(own.vectors):
            last.values[j] = added(last.values[j], last.index, j)
    for offset, total in zip(offsets, last.values, strict=True):
        place = own.sums + offset
        place.store(place.load(own.lanes) + total)
