"""Plans and schedules: pure numbers, names that say all that is in the code, tasks that cover what is asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import FrozenInstanceError, fields, replace
from itertools import chain, pairwise, product
from math import prod
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from depthwise.activations import ACTIVATIONS
from depthwise.backends.base import Activation
from depthwise.backends.cpu import launch, machine
from depthwise.backends.cpu.emit.boxes import BoxedDepthwiseKernel, PackedDepthwiseKernel
from depthwise.backends.cpu.emit.depthwise import DepthwiseKernel
from depthwise.backends.cpu.emit.direct import DirectKernel
from depthwise.backends.cpu.emit.fused import BoxedFusedKernel, FusedKernel
from depthwise.backends.cpu.emit.input_gradient import InputGradientKernel
from depthwise.backends.cpu.emit.kernel import Kernel
from depthwise.backends.cpu.emit.padded import PaddedKernel
from depthwise.backends.cpu.emit.patches import PatchKernel
from depthwise.backends.cpu.emit.planar import PlanarPointwiseKernel
from depthwise.backends.cpu.emit.pointwise import PointwiseKernel
from depthwise.backends.cpu.lower.pointwise import pointwise_program
from depthwise.backends.cpu.machine import Machine
from depthwise.backends.cpu.plan.bands import Bands, TwoStages, separable_cut
from depthwise.backends.cpu.plan.boxes import MOST_APART, Boxes, boxes_cut, comes_packed, packed_cut
from depthwise.backends.cpu.plan.cut import Cut, team_of
from depthwise.backends.cpu.plan.depthwise import DepthwisePlan, depthwise_plan, in_order, reads_in_order
from depthwise.backends.cpu.plan.direct import DirectPlan, Planes, direct_plan, planes_cut, runs_direct
from depthwise.backends.cpu.plan.filters import MOST_ZEROS, tap_stride
from depthwise.backends.cpu.plan.input_gradient import input_gradient_plan
from depthwise.backends.cpu.plan.padded import PaddedBands, PaddedPlan, padded_cut, padded_plan, runs_padded
from depthwise.backends.cpu.plan.panels import Panels, panels_cut
from depthwise.backends.cpu.plan.patches import Patches, PatchPlan, patch_plan, patches_cut, runs_patches
from depthwise.backends.cpu.plan.planar import PlanarBands, PlanarPlan, planar_cut, planar_plan, runs_planar
from depthwise.backends.cpu.plan.pointwise import PointwisePlan, pointwise_plan
from depthwise.backends.cpu.plan.product import in_vain
from depthwise.backends.cpu.plan.sizes import fetches_next, joined, lanes_below, seen, three, unaliased
from depthwise.backends.cpu.plan.strips import Strips, strips_cut
from depthwise.backends.cpu.plan.tuning import ROWS, tuning_of
from depthwise.backends.cpu.plan.view import View
from depthwise.backends.cpu.run import threads
from depthwise.geometry import Geometry, geometry
from tests.support.kernels import plan_of, problem_of

AVX2 = machine.avx2()
AVX512 = Machine("avx512", 16, 32, "x86_64-unknown-linux-gnu", "skylake-avx512", "")
MACHINES = [AVX512, machine.avx2(), machine.neon()]
on_each_machine = pytest.mark.parametrize("target", MACHINES, ids=lambda target: target.isa)


def test_every_kind_of_machine_has_a_row() -> None:
    kinds = {target.kind for target in (*MACHINES, replace(AVX512, in_halves=True))}
    assert kinds == set(ROWS)
    assert replace(machine.avx2(), in_halves=True).kind == "avx2"


# Features of Zen 4, of Zen 5 and of an Intel Xeon, as LLVM names them.
@pytest.mark.parametrize(
    ("features", "in_halves"),
    [({"sse4a": True}, True), ({"sse4a": True, "avx512vp2intersect": True}, False), ({"amx-tile": True}, False)],
)
def test_features_tell_which_cores_multiply_in_halves(features: dict[str, bool], in_halves: bool) -> None:
    wide = dict.fromkeys(("avx512f", "avx512dq", "avx512bw", "avx512vl"), True) | features
    found = machine.machine_of("x86_64-unknown-linux-gnu", "any", wide)
    assert found is not None
    assert found.in_halves is in_halves
    assert found.narrow_lanes == (8 if in_halves else 16)


@pytest.mark.parametrize(
    ("channels", "size", "by_pixels"), [((64, 64), 112, True), ((112, 672), 14, True), ((160, 960), 7, False)]
)
def test_threads_share_pixels_where_they_are_many_for_the_weights(
    channels: tuple[int, int], size: int, by_pixels: bool
) -> None:
    """Not on CPUs whose cores share what they compute in a cache nearby."""
    g = geometry((channels[0], size, size), 1, 1, 0, 1, out_channels=channels[1])
    for halves in (False, True):
        cut = panels_cut(g, Machine("avx512", 16, 32, "", "", "", in_halves=halves), 2, size * size)
        assert (cut.bands, cut.panel_chunks) == ((2, 1) if by_pixels and not halves else (1, 2))


@st.composite
def geometries(draw: st.DrawFn, *, separable: bool) -> Geometry:
    rank = draw(st.integers(1, 3))
    longest = {1: 3000, 2: 120, 3: 24}[rank]
    groups = draw(st.sampled_from((1, 1, 2, 3))) if separable else 1
    kernel, stride, dilation = (
        tuple(draw(st.integers(1, most)) for _ in range(rank)) for most in (9 if rank > 1 else 60, 4, 4)
    )
    padding = [(draw(st.integers(0, 9)), draw(st.integers(0, 9))) for _ in range(rank)]
    return geometry(
        (
            groups * draw(st.integers(1, 300)),
            *(d * (k - 1) + 1 + draw(st.integers(0, longest)) for k, d in zip(kernel, dilation, strict=True)),
        ),
        kernel,
        stride,
        padding,
        dilation,
        depth_multiplier=draw(st.sampled_from((1, 1, 1, 2, 5))),
        out_channels=groups * draw(st.integers(1, 300)) if separable else None,
        groups=groups,
    )


@st.composite
def schedules(
    draw: st.DrawFn, *, separable: bool, planar_out: bool, planar_in: bool = False
) -> tuple[Geometry, int, Machine, AnyCut]:
    g, batch = draw(geometries(separable=separable)), draw(st.integers(1, 9))
    target = replace(draw(st.sampled_from(MACHINES)), l2_bytes=1024 * draw(st.sampled_from((64, 512, 1024))))
    team = draw(st.sampled_from((1, 2, 3, 8, 64)))
    return g, batch, target, cut_of(g, batch, target, team, planar_in=planar_in, planar_out=planar_out)


AnyCut = Strips | Bands | TwoStages | Boxes | Planes


def cut_of(g: Geometry, batch: int, target: Machine, threads: int, *, planar_in: bool, planar_out: bool) -> AnyCut:
    call = g, batch, target, team_of(g, batch, target, threads)
    if planar_in and runs_direct(g, target):
        return planes_cut(*call)
    if planar_out:
        return boxes_cut(*call, planar_in=planar_in)
    return strips_cut(*call) if g.out_channels is None else separable_cut(*call)


def tiles(g: Geometry, target: Machine, pixels: int) -> PointwisePlan:
    return pointwise_plan(g, None, target, residual=False, pixels=pixels, pixel_stride=unaliased(g.depthwise_channels))


def pieces(total: int, parts: int) -> list[range]:
    """The range of `total` in `parts`, as the kernels cut it."""
    return [range(i * total // parts, (i + 1) * total // parts) for i in range(parts)]


def unit_starts(g: Geometry, batch: int, segments: int) -> list[int]:
    """The pixel at which each segment of each row begins, and the number of pixels."""
    rows, width = batch * prod(g.out_spatial[:-1]), g.out_spatial[-1]
    return [y * width + piece.start for y in range(rows) for piece in pieces(width, segments)] + [rows * width]


many = settings(max_examples=300)


@many
@given(schedules(separable=False, planar_out=False))
def test_depthwise_tasks(drawn: tuple[Geometry, int, Machine, AnyCut]) -> None:
    g, batch, target, s = drawn
    assert isinstance(s, Strips)
    starts = unit_starts(g, batch, s.segments)
    assert all(a < b for a, b in pairwise(starts)), "no segment is empty"
    assert 1 <= s.chunks <= depthwise_plan(g, None, target, planar=False, pixel_stride=None).blocks
    assert s.scratch_elements == 0
    assert min(s.fetch_rows, s.fetch_planes) == 0


@many
@given(schedules(separable=True, planar_out=False))
def test_bands(drawn: tuple[Geometry, int, Machine, AnyCut]) -> None:
    g, batch, target, s = drawn
    assert not isinstance(s, Strips | Boxes | Planes)
    starts = unit_starts(g, batch, s.strips.segments if isinstance(s, TwoStages) else s.segments)
    assert all(a < b for a, b in pairwise(starts)), "no segment is empty"
    if isinstance(s, Bands):
        check_bands(g, starts, s)
        return
    pixels = starts[-1]
    plan = tiles(g, target, s.panels.tile_pixels)
    assert s.strips.threads == s.panels.threads > 1
    assert max(map(len, pieces(pixels, s.panels.bands))) <= s.panels.tile_pixels
    assert min(map(len, pieces(pixels, s.panels.bands))) > 0
    assert 1 <= s.strips.chunks <= depthwise_plan(g, None, target, planar=False, pixel_stride=None).blocks
    assert 1 <= s.panels.panel_chunks <= plan.panels


def check_bands(g: Geometry, starts: list[int], s: Bands) -> None:
    stride = unaliased(g.depthwise_channels)
    if not s.whole_rows:
        assert s.segments == 1
        width = g.out_spatial[-1]
        cuts = pieces(starts[-1], s.bands)
        assert min(map(len, cuts)) > 0
        assert max(map(len, cuts)) <= s.tile_pixels
        rows = max(-(-cut.stop // width) - cut.start // width for cut in cuts)
        assert rows * width * stride <= s.scratch_elements
        return
    assert 1 <= s.bands < len(starts)
    bands = [starts[units.stop] - starts[units.start] for units in pieces(len(starts) - 1, s.bands)]
    assert min(bands) > 0
    assert max(bands) <= s.tile_pixels
    assert s.tile_pixels * stride <= s.scratch_elements


@pytest.mark.parametrize("separable", [False, True])
@pytest.mark.parametrize("planar_in", [False, True])
def test_boxes(separable: bool, planar_in: bool) -> None:
    @many
    @given(schedules(separable=separable, planar_out=True, planar_in=planar_in))
    def check(drawn: tuple[Geometry, int, Machine, AnyCut]) -> None:
        g, _, target, s = drawn
        if isinstance(s, Planes):
            assert s == Planes(threads=s.threads, fetch_planes=s.fetch_planes), "dealt out row by row"
            return
        assert isinstance(s, Boxes)
        k = depthwise_plan(g, None, target, planar=planar_in, pixel_stride=None)
        size, seen, place = three(g.out_spatial, 1), 0, 0
        for planes, rows, columns in boxes(g, s):
            pixels = len(planes) * len(rows) * len(columns)
            assert 0 < pixels <= s.box_pixels
            # They follow one another in the output: a box begins where the one before it ended.
            assert (planes.start * size[1] + rows.start) * size[2] + columns.start == place
            place += pixels
            assert len(planes) == 1 or (len(rows), len(columns)) == size[1:]
            assert len(rows) == 1 or len(columns) == size[2]
            if planar_in:
                seen = max(seen, covered(g, (planes, rows, columns), whole=s.segments == 1))
        assert place == prod(size)
        assert seen * k.lanes <= s.in_scratch
        per_pixel = k.lanes if g.out_channels is None else unaliased(k.filters) + 2 * g.out_channels
        assert s.in_scratch + s.box_pixels * per_pixel <= s.scratch_elements

    check()


@pytest.mark.parametrize(
    ("channels", "size", "batch", "threads", "boxes"),
    [
        *((728, 19, 1, 1, 7), (728, 19, 1, 2, 8), (728, 19, 2, 2, 7), (728, 37, 1, 2, 26), (728, 37, 1, 16, 32)),
        # Fewer rows than threads, and no number of rows that is one for each.
        *((256, 7, 1, 16, 7), (728, 19, 1, 5, 10)),
    ],
)
def test_each_thread_has_as_many_boxes(channels: int, size: int, batch: int, threads: int, boxes: int) -> None:
    g = geometry((channels, size, size), 3, padding=1, out_channels=channels)
    s = boxes_cut(g, batch, replace(AVX512, l2_bytes=2**20), threads, planar_in=True)
    assert s.boxes == boxes


# Of about 128, 512, 60 and 89 pixels: rows longer than that; as many in each, or all but one; such as tiles of 14 to 12
# pixels divide; and where nothing is fetched for the next band.
@pytest.mark.parametrize(
    ("channels", "rows", "width", "threads", "segments", "rows_each"),
    [
        *((128, 147, 147, 1, 1, {1}), (128, 148, 147, 2, 1, {1}), (128, 20, 300, 1, 2, {0.5})),
        *((32, 112, 112, 1, 1, {4}), (32, 110, 112, 1, 1, {5}), (128, 56, 56, 2, 1, {2}), (32, 113, 112, 1, 1, {1, 2})),
        *((128, 45, 45, 1, 1, {3}), (256, 44, 44, 1, 1, {2}), (256, 22, 22, 1, 1, {3, 4}), (728, 37, 37, 1, 1, {1, 2})),
        (728, 19, 19, 1, 1, {4, 5}),
    ],
)
def test_bands_have_as_many_rows(
    channels: int, rows: int, width: int, threads: int, segments: int, rows_each: set[float]
) -> None:
    g = geometry((channels, rows, width), 3, padding=1, out_channels=2 * channels)
    s = separable_cut(g, 1, replace(AVX512, l2_bytes=2**20), threads)
    assert isinstance(s, Bands)
    assert (s.segments, s.whole_rows) == (segments, 1)
    assert {len(piece) / segments for piece in pieces(rows * segments, s.bands)} == rows_each
    assert s.tile_pixels == max(rows_each) * width


@pytest.mark.parametrize(("rows", "threads", "segments"), [(56, 1, 1), (56, 2, 1), (1, 1, 1), (2, 2, 2), (1, 2, 4)])
def test_wide_rows_are_cut_for_threads_only(rows: int, threads: int, segments: int) -> None:
    g = geometry((64, rows, 600), 3, padding=1)
    assert strips_cut(g, 1, AVX512, threads).segments == segments


def boxes(g: Geometry, s: Boxes) -> Iterator[tuple[range, range, range]]:
    """Every box of an image: output planes, rows and columns."""
    depth, height, width = three(g.out_spatial, 1)
    assert s.boxes % s.segments == 0
    yield from product(pieces(depth, s.z_bands), pieces(height, s.boxes // s.segments), pieces(width, s.segments))


def covered(g: Geometry, box: tuple[range, range, range], *, whole: bool) -> int:
    """Input pixels from the first to the last that a box's windows see; of `whole` rows all columns."""
    before = three(tuple(pair[0] for pair in g.padding), 0)
    window = zip(*(three(axes, 1) for axes in (g.kernel_size, g.stride, g.dilation, g.input_size[1:])), strict=True)
    counts: list[int] = []
    for outputs, (k, stride, dilation, size), pad in zip(box, window, before, strict=True):
        ends = (outputs[0] * stride - pad, outputs[-1] * stride - pad + (k - 1) * dilation)
        counts.append(max(0, min(ends[1], size - 1) - max(ends[0], 0) + 1))
    return counts[0] * counts[1] * (int(g.input_size[-1]) if whole else counts[2])


def test_a_schedule_that_is_too_small_is_seen() -> None:
    g = geometry((20, 40, 40), 3, padding=1, out_channels=30)
    s = boxes_cut(g, 1, machine.avx2(), 1, planar_in=True)
    most = max(prod(map(len, box)) for box in boxes(g, s))
    assert most == s.box_pixels
    assert max(covered(g, box, whole=s.segments == 1) for box in boxes(g, s)) * 8 == s.in_scratch


@given(st.integers(1, 400), st.integers(1, 16), st.integers(1, 4))
def test_pixels_done_in_vain(pixels: int, most: int, count: int) -> None:
    heights = tuple(range(most, max(0, most - count), -1))
    tiles = -(-pixels // most)
    exact = any(
        tall * rows + (tiles - tall) * (rows - 1) == pixels
        for rows in heights
        for tall in range(tiles + 1)
        if rows - 1 in heights or tall == tiles
    )
    done = -(-pixels // heights[-1]) * heights[-1]
    assert in_vain(pixels, heights) == (0 if exact else done - pixels)


@on_each_machine
@given(channels=st.integers(1, 700), pixels=st.integers(1, 5000))
def test_tiles_do_little_in_vain(target: Machine, channels: int, pixels: int) -> None:
    g = geometry((8, 1, 1), 1, out_channels=channels)
    k = tiles(g, target, pixels)
    tuning = tuning_of(target)
    usual, few = tuning.tiles[k.vectors][0], tuning.tiles[k.vectors][-1]
    assert k.heights in (usual, few)
    # No pixel alone, where there are enough for a tile.
    assert pixels < few[-1] or (pixels >= k.heights[-1] and in_vain(pixels, k.heights) * 4 <= pixels)
    assert pixels < 2 * usual[0] or in_vain(pixels, k.heights) <= tuning.pixels_in_vain * pixels
    assert k.lanes * k.group_vectors >= channels >= k.lanes
    assert k.full_panels * k.vectors + k.rest_vectors == k.group_vectors
    assert all(
        rows * vectors + vectors + 1 <= target.vector_registers
        for vectors, choices in tuning.tiles.items()
        for rows in chain(*choices)
    )


@pytest.mark.parametrize(
    ("outputs", "lanes", "vectors"),
    [(16, 16, 1), (20, 8, 3), (24, 8, 3), (32, 16, 2), (40, 8, 5), (72, 8, 3), (80, 16, 5), (88, 16, 2), (12, 8, 2)],
)
def test_halves_of_vectors_where_those_take_half_the_time(outputs: int, lanes: int, vectors: int) -> None:
    g = geometry((8, 56, 56), 3, padding=1, out_channels=outputs)
    k = tiles(g, replace(AVX512, in_halves=True), 56)
    assert (k.lanes, k.vectors) == (lanes, vectors)
    other = tiles(g, AVX512, 56)
    assert other.lanes == (16 if outputs >= 16 else 8)


@pytest.mark.parametrize(
    ("filters", "taps", "stride"),
    [
        *((16, 961, 16), (24, 961, 24), (144, 961, 144), (8, 25, 8)),
        *((128, 9, 128), (128, 49, 144), (1024, 3, 1024), (1024, 9, 1040), (96, 49, 96), (96, 169, 112)),
    ],
)
def test_few_taps_share_a_set_of_l1(filters: int, taps: int, stride: int) -> None:
    assert tap_stride(filters, taps) == stride
    if stride % 16 == 0:
        lines = Counter(tap * stride // 16 % 64 for tap in range(taps))
        assert max(lines.values()) <= max(4, -(-taps // 64))


@given(st.integers(1, 5000), st.sampled_from((4, 8, 16)))
def test_lanes(channels: int, most: int) -> None:
    lanes = lanes_below(channels, most)
    assert lanes & (lanes - 1) == 0
    assert lanes <= min(channels, most)
    assert lanes == most or 2 * lanes > channels


def test_plans_are_values() -> None:
    g = geometry((17, 9, 9), 3, padding=1, out_channels=33)
    x = torch.empty(1, 17, 9, 9, device="meta")
    for target in MACHINES:
        one, two = (launch.decide(problem_of(g, x, (("relu", 0.0), None), residual=True), target) for _ in range(2))
        assert one == two
        assert hash(one) == hash(two)
        parts: list[Any] = []
        for stage in one.program.stages:
            parts += [*stage.kernel.plans, stage.cut, stage.view]
        for part in parts:
            for field in fields(part):
                assert f"{field.name}={getattr(part, field.name)!r}" in repr(part)
            with pytest.raises(FrozenInstanceError):
                setattr(part, fields(part)[0].name, 0)


@pytest.mark.skipif(machine.host() is None, reason="no generator serves this machine")
def test_sizes_share_the_code() -> None:
    found = set()
    for batch, height, width in ((1, 9, 28), (3, 9, 28), (2, 14, 14), (1, 28, 56)):
        g = geometry((17, height, width), 3, padding=1, out_channels=32)
        x = torch.empty((batch, *g.input_size), device="meta").to(memory_format=torch.channels_last)
        program = launch.decide(problem_of(g, x)).program
        found.add((program.kernels, program.codes))
    assert len(found) == 1


activations: st.SearchStrategy[Activation] = st.one_of(
    st.none(), st.tuples(st.sampled_from(sorted(ACTIVATIONS)), st.floats(-4, 4, width=32))
)
counts = st.integers(1, 20)


# Three planes of 1.3 MiB each, of 340 and of 54 KiB; a number of rows that has no divisors; windows and results of
# one plane.
@pytest.mark.parametrize(
    ("size", "kernel", "stride", "rows"),
    [
        ((54, 13, 80, 80), 3, (1, 2, 2), 4),
        ((54, 13, 80, 80), 3, 1, 8),
        ((54, 13, 40, 40), 3, 1, 10),
        ((54, 13, 16, 16), 3, 1, 16),
        ((54, 13, 79, 80), 3, 1, 79),
        ((54, 13, 80, 80), (1, 3, 3), 1, 80),
        ((54, 1, 80, 80), 3, 1, 80),
    ],
)
def test_rows_of_planes_that_leave_l2_go_through_all_planes(
    size: tuple[int, ...], kernel: int | tuple[int, ...], stride: int | tuple[int, ...], rows: int
) -> None:
    g = geometry(size, kernel, stride, padding=1 if kernel == 3 else (0, 1, 1))
    target = replace(AVX512, l2_bytes=2**20)
    assert strips_cut(g, 1, target, 2).plane_rows == rows


@pytest.mark.parametrize(("dilation", "batch", "fetched"), [(2, 8, True), (2, 1, False), (1, 8, False)])
def test_planes_are_fetched_ahead_from_memory_where_rows_are_apart(dilation: int, batch: int, fetched: bool) -> None:
    g = geometry((256, 33, 33), 3, padding=dilation, dilation=dilation)
    target = replace(AVX512, l2_bytes=2**20)
    assert runs_direct(g, target)
    assert (direct_plan(g, None, target).fetches and planes_cut(g, batch, target, 1).fetch_planes == 1) is fetched


@pytest.mark.parametrize(
    ("length", "out_channels", "fetched"), [(1024, None, True), (1024, 64, True), (64, None, False)]
)
def test_the_next_block_of_a_sequence_is_fetched_ahead_from_memory(
    length: int, out_channels: int | None, fetched: bool
) -> None:
    g = geometry((1024, length), 4, padding=((3, 0),), out_channels=out_channels)
    target = replace(AVX512, l2_bytes=2**20)
    k = depthwise_plan(g, None, target, planar=False, pixel_stride=1024)
    assert (k.fetches and boxes_cut(g, 1, target, 1, planar_in=False).fetch_blocks == 1) is fetched


# Of 7 outputs in a row, one tile, 13 taps lie outside nearly half the time. Rows below 7 and those that 7 do not divide
# well are divided evenly.
@pytest.mark.parametrize(
    ("isa", "kernel", "width", "taps", "columns"),
    [
        *(("avx512", 3, 28, 3, (7,)), ("avx512", 9, 7, 9, (7,)), ("avx512", 13, 28, 13, (14, 7))),
        *(
            ("avx512", 15, 28, 15, (14, 7)),
            ("avx512", 13, 7, 13, (7,)),
            ("avx512", 27, 7, 8, (7,)),
            ("avx512", 17, 28, 17, (7,)),
        ),
        *(("avx512", 23, 28, 23, (7,)), ("avx512", 25, 28, 8, (7,)), ("avx512", 27, 28, 8, (14, 7))),
        *(("avx2", 7, 28, 7, (6,)), ("avx2", 9, 28, 9, (5,)), ("avx2", 31, 28, 8, (6,))),
        *(("avx512", 3, 6, 3, (6, 5, 4, 3)), ("avx512", 9, 1, 8, (6, 5, 4, 3)), ("avx512", 5, 8, 5, (6, 5, 4, 3))),
        *(("avx512", 3, 19, 3, (7,)), ("avx512", 3, 36, 3, (6, 5, 4, 3))),
        *(
            ("avx2", 3, 5, 3, (5, 4, 3)),
            ("avx2", 9, 4, 8, (4, 3)),
            ("avx2", 9, 5, 9, (5,)),
            ("avx2", 3, 8, 3, (5, 4, 3)),
            ("avx2", 11, 16, 8, (6,)),
        ),
    ],
)
def test_rows_of_taps_are_whole_where_registers_and_image_have_room(
    isa: str, kernel: int, width: int, taps: int, columns: tuple[int, ...]
) -> None:
    (target,) = (target for target in MACHINES if target.isa == isa)
    g = geometry((64, 16, width), kernel, padding=kernel // 2)
    k = depthwise_plan(g, None, target, planar=False, pixel_stride=64)
    assert (k.taps, k.columns, k.evenly) == (taps, columns, columns[-1] == 3)


# The rows that 7 do not divide: "same" padding, none, more before than "same" has, more after.
@pytest.mark.parametrize(("padding", "evenly"), [((1, 1), True), ((0, 0), True), ((2, 0), False), ((0, 2), False)])
@pytest.mark.parametrize("width", [5, 10])
def test_rows_are_divided_evenly_under_usual_padding(width: int, padding: tuple[int, int], *, evenly: bool) -> None:
    g = geometry((64, 9, width + 2 - sum(padding)), 3, padding=((1, 1), padding))
    assert g.out_spatial[-1] == width
    k = depthwise_plan(g, None, AVX512, planar=False, pixel_stride=64)
    assert (k.evenly, k.columns == (6, 5, 4, 3)) == (evenly, evenly)


@pytest.mark.parametrize(
    ("length", "dilation", "out_channels", "to_planes"),
    [(16, 1, None, True), (15, 1, None, False), (200, 8, None, False), (200, 1, 64, False)],
)
def test_sequences_are_transposed_in_registers(
    length: int, dilation: int, out_channels: int | None, to_planes: bool
) -> None:
    g = geometry((64, length), 5, padding="same", dilation=dilation, out_channels=out_channels)
    k = depthwise_plan(g, None, AVX512, planar=False, pixel_stride=64)
    assert k.to_planes is to_planes
    assert (k.columns == (16,)) is to_planes
    assert not (k.evenly and to_planes)


# Three taps of seven neighbours read 19 inputs where they are 6 apart, and share many where they are not.
@pytest.mark.parametrize(("dilation", "stride", "apart"), [(6, 1, True), (2, 1, False), (1, 1, False), (6, 2, False)])
def test_columns_a_dilation_apart_go_together_where_neighbours_share_little(
    dilation: int, stride: int, apart: bool
) -> None:
    g = geometry((64, 56, 56), 3, stride, dilation, dilation)
    k = depthwise_plan(g, None, AVX512, planar=False, pixel_stride=64)
    assert bool(k.dilated_columns) is apart


def test_few_columns_a_dilation_apart_are_done_twice() -> None:
    choices = tuning_of(AVX512).dilated_columns
    for count in range(choices[-1], 500):
        assert any(-count % columns * 6 <= count for columns in choices if columns <= count)


@pytest.mark.parametrize(
    ("kernel", "size", "stride", "planes", "rows"),
    [
        *((3, (56, 56), 1, 1, 4), (5, (56, 56), 1, 1, 4), (3, (8, 28, 28), 1, 2, 4), (3, (8, 28, 28), (2, 1, 1), 2, 4)),
        *((3, (8, 28, 28), (3, 1, 1), 1, 7), (3, (1, 28, 28), 1, 1, 7), (3, (7, 28, 28), 1, 1, 7)),
        *((3, (13, 28, 28), 1, 2, 4), ((2, 2, 3), (8, 28, 28), 1, 2, 4), ((1, 3, 3), (8, 28, 28), 1, 1, 4)),
    ],
)
def test_rows_of_planes(
    kernel: int | tuple[int, ...], size: tuple[int, ...], stride: int | tuple[int, ...], planes: int, rows: int
) -> None:
    g = geometry((64, *size), kernel, stride, "same" if stride == 1 else 1)
    k = direct_plan(g, None, AVX512)
    assert (k.planes, k.rows) == (planes, rows)
    assert k.weights_stay is (prod(k.kernel) <= 25)


@pytest.mark.parametrize("size", [(28, 28), (8, 28, 28)])
def test_tiles_over_the_edges_fetch_ahead_too(size: tuple[int, ...]) -> None:
    """With 14 columns in a tile no other tiles exist in a row of 28."""
    g = geometry((64, *size), 5 if len(size) == 2 else 3, padding=2 if len(size) == 2 else 1)
    k = depthwise_plan(g, None, AVX512, planar=False, pixel_stride=64)
    code = DepthwiseKernel(AVX512, k, k.filters).ir()
    unchecked_cases, lines_each = 4, 2
    assert code.count("call void @llvm.prefetch.p0") == unchecked_cases * lines_each * sum(k.columns)


# Where outputs are few, and where the weights leave L2.
@pytest.mark.parametrize(("channels", "outputs", "stride", "lines"), [(32, 64, 1, 1), (96, 24, 2, 2), (728, 728, 1, 0)])
def test_lines_of_the_next_band(channels: int, outputs: int, stride: int, lines: int) -> None:
    g = geometry((channels, 112, 112), 3, stride, 1, out_channels=outputs)
    kernel = tiles(g, replace(AVX512, l2_bytes=2**20), 560)
    assert kernel.fetched_lines == lines


@pytest.mark.parametrize(("l2_bytes", "lines"), [(2**21, 0), (2**20, 1)])
def test_a_pointwise_stage_fetches_its_next_tile_where_images_leave_l2(l2_bytes: int, lines: int) -> None:
    g = geometry((32, 56, 56), 1, out_channels=96)
    (stage,) = pointwise_program(
        g, 1, 32, None, residual=False, machine=replace(AVX512, l2_bytes=l2_bytes), threads=1
    ).stages
    kernel = stage.kernel
    assert isinstance(kernel, PointwiseKernel)
    assert kernel.plan.fetched_lines == lines
    # To L2 comes the place of the next result alone.
    assert ("i32 0, i32 2, i32 1)" in kernel.ir()) == bool(lines)


@pytest.mark.parametrize(
    ("l2_bytes", "planar", "fetches"), [(2**21, False, False), (2**20, False, True), (0, True, False)]
)
def test_a_strided_input_gradient_fetches_its_next_tile_beyond_l2(l2_bytes: int, planar: bool, fetches: bool) -> None:
    g, machine = geometry((96, 56, 56), 3, 2, 1), replace(AVX512, l2_bytes=l2_bytes)
    plan = input_gradient_plan(g, 1, machine, planar=planar, pixel_stride=None if planar else 96)
    assert plan.fetches == fetches
    assert ("llvm.prefetch" in InputGradientKernel(machine, plan).ir()) == fetches


@st.composite
def depthwise_plans(draw: st.DrawFn) -> DepthwisePlan:
    rank, planar = draw(st.integers(1, 3)), draw(st.booleans())
    kernel, stride, dilation = (three(tuple(draw(counts) for _ in range(rank)), 1) for _ in range(3))
    return DepthwisePlan(
        rank=rank,
        channels=draw(counts),
        multiplier=draw(counts),
        kernel=kernel,
        stride=stride,
        dilation=dilation,
        activation=draw(activations),
        lanes=draw(counts),
        columns=(draw(counts),),
        evenly=draw(st.booleans()),
        dilated_columns=draw(st.sampled_from(((), (6, 5, 4)))),
        taps=draw(counts),
        rows_unrolled=draw(st.booleans()),
        strip_blocks=draw(counts),
        fetches=draw(st.booleans()),
        fetches_out=draw(st.booleans()),
        planar=planar,
        to_planes=draw(st.booleans()),
        pixel_stride=None if planar else draw(st.one_of(st.none(), counts)),
    )


@st.composite
def pointwise_plans(draw: st.DrawFn) -> PointwisePlan:
    numbers = ("in_channels", "out_channels", "groups", "lanes", "vectors", "fetched_lines", "pixel_stride")
    values: dict[str, Any] = {name: draw(counts) for name in numbers}
    heights = tuple(range(draw(st.integers(3, 14)), draw(st.integers(0, 2)), -1))
    flags = {name: draw(st.booleans()) for name in ("residual", "pixels_first")}
    return PointwisePlan(activation=draw(activations), heights=heights, **flags, **values)


@st.composite
def planar_plans(draw: st.DrawFn) -> PlanarPlan:
    numbers = ("in_channels", "out_channels", "groups", "lanes", "vectors", "rows")
    values: dict[str, Any] = {name: draw(counts) for name in numbers}
    return PlanarPlan(activation=draw(activations), residual=draw(st.booleans()), **values)


@st.composite
def direct_plans(draw: st.DrawFn) -> DirectPlan:
    rank = draw(st.integers(1, 3))
    kernel, stride, dilation = (three(tuple(draw(counts) for _ in range(rank)), 1) for _ in range(3))
    return DirectPlan(
        rank=rank,
        channels=draw(counts),
        multiplier=draw(counts),
        kernel=kernel,
        stride=stride,
        dilation=dilation,
        activation=draw(activations),
        lanes=draw(counts),
        rows=draw(counts),
        planes=draw(counts),
        edges=draw(st.tuples(counts, counts)),
        weights_stay=draw(st.booleans()),
        fetches=draw(st.booleans()),
        shares=draw(st.booleans()),
    )


@st.composite
def patch_plans(draw: st.DrawFn) -> PatchPlan:
    rank = draw(st.integers(1, 3))
    kernel, stride, dilation = (three(tuple(draw(counts) for _ in range(rank)), 1) for _ in range(3))
    values: dict[str, Any] = {name: draw(counts) for name in ("channels", "multiplier", "lanes", "patches")}
    return PatchPlan(rank=rank, kernel=kernel, stride=stride, dilation=dilation, activation=draw(activations), **values)


@st.composite
def padded_plans(draw: st.DrawFn) -> PaddedPlan:
    rank = draw(st.integers(1, 2))
    kernel, stride, dilation = (three(tuple(draw(counts) for _ in range(rank)), 1) for _ in range(3))
    values: dict[str, Any] = {
        name: draw(counts) for name in ("channels", "multiplier", "lanes", "rows", "vectors", "together")
    }
    return PaddedPlan(
        rank=rank,
        kernel=kernel,
        stride=stride,
        dilation=dilation,
        activation=draw(activations),
        pixels=draw(st.booleans()),
        **values,
    )


@st.composite
def kernels(draw: st.DrawFn) -> Kernel:
    target, kind = draw(st.sampled_from(MACHINES)), draw(st.sampled_from(KINDS_OF_KERNELS))
    values = {"depthwise": depthwise_plans(), "pointwise": pointwise_plans(), "out_stride": counts}
    values["residual_pixels"] = st.booleans()
    plans = {DirectKernel: direct_plans(), PatchKernel: patch_plans(), PlanarPointwiseKernel: planar_plans()}
    plans |= {PaddedKernel: padded_plans()}
    values["plan"] = plans.get(kind, pointwise_plans())
    own = [field.name for field in fields(kind) if field.name != "machine"]
    return kind(target, **{name: draw(values[name]) for name in own})


KINDS_OF_KERNELS: list[type[Kernel]] = [
    *(
        BoxedDepthwiseKernel,
        PackedDepthwiseKernel,
        BoxedFusedKernel,
        DepthwiseKernel,
        DirectKernel,
        FusedKernel,
        PaddedKernel,
        PatchKernel,
        PlanarPointwiseKernel,
        PointwiseKernel,
    ),
]


def crossed(one: Any, two: Any) -> Iterator[Any]:
    """`one` with each field in turn as `two` has it."""
    for field in fields(one):
        yield replace(one, **{field.name: getattr(two, field.name)})


@given(depthwise_plans(), depthwise_plans())
def test_depthwise_plans_that_differ_have_other_names(one: DepthwisePlan, two: DepthwisePlan) -> None:
    for mixed in crossed(one, two):
        axes_it_lacks = mixed.kernel[: 3 - mixed.rank]
        if max(axes_it_lacks, default=1) == 1 and not (mixed.planar and mixed.pixel_stride is not None):
            assert mixed == one or mixed.name != one.name


@given(pointwise_plans(), pointwise_plans())
def test_pointwise_plans_that_differ_have_other_names(one: PointwisePlan, two: PointwisePlan) -> None:
    for mixed in crossed(one, two):
        assert mixed == one or mixed.name != one.name


@given(planar_plans(), planar_plans())
def test_planar_plans_that_differ_have_other_names(one: PlanarPlan, two: PlanarPlan) -> None:
    for mixed in crossed(one, two):
        assert mixed == one or mixed.name != one.name


@given(direct_plans(), direct_plans())
def test_direct_plans_that_differ_have_other_names(one: DirectPlan, two: DirectPlan) -> None:
    for mixed in crossed(one, two):
        if max(mixed.kernel[: 3 - mixed.rank], default=1) == 1:
            assert mixed == one or mixed.name != one.name


@given(kernels(), kernels())
def test_kernels_that_differ_have_other_names(one: Kernel, two: Kernel) -> None:
    others = list(crossed(one, two)) if type(one) is type(two) else [two]
    for other in others:
        assert other == one or other.name != one.name


def test_every_slot_of_a_kernel_has_a_number() -> None:
    """Whatever cut goes with it."""
    cuts: dict[type[Kernel], type[Cut]] = {
        BoxedDepthwiseKernel: Boxes,
        PackedDepthwiseKernel: Boxes,
        BoxedFusedKernel: Boxes,
        DepthwiseKernel: Strips,
        DirectKernel: Planes,
        PatchKernel: Patches,
        PaddedKernel: PaddedBands,
        FusedKernel: Bands,
        PlanarPointwiseKernel: PlanarBands,
        PointwiseKernel: Panels,
    }
    assert set(cuts) == set(KINDS_OF_KERNELS)
    for kind, cut in cuts.items():
        assert set(kind.numbers) <= set(View().numbers) | {field.name for field in fields(cut)}
        assert len(set(kind.pointers + kind.numbers)) == len(kind.pointers + kind.numbers)


@on_each_machine
@pytest.mark.parametrize(
    ("layer", "layouts"),
    [
        ({"input_size": (32, 0, 0), "kernel_size": 3, "padding": 1, "out_channels": 64}, ("last", "planar")),
        ({"input_size": (512, 0, 0), "kernel_size": 3, "padding": 1, "out_channels": 512}, ("last", "planar")),
        ({"input_size": (24, 0, 0), "kernel_size": 5, "padding": 2, "stride": 2, "out_channels": 80}, ("last",)),
        ({"input_size": (17, 0, 0), "kernel_size": 7, "padding": 3}, ("last", "planar")),
        ({"input_size": (64, 0), "kernel_size": 31, "padding": 15, "out_channels": 96}, ("last", "planar")),
        ({"input_size": (64, 0), "kernel_size": 4, "padding": ((3, 0),)}, ("last", "planar")),
    ],
    ids=lambda value: "".join(f"{key}={number} " for key, number in value.items()) if isinstance(value, dict) else "",
)
def test_fifty_sizes_need_few_programs(
    monkeypatch: pytest.MonkeyPatch, layer: dict[str, Any], layouts: tuple[str, ...], target: Machine
) -> None:
    small, large = (replace(target, l2_bytes=size) for size in (2**19, 2**20))
    few = product(((1,), (2,)), (range(1, 51),), (small, large))
    for (teams, sizes, own), layout in product((((1, 2), range(7, 307, 6), target), *few), layouts):
        names = set()
        for team, n in product(teams, sizes):
            monkeypatch.setattr(threads, "team_size", lambda team=team: team)
            size = (layer["input_size"][0], *(n if len(layer["input_size"]) == 3 else 20 * n,), n)
            g = geometry(**(layer | {"input_size": size[: len(layer["input_size"])]}))
            x = torch.empty((1, *g.input_size), device="meta")
            if layout == "last":
                x = x.movedim(1, -1).contiguous().movedim(-1, 1)
            names.add(launch.decide(problem_of(g, x), own).program.name)
        # Planes are multiplied as they lie, or in boxes.
        assert 1 <= len(names) <= (6 if layout == "last" else 8), names


STEPS = (1, 2, 3, 7, 64, 1000, 65_537, 10**6)


@pytest.mark.parametrize("layout", ["last", "planar"])
@pytest.mark.parametrize("out_channels", [None, 32])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_code_and_buffers_are_bounded_by_taps_and_tiles(rank: int, out_channels: int | None, layout: str) -> None:
    """Whatever stride and dilation are: lines of code, zeros, and numbers of each thread."""
    lines, least = {}, 1 << 30
    for taps, (stride, dilation) in product((3, 16), ((s, d) for s in STEPS for d in STEPS if 1 in (s, d) or s == d)):
        kernel, padding = (*(min(taps, 5),) * (rank - 1), taps), (0,) * (rank - 1) + (dilation,)
        size = [(k - 1) * dilation + 1 + 5 * stride for k in kernel]
        # So that sizes fit into a number.
        size[:-1] = size[:-1] if max(stride, dilation) <= 1000 else [k + 2 for k in kernel[:-1]]
        steps = [(*(n if max(n, 1) <= 1000 else 1 for _ in range(rank - 1)), n) for n in (stride, dilation)]
        g = geometry((32, *size), kernel, steps[0], padding, steps[1], out_channels=out_channels)
        x = torch.empty((8, *g.input_size), device="meta")
        if layout == "last":
            x = x.movedim(1, -1).contiguous().movedim(-1, 1)
        program = launch.decide(problem_of(g, x), AVX512).program
        k = plan_of(program)
        lines[taps, stride, dilation] = len(program.ir().splitlines())
        if getattr(k, "columns", ()) != (2,):
            # Patches that are read in order have tiles of fewer columns.
            least = min(least, lines[taps, stride, dilation])
        assert program.zeros <= MOST_ZEROS
        in_scratch = program.stages[0].cut.numbers.get("in_scratch", 0)
        assert in_scratch <= k.lanes * prod(size)
        if stride > 64 and dilation == 1:
            # Of neighbouring boxes, not of what lies between windows.
            assert in_scratch <= 64 * k.lanes * prod(kernel) * MOST_APART * 56
    assert max(lines.values()) < 8000, lines
    assert max(lines.values()) < 6 * least, lines


@pytest.mark.parametrize("taps", [1, 2, 3, 4, 5, 31])
@pytest.mark.parametrize("dilation", [1, 2, 3, 7])
def test_what_windows_see_of_neighbours(taps: int, dilation: int) -> None:
    for stride in (*range(1, 40), 1000):
        assert seen(taps, stride, dilation) == len({t * dilation % stride for t in range(taps)})


@pytest.mark.parametrize(
    ("stride", "dilation", "lines"), [(1, 1, 1), (2, 1, 2), (3, 1, 3), (4, 1, 3), (1000, 1, 3), (1000, 7, 3), (4, 2, 2)]
)
def test_only_lines_that_taps_read_are_fetched(stride: int, dilation: int, lines: int) -> None:
    def fetched(stride: int, dilation: int) -> int:
        g = geometry((64, 6 * dilation + 1 + 40 * stride), 3, stride, dilation, dilation)
        k = depthwise_plan(g, None, AVX512, planar=False, pixel_stride=64)
        return DepthwiseKernel(AVX512, k, k.filters).ir().count("call void @llvm.prefetch.p0")

    assert fetched(stride, dilation) == lines * fetched(1, 1) > 0


def test_of_more_lines_than_wait_at_once_a_tile_fetches_none() -> None:
    """Nothing but the places of its results, in each of four ways in which it may lie over the edges."""
    for kernel, lines in ((3, 9 + 1), (8, 1)):
        g = geometry((64, 24 * kernel, 24 * kernel), kernel, kernel)
        k = depthwise_plan(g, None, AVX2, planar=False, pixel_stride=64)
        fetched = DepthwiseKernel(AVX2, k, k.filters).ir().count("call void @llvm.prefetch.p0")
        assert fetched == 4 * lines * k.columns[0]


@pytest.mark.parametrize(("rows", "fetched"), [(13, 0), (42, 0), (43, 1)])
def test_where_windows_reach_over_all_rows_none_is_fetched(rows: int, fetched: int) -> None:
    g = geometry((320, rows, 1120), (15, 1), 2, (21, 0), (3, 1))
    assert strips_cut(g, 1, AVX2, 1).fetch_rows == fetched


@pytest.mark.parametrize(("channels", "fetched"), [(512, 1), (768, 1), (1024, 0), (1040, 1), (2048, 0)])
def test_where_all_pixels_share_one_set_of_l1_none_is_fetched(channels: int, fetched: int) -> None:
    assert strips_cut(geometry((channels, 64, 64), 3, 1, 1), 1, AVX2, 1).fetch_rows == fetched


def test_bands_whose_input_is_not_read_whole_fetch_it_row_by_row() -> None:
    for stride, dilation, fetched in ((1, 1, True), (2, 1, True), (3, 1, True), (4, 1, False), (2, 2, False)):
        g = geometry((64, 112, 112), 3, stride, 1, dilation, out_channels=64)
        assert fetches_next(g, AVX512) is fetched


def test_rows_of_far_pixels_are_left_out_by_loops() -> None:
    g = geometry((64, 56, 56), 3, padding=1)
    near, far = (
        depthwise_plan(g, None, AVX512, planar=False, pixel_stride=None, distance=distance)
        for distance in (64, 1 << 20)
    )
    assert near.rows_unrolled
    assert near.zero_elements(64) == 8 * 64 + 64
    assert far == replace(near, rows_unrolled=False)
    assert far.zero_elements(1 << 20) == 0


def test_long_rows_that_may_be_outside_are_not_read_as_planes() -> None:
    def is_direct(padding: tuple[int, int], width: int) -> bool:
        return runs_direct(geometry((4, 3, width), 3, padding=padding), AVX512)

    assert is_direct((1, 1), MOST_ZEROS)
    assert not is_direct((1, 1), MOST_ZEROS + 1)
    assert is_direct((0, 1), 10 * MOST_ZEROS)


def test_the_rows_of_tall_volumes_are_found_at_once() -> None:
    g = geometry((16, 4, 10**9 + 7, 8), 3, padding=1)
    assert strips_cut(g, 1, AVX512, 1).plane_rows == 10**9 + 7


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "target", "packed"),
    [
        *(((1024, 14, 14), 5, 1, AVX512, True), ((1024, 14, 14), 5, 2, AVX512, False)),
        *(((1024, 14, 14), 3, 1, AVX512, False), ((1000, 14, 14), 5, 1, AVX512, False)),
        *(((512, 10, 10), 5, 1, AVX512, False), ((512, 64, 64), 5, 1, AVX512, True)),
        *(((86, 9, 10, 8), 7, 1, AVX512, True), ((96, 9, 10, 8), 7, 1, AVX512, False)),
        *(((86, 9, 10, 8), 7, 1, AVX2, False), ((86, 9, 10, 8), 7, 7, AVX512, False)),
    ],
)
def test_pixels_that_lie_badly_come_packed(
    size: tuple[int, ...], kernel: int, stride: int, target: Machine, packed: bool
) -> None:
    g = geometry(size, kernel, stride, kernel // 2)
    assert comes_packed(g, 1, target, size[0]) is packed
    cut = packed_cut(g, 1, target, 1)
    assert cut.scratch_elements == cut.in_scratch >= cut.box_pixels * target.vector_lanes


@pytest.mark.parametrize("in_halves", [False, True])
def test_planes_are_read_as_they_lie_at_strides_that_few_vectors_cover(in_halves: bool) -> None:
    target = replace(AVX512, in_halves=in_halves)

    def is_direct(stride: int, kernel: int | tuple[int, int] = 3, multiplier: int = 1) -> bool:
        return runs_direct(geometry((8, 200, 200), kernel, stride, 1, depth_multiplier=multiplier), target)

    assert [is_direct(stride) for stride in (1, 2, 3, 4, 5)] == [True, True, True, True, False]
    assert is_direct(3, 4) is not in_halves
    assert is_direct(2, (1, 15)) is in_halves
    assert is_direct(2, multiplier=2)
    assert is_direct(3, multiplier=2)


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding", "patches"),
    [
        *(((8, 224, 224), 8, 8, 0, 16), ((8, 224, 224), 16, 16, 0, 8), ((8, 99, 128), (3, 7), 8, 0, 16)),
        *(((8, 127), 8, 8, 0, 8), ((8, 224, 224), 8, 8, 1, None), ((8, 224, 220), 8, 8, 0, 16)),
        *(((8, 224, 224), 4, 4, 0, None), ((8, 224, 224), 4, 8, 0, None), ((8, 224, 224), 9, 8, 0, None)),
        *(((8, 224, 223), 7, 8, 0, None), ((8, 224, 56), 8, 8, 0, None)),
    ],
)
def test_which_planes_are_read_as_rows_of_patches(
    size: tuple[int, ...], kernel: int | tuple[int, int], stride: int, padding: int, patches: int | None
) -> None:
    g = geometry(size, kernel, stride, padding)
    assert runs_patches(g, AVX512) is (patches is not None)
    if patches:
        k = patch_plan(g, None, AVX512)
        assert (k.patches, k.vectors) == (patches, patches * stride // 16)
        assert patches_cut(g, AVX512, 2).scratch_elements == k.rows * 16


@pytest.mark.parametrize(
    ("size", "kernel", "multiplier", "tile"),
    [
        *(((3, 512, 512), 21, 1, (1, 8)), ((1, 50, 31), 13, 12, (4, 2)), ((3, 55, 92), (1, 31), 1, (1, 6))),
        *(((5, 9, 300), (3, 6), 1, (1, 7)), ((2, 4000), 31, 1, (1, 8)), ((1, 40), 31, 1, (1, 3))),
        # Few taps, short rows, channels that fill a vector, volumes.
        *(((3, 512, 512), 3, 1, None), ((3, 90, 15), 21, 1, None), ((16, 90, 90), 21, 1, None)),
        *(((4, 90, 90), 21, 4, None), ((3, 9, 40, 40), 7, 1, None), ((8, 90, 90), 21, 1, None)),
    ],
)
def test_few_channels_under_large_windows_go_over_padded_rows(
    size: tuple[int, ...], kernel: int | tuple[int, int], multiplier: int, tile: tuple[int, int] | None
) -> None:
    padding = tuple(k // 2 for k in ([kernel] * (len(size) - 1) if isinstance(kernel, int) else kernel))
    g = geometry(size, kernel, 1, padding, depth_multiplier=multiplier)
    assert runs_padded(g, AVX512, pixels=False) is (tile is not None)
    if tile:
        k = padded_plan(g, None, AVX512, pixels=False)
        assert (k.rows, k.vectors) == tile


@pytest.mark.parametrize(
    ("channels", "kernel", "stride", "padded"),
    [(3, 7, 1, True), (5, 21, 2, True), (3, 6, 1, False), (6, 21, 1, False), (3, 21, 3, False)],
)
def test_few_channels_of_pixels_go_over_padded_rows(channels: int, kernel: int, stride: int, padded: bool) -> None:
    assert runs_padded(geometry((channels, 90, 90), kernel, stride), AVX512, pixels=True) is padded


@many
@given(geometries(separable=False), st.integers(1, 9), st.sampled_from(MACHINES), st.sampled_from((1, 2, 3, 8)))
def test_padded_rows_of_a_band_fit_its_memory(g: Geometry, batch: int, target: Machine, threads: int) -> None:
    if g.rank == 3:
        return
    k = padded_plan(g, None, target, pixels=False)
    height, width = three(g.out_spatial, 1)[1:]
    if width < k.lanes:
        return
    cut = padded_cut(g, batch, target, threads, k)
    rows, columns = (max(map(len, pieces(*cuts))) for cuts in ((height, cut.bands), (width, cut.segments)))
    packed = ((rows - 1) * k.stride[1] + (k.kernel[1] - 1) * k.dilation[1] + 1) * k.stride[2]
    assert 1 <= cut.bands <= height
    assert min(map(len, pieces(width, cut.segments))) >= k.lanes
    assert cut.scratch_elements >= packed * cut.row_elements
    # The last column that a tile reads, behind which zeros are stored by whole vectors.
    assert columns + k.before <= cut.row_elements - k.lanes


def test_long_sequences_go_over_padded_segments() -> None:
    g = geometry((1, 1 << 20), 255, 1, 127)
    k = padded_plan(g, None, AVX512, pixels=False)
    cut = padded_cut(g, 1, AVX512, 2, k)
    assert cut.segments >= 8
    assert 4 * cut.scratch_elements <= AVX512.l2_bytes


@pytest.mark.parametrize(
    ("stride", "dilation", "apart"), [(1, 6, 6), (2, 6, 3), (4, 6, 3), (3, 6, 2), (6, 6, 1), (2, 3, 3), (2, 1, 1)]
)
def test_rows_of_a_tile_share_input_rows(stride: int, dilation: int, apart: int) -> None:
    k = direct_plan(geometry((4, 90, 90), 5, stride, 0, dilation), None, AVX512)
    assert k.rows_apart == apart
    assert apart * stride % dilation == 0


@pytest.mark.parametrize(("dilation", "is_direct"), [(1, False), (3, False), (2, True), (4, True)])
def test_windows_that_leave_columns_out_are_read_as_they_lie(dilation: int, is_direct: bool) -> None:
    reach, columns = 4 * dilation + 1, 37
    g = geometry((8, 2 * (columns - 1) + reach, 2 * (columns - 1) + reach), 5, 2, 0, dilation)
    assert runs_direct(g, AVX512) is is_direct
    assert not runs_direct(g, replace(AVX512, in_halves=True))


def test_filters_of_a_channel_share_what_was_put_together() -> None:
    def plan(stride: int, multiplier: int) -> DirectPlan:
        return direct_plan(geometry((4, 90, 90), 3, stride, depth_multiplier=multiplier), None, AVX512)

    assert [plan(stride, multiplier).shares for stride, multiplier in ((2, 4), (3, 1), (3, 4))] == [False, False, True]
    assert (plan(3, 4).rows, plan(3, 4).filters_together, plan(2, 4).filters_together) == (1, 4, 1)


@pytest.mark.parametrize(
    ("channels", "kernel", "stride", "lanes"), [(64, 8, 8, 64), (96, 4, 4, 32), (40, 3, 3, 16), (64, 3, 2, None)]
)
def test_patches_from_beyond_l2_are_read_in_their_order(
    channels: int, kernel: int, stride: int, lanes: int | None
) -> None:
    g = geometry((channels, 60, 60), kernel, stride)
    far, near = (replace(AVX512, l2_bytes=size) for size in (2**18, 2**24))
    assert not reads_in_order(g, 1, near)
    assert not reads_in_order(g, 1, replace(far, in_halves=True))
    assert reads_in_order(g, 1, far) is (lanes is not None)
    k = in_order(depthwise_plan(g, None, far, planar=False, pixel_stride=channels), far)
    assert k.columns == (2,)
    assert k.lanes == (lanes or k.lanes)
    assert k.strip_blocks == k.blocks


@pytest.mark.parametrize(("height", "rows"), [(9, 3), (8, 4), (6, 3), (10, 4), (3, 3), (2, 4), (13, 3)])
def test_planes_are_cut_into_tiles_that_do_few_rows_twice(height: int, rows: int) -> None:
    assert direct_plan(geometry((8, height, 64), 3, padding=1), None, AVX512).rows == rows


@many
@given(geometries(separable=True), st.sampled_from(MACHINES), st.booleans())
def test_tiles_of_planes_are_all_outputs_of_a_group(g: Geometry, target: Machine, residual: bool) -> None:
    k = planar_plan(g, None, target, residual=residual)
    outputs = [first + tile * rows + i for first, rows, count in k.tiles for tile in range(count) for i in range(rows)]
    assert outputs == list(range(k.group_outputs))
    # Sums, a row of vectors and a weight fit the registers.
    assert all(1 <= rows <= k.rows for _, rows, _ in k.tiles)
    assert (k.rows + 1) * k.vectors < target.vector_registers


@pytest.mark.parametrize("batch", [1, 3, 4])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_each_thread_has_as_many_bands_of_planes(batch: int, threads: int) -> None:
    g = geometry((12, 56, 56), 1, out_channels=384)
    k = planar_plan(g, None, AVX512, residual=False)
    cut = planar_cut(g, batch, AVX512, threads, k)
    assert cut.bands * batch % threads == 0
    assert cut.bands <= 56 * 56 // (k.vectors * k.lanes)
    assert cut.fetch_out == 1
    assert planar_cut(geometry((12, 14, 14), 1, out_channels=24), 1, AVX512, 1, k).fetch_out == 0


def test_planes_are_multiplied_where_a_results_way_to_planes_costs_more() -> None:
    def runs(channels: int, outputs: int, size: int, batch: int = 1, *, is_direct: bool = True) -> bool:
        g = geometry((channels, size, size), 1, out_channels=outputs)
        return runs_planar(g, batch, AVX512, is_direct=is_direct)

    # Fewer pixels than lanes; many lanes in vain, of few channels and of many.
    assert [runs(12, 384, 3), runs(12, 384, 7), runs(512, 512, 7), runs(512, 512, 8)] == [False, True, False, True]
    # Depthwise results that must be transposed, and are more than the others.
    assert [runs(256, 16, 28, is_direct=direct) for direct in (True, False)] == [True, False]
    # And such as leave L2, beside results that are not much more.
    assert [runs(32, outputs, 256) for outputs in (32, 64)] == [False, True]


def test_a_single_row_fetches_none_further_down() -> None:
    assert strips_cut(geometry((64, 1, 1 << 16), 1), 1, AVX512, 1).fetch_rows == 0


def test_rows_that_no_window_crosses_are_joined_where_they_follow_one_another() -> None:
    g = geometry((8, 5, 6, 7), (3, 1, 1))
    assert joined(g, (1680, 210, 42, 7, 1))[0].input_size == (8, 5, 1, 42)
    assert joined(g, (1680, 210, 42, 8, 1))[0] == g
    for window in ((1, 1, 3), (1, 3, 1)):
        assert joined(geometry((8, 5, 6, 7), window), (1680, 210, 42, 7, 1))[0].input_size == (8, 5, 6, 7)
    assert joined(geometry((8, 5, 6, 7), 1), (1680, 1, 336, 56, 8))[0].input_size == (8, 1, 1, 210)
    assert joined(geometry((8, 5, 6, 7), 1, padding=(0, 1, 0)), (1680, 1, 336, 56, 8))[0].input_size == (8, 5, 6, 7)
