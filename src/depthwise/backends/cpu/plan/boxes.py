"""Results in planes: boxes, pieces of an image whose pixels follow one another in a plane."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

from ....geometry import Geometry
from ..machine import FLOAT_BYTES, Machine
from .cut import Cut
from .filters import sets_of
from .sizes import LINE_ELEMENTS, Axes, lanes_below, moved_bytes, three, unaliased, window_of

# Channels-last pixels of one block of channels that come to scratch: those of a box may each be on a page of its own.
MOST_PACKED_PIXELS = 1024
# So often windows see each at least, of those that share few sets of L1, and of others.
FEWEST_PACKED_TIMES = (25, 125)
# Windows whose stride is more times their reach lie apart, and so many pixels of the input between them, for each that
# other boxes have of the result, come to scratch with a box at most.
MOST_APART = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Boxes(Cut):
    """Boxes are dealt out, depthwise alone with each block of filters.

    z_bands:    runs of output planes
    boxes:      of each of them: bands of rows, or with more segments than one pieces of one row
    segments:   pieces of a row
    box_pixels: the most that one has
    in_scratch: elements that a packed box may need
    tile_pixels: pixels that are multiplied in one go, which the register tile is chosen for
    fetch_rows, fetch_planes, fetch_blocks: as those of Strips; only blocks are fetched ahead
    """

    z_bands: int
    boxes: int
    segments: int
    box_pixels: int
    in_scratch: int
    tile_pixels: int
    fetch_rows: int = 0
    fetch_planes: int = 0
    fetch_blocks: int = 0


def comes_packed(g: Geometry, batch: int, machine: Machine, pixel_stride: int) -> bool:
    """Whether channels-last pixels are brought to scratch, which is worth it where windows see each of them often.

    Where they share few sets of L1, and where vectors are as long as lines, and lie across two, of large windows.
    """
    sets, seen = sets_of(pixel_stride), prod(g.kernel_size) // prod(g.stride)
    is_crowded = sets == 1 or (sets == 2 and moved_bytes(g, batch) > machine.l2_bytes)
    lies_across = machine.vector_lanes == LINE_ELEMENTS and pixel_stride % LINE_ELEMENTS > 0
    if g.rank == 3 and lies_across:
        return seen >= FEWEST_PACKED_TIMES[1]
    return g.rank > 1 and is_crowded and seen >= FEWEST_PACKED_TIMES[0]


def packed_cut(g: Geometry, batch: int, machine: Machine, threads: int) -> Boxes:
    """Boxes of pixels that come to scratch, and whose results go where they lie."""
    cut = boxes_cut(g, batch, machine, threads, planar_in=True, most=MOST_PACKED_PIXELS)
    return replace(cut, scratch_elements=cut.in_scratch)


def boxes_cut(
    g: Geometry, batch: int, machine: Machine, threads: int, *, planar_in: bool, most: int | None = None
) -> Boxes:
    """most: pixels of a box, about"""
    depth, height, width = three(g.out_spatial, 1)
    lanes = lanes_below(g.depthwise_channels, machine.vector_lanes)
    channels = g.out_channels and unaliased(g.depthwise_channels) + 2 * g.out_channels
    target = max(56, machine.l2_bytes // 4 // (FLOAT_BYTES * (channels or 2 * lanes)))
    target = min(target, most or target)
    if planar_in:
        # What comes to scratch for a pixel: as many as the stride goes over.
        target = max(56, min(target, machine.l2_bytes // 2 // (FLOAT_BYTES * lanes * prod(g.stride))))
    segments = max(1, round(width / target)) if width >= 2 * target else 1
    windows = zip(*window_of(g), strict=True)
    z_apart, y_apart, x_apart = (planar_in and s > MOST_APART * ((n - 1) * d + 1) for n, s, d in windows)
    if x_apart:
        # What lies between windows comes to scratch with them.
        segments = max(segments, min(width, width * g.stride[-1] // (MOST_APART * target)))
    bands = height if segments > 1 or y_apart else min(height, -(-height * width // target))
    if g.out_channels is not None:
        # As many boxes for each thread; depthwise alone, there are blocks of channels to deal out.
        others = batch * depth * segments
        fewest = min(height, max(bands, -(-threads // others)))
        bands = next((n for n in range(fewest, height + 1) if n * others % threads == 0), fewest)
    by_planes = bands * segments > 1 or z_apart
    z_bands = depth if by_planes else min(depth, max(threads, -(-depth * height * width // target)))
    planes, rows, columns = -(-depth // z_bands), -(-height // bands), -(-width // segments)
    pixels = planes * rows * columns
    in_scratch = covered_pixels(g, (planes, rows, columns), whole=segments == 1) * lanes if planar_in else 0
    lie_together = g.rank == 1 and not planar_in
    return Boxes(
        threads=threads,
        segments=segments,
        z_bands=z_bands,
        boxes=bands * segments,
        box_pixels=pixels,
        in_scratch=in_scratch,
        tile_pixels=pixels,
        scratch_elements=in_scratch + pixels * (channels or lanes),
        fetch_blocks=int(lie_together and moved_bytes(g, batch) > machine.l2_bytes),
    )


def covered_pixels(g: Geometry, outputs: Axes, *, whole: bool) -> int:
    """The most input pixels under the windows of a box of outputs; of `whole` rows all columns are packed."""
    sizes, kernel = three(g.input_size[1:], 1), three(g.kernel_size, 1)
    stride, dilation = three(g.stride, 1), three(g.dilation, 1)
    depth, height, width = (
        min(size, (n - 1) * s + (k - 1) * d + 1)
        for size, n, k, s, d in zip(sizes, outputs, kernel, stride, dilation, strict=True)
    )
    return depth * height * (sizes[2] if whole else width)
