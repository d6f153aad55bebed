"""How one call's work is cut into tasks: run-time numbers only, so that no size is ever compiled in."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from operator import itemgetter

from ...geometry import Geometry
from .machine import FLOAT_BYTES, Machine
from .plan import Axes, fetches_next, lanes_below, pointwise_bytes, three, unaliased, weights_stay
from .plan_depthwise import runs_direct
from .plan_pointwise import in_vain, usual_heights

# A parallel region costs a few microseconds; below this many multiply-adds one thread is done sooner.
SERIAL_MACS = 100_000
# From and to beyond L2, so few rows at a time that memory is walked almost in order: 8x128x56x56, 3x3, took 16 % less
# time than by whole images (Intel Xeon, 1 thread, nothing in the caches, 2026-11-25).
FAR_STRIP_ROWS = 4
# Planes of as many times the size of L2 come from memory. Those of single images, which a third-level cache of 32 MiB
# held, took 15 % more time when they were fetched ahead (AMD EPYC, Zen 4, 1 thread, 2026-11-27).
FAR_PLANES = 8
# Blocks of filters whose sums take about as long as it takes to fetch a line from beyond L2.
FETCHED_BLOCKS = 16
# A band of no more pixels is not worth reading all weights for; where they come from beyond L2, one of some more is not
# either: 49 pixels, 512 to 1024 channels, took 10 % more time in two bands than in two stages (AMD EPYC, Zen 4, 2
# threads, 2026-11-28).
FEWEST_PIXELS, FEWEST_PIXELS_FAR = 24, 56
# The time of two stages, beside even shares of the work: what one thread computed comes to the others from its caches.
# 49 pixels, 960 to 160 channels, took 5 to 9 % less in two bands (the same machine).
TWO_STAGES = 1.06
# Bands of two sizes lose so much of the time, times the share of the rarer size: what one fetches is then not the whole
# of the next.
UNEVEN = 0.1
# Windows whose stride is more times their reach lie apart, and so many pixels of the input between them, for each that
# other boxes have of the result, come to scratch with a box at most.
MOST_APART = 8
# A wave of tasks that leaves threads idle for more than this share is cut otherwise.
LEAST_BALANCE = 0.95


@dataclass(frozen=True, slots=True)
class Schedule:
    """Numbers for the slots of the same names.

    fused:       depthwise and pointwise in one stage, else in two with the whole depthwise result between them
    whole_rows:  1 where bands begin with a row or a segment of it, 0 where with any pixel
    tile_pixels: pixels that are multiplied in one go, which the register tile is chosen for
    shared_elements: of the depthwise result between two stages; scratch_elements: of one thread
    plane_rows:  rows of a plane that are done, on all planes, before others; they divide its rows evenly
    strip_rows:  rows that a strip goes down
    fetch_in:    how many rows ahead the input is fetched, 0 where it stays in L2; where `plane_rows` are fewer than a
                 plane's, any other number fetches for the next plane; of planes (planes.py) how many planes ahead, of
                 sequences whose pixels lie together how many blocks of filters: 1, or 0
    fetch_next:  elements of the next band's input that are fetched for each pixel of this one
    """

    threads: int
    fused: bool = True
    segments: int = 1
    whole_rows: int = 1
    chunks: int = 1
    bands: int = 1
    panel_chunks: int = 1
    z_bands: int = 1
    boxes: int = 1
    box_pixels: int = 0
    in_scratch: int = 0
    tile_pixels: int = 0
    scratch_elements: int = 0
    plane_rows: int = 1
    strip_rows: int = 1
    fetch_in: int = 0
    fetch_next: int = 0
    shared_elements: int = 0


def schedule(g: Geometry, batch: int, machine: Machine, threads: int, *, planar_in: bool, planar_out: bool) -> Schedule:
    """Cut a depthwise convolution, or a separable one, into tasks for `threads` threads."""
    out = batch * prod(g.out_spatial)
    macs = out * g.depthwise_channels * (g.kernel_area + (g.out_channels or 0))
    if macs < SERIAL_MACS:
        threads = 1
    moved_bytes = FLOAT_BYTES * batch * (prod(g.input_size) + prod(g.output_size))
    if planar_in and runs_direct(g, machine):
        return Schedule(threads, fetch_in=int(moved_bytes > FAR_PLANES * machine.l2_bytes))
    if planar_out:
        s = _boxes(g, batch, machine, threads, planar_in=planar_in)
        return replace(s, fetch_in=int(g.rank == 1 and not planar_in and moved_bytes > machine.l2_bytes))
    cut = _depthwise if g.out_channels is None else _separable
    height = three(g.out_spatial, 1)[1]
    s = replace(cut(g, batch, machine, threads), plane_rows=height, strip_rows=height)
    if moved_bytes <= machine.l2_bytes:
        return s
    if g.out_channels is None:
        s = replace(s, plane_rows=_plane_rows(g, machine), strip_rows=FAR_STRIP_ROWS)
    if s.fused and fetches_next(g, machine):
        return replace(s, fetch_next=g.in_channels * prod(g.stride))
    return replace(s, fetch_in=max(1, FETCHED_BLOCKS // -(-g.depthwise_channels // machine.vector_lanes)))


def _depthwise(g: Geometry, batch: int, machine: Machine, threads: int) -> Schedule:
    rows = batch * prod(g.out_spatial[:-1])
    segments = _segments(g, rows, threads, g.out_spatial[-1])
    blocks = -(-g.depthwise_channels // machine.vector_lanes)
    chunks = min(threads, blocks) if _balance(rows * segments, threads) < LEAST_BALANCE else 1
    return Schedule(threads, segments=segments, chunks=chunks)


def _separable(g: Geometry, batch: int, machine: Machine, threads: int) -> Schedule:
    """The cut of the least time, in units of what even shares of the work alone would take."""
    stride = unaliased(g.depthwise_channels)
    # Little of L2 where the weights stay there too; else more, and enough pixels to use a panel of weights often.
    share = machine.l2_bytes // (16 if weights_stay(g, machine) else 4)
    target = max(56, share // (FLOAT_BYTES * stride))
    rows, width = batch * prod(g.out_spatial[:-1]), g.out_spatial[-1]
    pixels, segments = rows * width, _segments(g, rows, threads, target)
    units, unit_pixels = rows * segments, -(-width // segments)
    by_rows = _bands(g, machine, units, unit_pixels, threads, target)
    tile = -(-units // by_rows) * unit_pixels
    choices = [
        (
            1 / _balance(units, threads),
            Schedule(threads, segments=segments, bands=by_rows, tile_pixels=tile, scratch_elements=tile * stride),
        )
    ]
    bands = -(-max(1, -(-pixels // target)) // threads) * threads
    tile = -(-pixels // bands)
    fewest = FEWEST_PIXELS if pointwise_bytes(g) < 2 * machine.l2_bytes else FEWEST_PIXELS_FAR
    if threads > 1 and segments == 1 and tile > fewest:
        # Bands that begin and end within a row compute some of its depthwise pixels in vain.
        in_vain = g.kernel_area / (g.kernel_area + g.output_size[0] / g.groups) * width / tile
        elements = (-(-tile // width) + 1) * width * stride
        cut = Schedule(threads, bands=bands, whole_rows=0, tile_pixels=tile, scratch_elements=elements)
        choices.append((1 + in_vain, cut))
    if threads > 1:
        choices.append((TWO_STAGES, _two_stages(g, machine, threads, segments, pixels)))
    return min(choices, key=itemgetter(0))[1]


def _bands(g: Geometry, machine: Machine, units: int, unit_pixels: int, threads: int, target: int) -> int:
    """Bands of about `target` pixels that leave the fewest pixels over from tiles, and are of as many units each.

    What one band fetches of the next is as much as it has itself: Xception's blocks on 147x147 and 74x74 pixels took 3
    to 7 % less time than by bands of one and of two rows. Rows of 45 pixels, of which tiles leave 3 over, took 6 % less
    by three than by one (AMD EPYC, Zen 4, 1 thread, 2026-11-28).
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
        return over + UNEVEN * uneven, abs(each - usual)

    most = max(1, target * 3 // 2 // unit_pixels)
    return bands(min(range(max(1, usual // 2), most + 1), key=cost))


def _two_stages(g: Geometry, machine: Machine, threads: int, segments: int, pixels: int) -> Schedule:
    blocks = -(-g.depthwise_channels // machine.vector_lanes)
    panels = -(-g.output_size[0] // (2 * machine.vector_lanes))
    # By panels each thread reads its own weights only; by pixels the shares are more even.
    panel_chunks = threads if panels % threads == 0 or panels >= 8 * threads else 1
    bands = 1 if panel_chunks > 1 else min(threads, pixels)
    return Schedule(
        threads,
        fused=False,
        segments=segments,
        chunks=min(threads, blocks),
        bands=bands,
        panel_chunks=panel_chunks,
        tile_pixels=-(-pixels // bands),
        shared_elements=pixels * unaliased(g.depthwise_channels),
    )


def _boxes(g: Geometry, batch: int, machine: Machine, threads: int, *, planar_in: bool) -> Schedule:
    depth, height, width = three(g.out_spatial, 1)
    lanes = lanes_below(g.depthwise_channels, machine.vector_lanes)
    channels = g.out_channels and unaliased(g.depthwise_channels) + 2 * g.out_channels
    target = max(56, machine.l2_bytes // 4 // (FLOAT_BYTES * (channels or 2 * lanes)))
    segments = max(1, round(width / target)) if width >= 2 * target else 1
    windows = zip(*(three(numbers, 1) for numbers in (g.kernel_size, g.stride, g.dilation)), strict=True)
    z_apart, y_apart, x_apart = (planar_in and s > MOST_APART * ((n - 1) * d + 1) for n, s, d in windows)
    if x_apart:
        # What lies between windows comes to scratch with them.
        segments = max(segments, min(width, width * g.stride[-1] // (MOST_APART * target)))
    bands = height if segments > 1 or y_apart else min(height, -(-height * width // target))
    if g.out_channels is not None:
        # As many boxes for each thread; depthwise alone, there are blocks of channels to deal out. Xception's blocks on
        # 19x19 pixels, once 7 boxes, took 9 to 12 % less time (AMD EPYC, Zen 4, 2 threads, 2026-11-28).
        others = batch * depth * segments
        fewest = min(height, max(bands, -(-threads // others)))
        bands = next((n for n in range(fewest, height + 1) if n * others % threads == 0), fewest)
    by_planes = bands * segments > 1 or z_apart
    z_bands = depth if by_planes else min(depth, max(threads, -(-depth * height * width // target)))
    planes, rows, columns = -(-depth // z_bands), -(-height // bands), -(-width // segments)
    pixels = planes * rows * columns
    in_scratch = _covered(g, (planes, rows, columns), whole=segments == 1) * lanes if planar_in else 0
    return Schedule(
        threads,
        segments=segments,
        z_bands=z_bands,
        boxes=bands * segments,
        box_pixels=pixels,
        in_scratch=in_scratch,
        tile_pixels=pixels,
        scratch_elements=in_scratch + pixels * (channels or lanes),
    )


def _covered(g: Geometry, outputs: Axes, *, whole: bool) -> int:
    """The most input pixels under the windows of a box of outputs; of `whole` rows all columns are packed."""
    sizes, kernel = three(g.input_size[1:], 1), three(g.kernel_size, 1)
    stride, dilation = three(g.stride, 1), three(g.dilation, 1)
    depth, height, width = (
        min(size, (n - 1) * s + (k - 1) * d + 1)
        for size, n, k, s, d in zip(sizes, outputs, kernel, stride, dilation, strict=True)
    )
    return depth * height * (sizes[2] if whole else width)


def _segments(g: Geometry, rows: int, threads: int, target: int) -> int:
    """Pieces of a row, of `target` pixels or more: one, unless rows are long or few.

    A piece goes alone, without the rows below it: depthwise alone on 600 to 1024 columns took 7 to 18 % less time by
    whole rows (AMD EPYC, Zen 4, 1 thread, 2026-11-28).
    """
    width = g.out_spatial[-1]
    wanted = max(width // target, -(-2 * threads // max(1, rows)) if threads > 1 else 1)
    return max(1, min(wanted, width // 32))


def _plane_rows(g: Geometry, machine: Machine) -> int:
    """The most rows under which the window's planes stay in L2, where fewer bytes come from beyond it so."""
    (depth, height, _), kernel, stride = (three(n, 1) for n in (g.out_spatial, g.kernel_size, g.stride))
    if depth == 1:
        return height
    dilation = three(g.dilation, 1)
    reach, planes = (kernel[1] - 1) * dilation[1] + 1, (kernel[0] - 1) * dilation[0] + 1
    row_bytes = FLOAT_BYTES * g.in_channels * g.input_size[-1]

    def in_rows(rows: int) -> int:
        return (rows - 1) * stride[1] + reach

    most = (machine.l2_bytes // 2 // (planes * row_bytes) - reach) // stride[1] + 1
    for rows in range(min(height, most), 0, -1):
        if height % rows == 0:
            return rows if in_rows(rows) * stride[0] < kernel[0] * rows * stride[1] else height
    return height


def _balance(tasks: int, threads: int) -> float:
    """Share of the threads' time that is work where `tasks` equal tasks are dealt out."""
    return tasks / (-(-tasks // threads) * threads)
