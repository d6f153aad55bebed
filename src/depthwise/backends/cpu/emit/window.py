"""The windows of a dense convolution: output pixels, taps, and where in the input both fall."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import and_

from ..plan.dense import DensePlan
from ..plan.product import LONGEST_CHAIN
from .ir import Block, Bool, Int, Ptr, Vec
from .product import add_products, joined, nothing

Bounds = tuple[int | Int, int | Int]


@dataclass(frozen=True, slots=True)
class Pixel:
    """An output pixel."""

    block: Block
    plan: DensePlan
    image: Int
    z: Int
    y: Int
    x: Int

    @property
    def places(self) -> list[Int]:
        """The input place iz, iy, ix of tap 0."""
        e, k = self.block, self.plan
        return [
            at * k.stride[axis] - e.number(f"pad_{'zyx'[axis]}") if axis > 2 - k.rank else at
            for axis, at in enumerate((self.z, self.y, self.x))
        ]

    def pointer(self, channel: Int) -> Ptr:
        """To an input channel under tap 0, which may lie outside the image."""
        e, k = self.block, self.plan
        iz, iy, ix = self.places
        place = self.image * e.number("x_n") + ix * k.pixel_stride
        if k.rank > 1:
            place = place + iy * e.number("x_y")
        if k.rank > 2:
            place = place + iz * e.number("x_z")
        return e.pointer("x") + (place + (channel * e.number("x_c") if k.planar else channel))

    def next(self) -> Pixel:
        """The pixel after this one, which may be in another row, plane or image."""
        e, k = self.block, self.plan
        x, is_over = _counted(self.x, e.number("out_x"))
        y, z, image = self.y, self.z, self.image
        if k.rank > 1:
            y, is_over = _counted(y, e.number("out_y"), is_over)
        if k.rank > 2:
            z, is_over = _counted(z, e.number("out_z"), is_over)
        return Pixel(e, k, is_over.pick(image + 1, image), z, y, x)

    def sees(self, tap: Tap, axes: Sequence[int]) -> Bool:
        """Whether a tap is inside the image along these axes."""
        e, k, taps = self.block, self.plan, (tap.z, tap.y, tap.x)
        seen = [
            (place + taps[axis] * k.dilation[axis]).is_index_of(e.number(f"in_{'zyx'[axis]}"))
            for axis, place in enumerate(self.places)
            if axis in axes
        ]
        return reduce(and_, seen)


def _counted(at: Int, size: Int, is_on: Bool | None = None) -> tuple[Int, Bool]:
    """The number after `at`, where `is_on`, from 0 again after `size` - 1; and whether it is that 0."""
    after = at + 1 if is_on is None else is_on.pick(at + 1, at)
    is_over = after.equals(size)
    return is_over.pick(0, after), is_over


@dataclass(frozen=True, slots=True)
class Tap:
    """A tap of the kernel and, of planes, an input channel of the group."""

    channel: Int
    z: Int
    y: Int
    x: Int

    def distance(self, e: Block, k: DensePlan) -> Int:
        """Elements from what tap 0 sees to what this one does."""
        distance = self.x * (k.dilation[2] * k.pixel_stride)
        if k.rank > 1:
            distance = distance + self.y * k.dilation[1] * e.number("x_y")
        if k.rank > 2:
            distance = distance + self.z * k.dilation[0] * e.number("x_z")
        return distance + self.channel * e.number("x_c") if k.planar else distance

    def term(self, k: DensePlan, count: int | Int) -> Int:
        """The row of a panel's slab, of `count` channels, that begins with this tap's weights."""
        tap = (self.z * k.kernel[1] + self.y) * k.kernel[2] + self.x
        return self.channel * k.taps + tap if k.planar else tap * count


def each_tap(
    e: Block,
    k: DensePlan,
    taps: Sequence[Bounds],
    sums: list[Vec],
    write: Callable[[Tap, list[Vec]], list[Vec]],
) -> list[Vec]:
    """The sums after `write` at each of the taps [start, stop) of each axis, of planes channel by channel.

    Sums of very many products are added up in chains, of the same taps wherever a pixel lies.
    """

    def nest(index: list[Int], sums: list[Vec]) -> list[Vec]:
        axis = len(index) - 1
        if k.chain_axis == axis:
            return joined(sums, turns(index, nothing(sums)))
        return turns(index, sums)

    def turns(index: list[Int], sums: list[Vec]) -> list[Vec]:
        if len(index) == 1 + len(taps):
            return write(Tap(*index), sums)
        start, stop = taps[len(index) - 1]
        if isinstance(start, int) and isinstance(stop, int) and stop - start == 1:
            return nest([*index, e.whole(start)], sums)
        with e.loop(start, stop, carried=sums) as turn:
            turn.values = nest([*index, turn.index], turn.values)
        return turn.values

    if k.planar:
        return add_products(e, k.group_inputs, sums, lambda c, sums: nest([c], sums), max(1, LONGEST_CHAIN // k.taps))
    return nest([e.whole(0)], sums)
