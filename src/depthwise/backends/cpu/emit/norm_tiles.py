"""The loops that the kernels of a batch norm share: chunks of pixels, tiles of a few pixels, vectors of channels.

for chunk in the thread's share of chunks:
for pixels in tiles of TILE_PIXELS of the chunk, then of the last chunk's rest one by one:
for c in range(0, channels, lanes):            # the last vector begins at channels - lanes
body(pixels, c)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from ..machine import FLOAT_BYTES
from ..plan.norm import FETCHED_ELEMENTS, TILE_PIXELS
from .ir import Block, Int, Ptr, Vec, ceil_div, least
from .masks import load_first, store_first
from .wide import CELLS

LINE_ELEMENTS = 64 // FLOAT_BYTES


@dataclass(frozen=True, slots=True)
class Spot:
    """A vector of what is normalised, `offset` elements from the first of all.

    count: of its lanes that there are, where that is not all
    """

    lanes: int
    offset: Int
    count: Int | None = None

    def load(self, base: Ptr) -> Vec:
        """Zeros in the place of what is not there."""
        place = base + self.offset
        return place.load(self.lanes) if self.count is None else load_first(place, self.count, self.lanes)

    def store(self, base: Ptr, vector: Vec) -> None:
        place = base + self.offset
        if self.count is None:
            place.store(vector)
        else:
            store_first(place, self.count, vector)


@dataclass(frozen=True, slots=True)
class Tile:
    """Some vectors of the same channels.

    All are read before the first is written: a load waits for a store just before it to an address that ends in the
    same 12 bits, and tensors of whole pages that follow one another in memory lie so.

    channel: the first one
    ahead:   in elements from the first of all, of lines that a later tile reads
    """

    spots: Sequence[Spot]
    channel: Int
    ahead: Sequence[Int]

    def load(self, base: Ptr) -> list[Vec]:
        return [spot.load(base) for spot in self.spots]

    def store(self, base: Ptr, vectors: Sequence[Vec]) -> None:
        for spot, vector in zip(self.spots, vectors, strict=True):
            spot.store(base, vector)

    def fetch(self, *places: Ptr) -> None:
        """Ask for what is read, or written, a little later."""
        for place in places:
            for offset in self.ahead:
                (place + offset).prefetch(1)


@contextmanager
def chunks(e: Block, thread: Int, threads: Int, *, backwards: bool = False) -> Iterator[tuple[Int, Int, Int]]:
    """Each chunk of the thread, and its first and last tile; backwards: what was read last is still in the caches."""
    count = e.number("chunks")
    tiles = e.number("pixels") // TILE_PIXELS
    first, last = thread * count // threads, (thread + 1) * count // threads
    with e.loop(first, last) as loop:
        chunk = first + last - 1 - loop.index if backwards else loop.index
        yield chunk, chunk * tiles // count, (chunk + 1) * tiles // count


# What is done to a tile, whose sums are at a place among those of its chunk.
ChunkBody = Callable[[Tile, Int], None]


def write_chunk(e: Block, lanes: int, chunk: tuple[Int, Int, Int], body: ChunkBody) -> None:
    """`body` for each tile of the chunk."""
    number, begin, end = chunk
    channels, pixels = e.number("channels"), e.number("pixels")
    with e.loop(begin, end) as tile:
        _write_vectors(e, lanes, tile.index * TILE_PIXELS * channels, TILE_PIXELS, body)
    # The pixels left over are the last chunk's.
    is_last = (number + 1).equals(e.number("chunks"))
    rest = is_last.pick(pixels // TILE_PIXELS * TILE_PIXELS, pixels)
    with e.loop(rest, pixels) as pixel:
        _write_vectors(e, lanes, pixel.index * channels, 1, body)


def _write_vectors(e: Block, lanes: int, start: Int, pixels: int, body: ChunkBody) -> None:
    channels = e.number("channels")
    rows = [start + channels * row for row in range(pixels)]
    with vectors(e, lanes, e.whole(0), ceil_div(channels, lanes)) as (channel, slot):
        ahead = start + slot * pixels + FETCHED_ELEMENTS
        lines = [ahead + line for line in range(0, lanes * pixels, LINE_ELEMENTS)]
        # Tile by tile they come in the order of memory.
        body(Tile([Spot(lanes, row + channel) for row in rows], channel, lines), slot)


@contextmanager
def vectors(e: Block, lanes: int, first: Int, last: Int) -> Iterator[tuple[Int, Int]]:
    """The first channel of each vector, and its slot among sums."""
    with e.loop(first, last) as loop:
        slot = loop.index * lanes
        yield least(slot, e.number("channels") - lanes), slot


def sums_of(e: Block, chunk: Int, which: int) -> Ptr:
    """Where a chunk's first or second sums begin, float64 by channel."""
    width = e.number("sum_channels")
    return e.pointer("sums") + (chunk * 2 + which) * width * CELLS
