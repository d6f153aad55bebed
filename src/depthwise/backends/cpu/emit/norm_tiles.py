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
from .ir import Block, Int, Ptr, ceil_div, least
from .wide import CELLS

LINE_ELEMENTS = 64 // FLOAT_BYTES


@dataclass(frozen=True, slots=True)
class Tile:
    """Some pixels and one vector of their channels.

    offsets: in elements, of each pixel's vector from the first element of all
    channel: the first one; slot: its place among sums
    ahead:   of lines that a later tile reads: tile by tile they come in the order of memory
    """

    offsets: Sequence[Int]
    channel: Int
    slot: Int
    ahead: Sequence[Int]

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


def write_chunk(e: Block, lanes: int, chunk: tuple[Int, Int, Int], body: Callable[[Tile], None]) -> None:
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


def _write_vectors(e: Block, lanes: int, start: Int, pixels: int, body: Callable[[Tile], None]) -> None:
    channels = e.number("channels")
    rows = [start + channels * row for row in range(pixels)]
    with vectors(e, lanes, e.whole(0), ceil_div(channels, lanes)) as (channel, slot):
        ahead = start + slot * pixels + FETCHED_ELEMENTS
        lines = [ahead + line for line in range(0, lanes * pixels, LINE_ELEMENTS)]
        body(Tile([row + channel for row in rows], channel, slot, lines))


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
