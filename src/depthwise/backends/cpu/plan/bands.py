"""Separable convolutions of pixels: bands that stay in L2 between their two steps, or two stages."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from operator import itemgetter

from ....geometry import Geometry
from ..machine import FLOAT_BYTES, Machine
from .cut import Cut, balance, segments_of
from .panels import Panels, panels_cut
from .pointwise import usual_heights
from .product import in_vain
from .sizes import fetches_next, moved_bytes, pointwise_bytes, three, unaliased, weights_stay
from .strips import Strips, fetched_ahead, filter_blocks
from .tuning import tuning_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Bands(Cut):
    """Bands, runs of neighbouring pixels, are dealt out.

    segments:    pieces of a row
    bands:       of all pixels
    whole_rows:  1 where bands begin with a row or a segment of it, 0 where with any pixel
    tile_pixels: the most that one has, which the register tile is chosen for
    fetch_next:  elements of the next band's input that are fetched for each pixel of this one
    plane_rows, strip_rows, fetch_rows, fetch_planes, fetch_blocks: as those of Strips
    """

    segments: int
    bands: int
    whole_rows: int
    tile_pixels: int
    plane_rows: int
    strip_rows: int
    fetch_next: int = 0
    fetch_rows: int = 0
    fetch_planes: int = 0
    fetch_blocks: int = 0


@dataclass(frozen=True, slots=True)
class TwoStages:
    """The whole depthwise result lies between two stages."""

    strips: Strips
    panels: Panels


def separable_cut(g: Geometry, batch: int, machine: Machine, threads: int) -> Bands | TwoStages:
    """The cut of the least time, in units of what even shares of the work alone would take."""
    stride, height = unaliased(g.depthwise_channels), three(g.out_spatial, 1)[1]
    # Little of L2 where the weights stay there too; else more, and enough pixels to use a panel of weights often.
    share = machine.l2_bytes // (16 if weights_stay(g, machine) else 4)
    target = max(56, share // (FLOAT_BYTES * stride))
    rows, width = batch * prod(g.out_spatial[:-1]), g.out_spatial[-1]
    pixels, segments = rows * width, segments_of(g.out_spatial[-1], rows, threads, target)
    units, unit_pixels = rows * segments, -(-width // segments)
    by_rows = _even_bands(g, machine, units, unit_pixels, threads, target)
    tile = -(-units // by_rows) * unit_pixels
    whole = Bands(
        threads=threads,
        segments=segments,
        bands=by_rows,
        whole_rows=1,
        tile_pixels=tile,
        plane_rows=height,
        strip_rows=height,
        scratch_elements=tile * stride,
    )
    choices: list[tuple[float, Bands | TwoStages]] = [(1 / balance(units, threads), whole)]
    bands = -(-max(1, -(-pixels // target)) // threads) * threads
    tile = -(-pixels // bands)
    tuning = tuning_of(machine)
    fewest = tuning.fewest_pixels if pointwise_bytes(g) < 2 * machine.l2_bytes else tuning.fewest_pixels_far
    if threads > 1 and segments == 1 and tile > fewest:
        # Bands that begin and end within a row compute some of its depthwise pixels in vain.
        in_vain = g.kernel_area / (g.kernel_area + g.output_size[0] / g.groups) * width / tile
        elements = (-(-tile // width) + 1) * width * stride
        cut = replace(whole, bands=bands, whole_rows=0, tile_pixels=tile, scratch_elements=elements)
        choices.append((1 + in_vain, cut))
    if threads > 1:
        choices.append((tuning.two_stages, _two_stages(g, machine, threads, segments, pixels)))
    return _fetching(g, batch, machine, min(choices, key=itemgetter(0))[1])


def _fetching(g: Geometry, batch: int, machine: Machine, cut: Bands | TwoStages) -> Bands | TwoStages:
    """The same, with what lies beyond L2 fetched ahead."""
    if moved_bytes(g, batch) <= machine.l2_bytes:
        return cut
    if isinstance(cut, TwoStages):
        return replace(cut, strips=replace(cut.strips, **fetched_ahead(g, machine)))
    if fetches_next(g, machine):
        return replace(cut, fetch_next=g.in_channels * prod(g.stride))
    return replace(cut, **fetched_ahead(g, machine))


def _even_bands(g: Geometry, machine: Machine, units: int, unit_pixels: int, threads: int, target: int) -> int:
    """Bands of about `target` pixels that leave the fewest pixels over from tiles, and are of as many units each.

    What one band fetches of the next is as much as it has itself.
    """
    heights, usual = usual_heights(g, machine), max(1, target // unit_pixels)

    def bands(each: int) -> int:
        return min(units, -(-units // (each * threads)) * threads)

    def cost(each: int) -> tuple[float, int]:
        count = bands(each)
        size, larger = divmod(units, count)
        in_each = in_vain(size * unit_pixels, heights), in_vain((size + 1) * unit_pixels, heights)
        over = (in_each[0] * (count - larger) + in_each[1] * larger) / (units * unit_pixels)
        uneven = min(larger, count - larger) / count if fetches_next(g, machine) else 0.0
        return over + tuning_of(machine).uneven * uneven, abs(each - usual)

    most = max(1, target * 3 // 2 // unit_pixels)
    return bands(min(range(max(1, usual // 2), most + 1), key=cost))


def _two_stages(g: Geometry, machine: Machine, threads: int, segments: int, pixels: int) -> TwoStages:
    height, blocks = three(g.out_spatial, 1)[1], filter_blocks(g, machine)
    strips = Strips(
        threads=threads, segments=segments, chunks=min(threads, blocks), plane_rows=height, strip_rows=height
    )
    return TwoStages(strips, panels_cut(g, machine, threads, pixels))
