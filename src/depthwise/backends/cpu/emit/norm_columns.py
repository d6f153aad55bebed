"""The loops of batch norms that go over all pixels of a few channels, and again, before they come to the next channels.

A *column* is what some channels have of all pixels: those of one vector where channels lie side by side, one channel
where they are planes, whose pixels then fill the vectors.

    for columns in the thread's share:        # `vectors` of them, channels side by side, or one of planes
        for tiles of a few vectors:           # pixels one after the other, or vectors of a plane
            sums[column] = body(column, tile, sums[column])

What is added to what goes by pixels, never by threads.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ..plan.norm import COLUMN_VECTORS, FETCHED_PIXELS, NormPlan
from .ir import Block, Int, Ptr, Vec, ceil_div, least
from .norm_tiles import Spot, Tile
from .wide import Wide, added_up

# What becomes of a column's sums; it is given the column's number among those done together.
Body = Callable[[int, Tile, list[Vec]], list[Vec]]
Sums = list[list[Vec]]


class Columns(ABC):
    """How columns lie."""

    def __init__(self, e: Block, plan: NormPlan) -> None:
        self.e, self.lanes, self.vectors = e, plan.lanes, plan.vectors

    @contextmanager
    def each(self, thread: Int, threads: Int) -> Iterator[list[Int]]:
        """The first channels of the columns that are done together, in the thread's share."""
        count = self._count()
        with self.e.loop(thread * count // threads, (thread + 1) * count // threads) as turn:
            yield self._channels(turn.index)

    @abstractmethod
    def _count(self) -> Int: ...

    @abstractmethod
    def _channels(self, turn: Int) -> list[Int]: ...

    @abstractmethod
    def known(self, place: Ptr) -> Vec:
        """For each lane the number of its channel; that of a column's first one lies at `place`."""

    @abstractmethod
    def by_channel(self, sums: Vec) -> Vec:
        """The sums of a column's channels, a lane for each."""

    @abstractmethod
    def over(self, channels: list[Int], sums: Sums, body: Body) -> Sums:
        """The sums of columns after all pixels."""


def columns_of(e: Block, plan: NormPlan) -> Columns:
    return (_Planes if plan.planar else _Pixels)(e, plan)


class _Pixels(Columns):
    def _count(self) -> Int:
        return ceil_div(self.e.number("channels"), self.lanes * self.vectors)

    def _channels(self, turn: Int) -> list[Int]:
        last = self.e.number("channels") - self.lanes
        return [least((turn * self.vectors + j) * self.lanes, last) for j in range(self.vectors)]

    def known(self, place: Ptr) -> Vec:
        return place.load(self.lanes)

    def by_channel(self, sums: Vec) -> Vec:
        return sums

    def over(self, channels: list[Int], sums: Sums, body: Body) -> Sums:
        e, pixels, apart, width = self.e, self.e.number("pixels"), self.e.number("channels"), len(sums[0])
        values = [value for own in sums for value in own]
        whole = pixels // COLUMN_VECTORS * COLUMN_VECTORS
        for first, last, step in ((e.whole(0), whole, COLUMN_VECTORS), (whole, pixels, 1)):
            with e.loop(first, last, step, carried=values) as pixel:
                found: list[Vec] = []
                for j, channel in enumerate(channels):
                    places = [(pixel.index + i) * apart + channel for i in range(step)]
                    ahead = [place + apart * FETCHED_PIXELS for place in places]
                    tile = Tile([Spot(self.lanes, place) for place in places], channel, ahead)
                    found += body(j, tile, pixel.values[j * width : (j + 1) * width])
                pixel.values = found
            values = pixel.values
        return [values[j * width : (j + 1) * width] for j in range(len(channels))]


class _Planes(Columns):
    def _count(self) -> Int:
        return self.e.number("channels")

    def _channels(self, turn: Int) -> list[Int]:
        return [turn]

    def known(self, place: Ptr) -> Vec:
        return self.e.splat(place, self.lanes)

    def by_channel(self, sums: Vec) -> Vec:
        return added_up(sums) if isinstance(sums, Wide) else sums

    def over(self, channels: list[Int], sums: Sums, body: Body) -> Sums:
        e, lanes, size = self.e, self.lanes, self.e.number("out_x")
        (channel,), (values,) = channels, sums
        image_size, wide = self.e.number("channels") * size, lanes * COLUMN_VECTORS
        tiled, whole = size // wide * wide, size // lanes * lanes
        with e.loop(0, e.number("batch"), carried=values) as image:
            values, start = image.values, image.index * image_size + channel * size
            for first, last, step in ((e.whole(0), tiled, wide), (tiled, whole, lanes), (whole, size, lanes)):
                with e.loop(first, last, step, carried=values) as pixel:
                    places = [start + (pixel.index + i) for i in range(0, step, lanes)]
                    count = size - pixel.index if first is whole else None
                    # Planes of one channel lie apart: where the next one begins nothing foretells.
                    ahead = [place + image_size for place in places]
                    tile = Tile([Spot(lanes, place, count) for place in places], channel, ahead)
                    pixel.values = body(0, tile, pixel.values)
                values = pixel.values
            image.values = values
        return [image.values]
