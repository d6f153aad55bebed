"""Every emitter on every machine that runs here, against the reference."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import fields, replace
from itertools import product
from math import prod
from typing import Any
from unittest.mock import patch

import pytest
import torch
from _pytest.mark import ParameterSet
from torch import Tensor

from depthwise import reference
from depthwise.backends.base import Activation, DepthwiseTensors
from depthwise.backends.cpu import launch, machine
from depthwise.backends.cpu.emit.activations import EPS, ERROR_BOUNDS
from depthwise.backends.cpu.launch import Launch
from depthwise.backends.cpu.lower import separable
from depthwise.backends.cpu.lower.decision import Decision
from depthwise.backends.cpu.machine import Machine
from depthwise.backends.cpu.pack import pack_of
from depthwise.backends.cpu.plan import tuning
from depthwise.backends.cpu.plan.pointwise import PointwisePlan
from depthwise.backends.cpu.run import jit
from depthwise.backends.cpu.run.program import Stage
from depthwise.backends.eager import activate
from depthwise.backends.problem import problem_of
from depthwise.backends.weights import NO_PRINTS
from depthwise.geometry import per_axis
from tests.support import kernels as support
from tests.support.cases import normals, small_integers
from tests.support.kernels import (
    HERE,
    KINDS,
    LAYOUTS,
    NAN,
    Input,
    Layer,
    Numbers,
    assert_exact,
    assert_same,
    decide,
    exact_example,
    expected_of,
    geometry_of,
    in_turn,
    input_tensor,
    inputs_of,
    kind,
    laid_out,
    numbers_of,
    outside_calls,
    plan_of,
    program_of,
    run,
    run_decision,
    tails,
    with_kernels,
    with_stages,
)

on_each_machine = pytest.mark.parametrize("target", HERE, ids=lambda target: target.isa)

# One layer and one input for each emitter.
EMITTERS: dict[str, tuple[Layer, Input]] = {
    "depthwise_last_last": (Layer(17, (3, 3)), Input(2, (7, 9), 1)),
    "depthwise_last_planar": (Layer(17, (5,)), Input(2, (40,), 2)),
    "depthwise_planar_planar": (Layer(17, (3, 3)), Input(2, (7, 9), 1, "planar")),
    "depthwise_planes": (Layer(7, (1, 3, 3), 2), Input(2, (3, 7, 41), (0, 1, 1), "planar", threads=2)),
    "depthwise_patches": (
        Layer(5, (3, 7), 2, stride=(2, 8)),
        Input(2, (6, 141), ((1, 1), (0, 0)), "planar", threads=2),
    ),
    "depthwise_padded_last_last": (Layer(2, (7, 9), 3), Input(2, (9, 41), ((3, 3), (5, 4)), threads=2)),
    "depthwise_padded_planar_planar": (
        Layer(2, (5, 7), 3, stride=(2, 1)),
        Input(2, (9, 41), ((2, 2), (3, 4)), "planar", threads=2),
    ),
    "depthwise_packed": (Layer(1024, (5, 5)), Input(2, (4, 9), 2, threads=2)),
    "fused_last_last": (Layer(10, (3, 3), out_channels=34, groups=2, residual=True), Input(3, (6, 9), 1, threads=2)),
    "fused_last_planar": (
        Layer(9, (5,), out_channels=33),
        Input(2, (40,), ((4, 0),), threads=2, small_cache=True),
    ),
    "fused_planar_planar": (
        Layer(5, (3, 3), 2, out_channels=17, residual=True),
        Input(2, (7, 9), 1, "planar", small_cache=True),
    ),
    "two_stage_last_last": (Layer(9, (3, 3), out_channels=33), Input(1, (7, 9), 1, threads=2)),
    "two_stage_last_planar": (Layer(9, (5,), out_channels=33), Input(2, (40,), ((4, 0),), threads=2)),
    "two_stage_planar_planar": (Layer(5, (3, 3), 2, out_channels=17, residual=True), Input(2, (7, 9), 1, "planar")),
    "two_stage_planes": (
        Layer(4, (3, 3), 2, out_channels=38, groups=2, residual=True),
        Input(2, (7, 41), 1, "planar", threads=2),
    ),
}
on_each_emitter = pytest.mark.parametrize("emitter", EMITTERS)


def shown(value: object) -> str:
    return value.isa if isinstance(value, Machine) else str(value)


def example(emitter: str, target: Machine) -> tuple[Layer, Input]:
    layer, given = EMITTERS[emitter]
    assert kind(program_of(layer, given, target)) == emitter
    return layer, given


def layers_and_machines() -> list[ParameterSet]:
    """Every layer of the tails on every machine; some are slow."""
    quick = {(layer, target) for _, layer, _, target in tails(0, every=False)}
    return [
        pytest.param(
            *(layer, inputs, target),
            marks=() if (layer, target) in quick else pytest.mark.slow,
            id=f"{name}-{layer}-{target.isa}",
        )
        for name, layer, inputs, target in tails(7)
    ]


@pytest.mark.parametrize(("layer", "inputs", "target"), layers_and_machines())
def test_integers_give_the_references_bits(layer: Layer, inputs: list[Input], target: Machine) -> None:
    for given in inputs:
        assert_exact(layer, given, target)


@on_each_machine
def test_the_tails_reach_every_emitter(target: Machine) -> None:
    found = set()
    for _, layer, inputs, own in tails(7, every=False):
        if own == target:
            found |= {kind(program_of(layer, given, target)) for given in inputs}
    assert found == KINDS == set(EMITTERS)


def test_the_check_can_fail() -> None:
    layer, given = EMITTERS["fused_last_last"]
    numbers, expected = exact_example(layer, given)
    for target in HERE:
        wrong = expected.clone()
        wrong[-1, -1, -1, -1] += 1
        with pytest.raises(AssertionError, match=r"1 of \d+ elements differ, the first at \[2, 33, 5, 8\]"):
            assert_same(run(layer, given, numbers, target), wrong, "planted")


@on_each_machine
def test_every_width_of_dilated_rows(target: Machine) -> None:
    layer = Layer(9, (1, 3), dilation=4)
    for width in range(14, 56):
        for padding in (0, 4):
            assert_exact(layer, Input(1, (2, width), ((0, 0), (padding, padding))), target)


@on_each_machine
@pytest.mark.parametrize("multiplier", [3, 5, 6, 7, 9, 11, 12, 13, 24])
def test_filters_of_a_channel_lie_across_vectors(multiplier: int, target: Machine) -> None:
    for channels, stride in ((1, 1), (2, 2), (3, 1), (5, 1), (8, 2), (11, 1)):
        assert_exact(Layer(channels, (2, 3), multiplier, stride=stride), Input(2, (4, 9), 1), target)


# Windows, or the taps of one, that lie far apart.
APART = [
    (Layer(9, (3, 3), stride=(30, 20)), (150, 170), 1),
    (Layer(9, (3, 3), stride=(40, 1)), (90, 33), 1),
    (Layer(9, (3, 3), stride=(1, 40), dilation=(9, 1)), (33, 400), 0),
    (Layer(9, (3, 3), dilation=(20, 30)), (45, 70), (20, 30)),
    (Layer(9, (3, 2), 2, stride=(2, 3), dilation=(9, 20)), (33, 70), ((9, 0), (20, 7))),
    (Layer(9, (3,), stride=100), (3000,), 0),
    (Layer(9, (31,), stride=64), (700,), 5),
    (Layer(5, (16, 16), stride=32), (70, 70), 0),
    (Layer(9, (3,), dilation=200), (500,), 200),
    (Layer(5, (2, 2, 3), stride=(30, 1, 20), dilation=(1, 8, 1)), (64, 12, 70), 0),
    (Layer(5, (2, 2, 2), dilation=(7, 1, 9)), (9, 5, 40), (7, 0, 9)),
    (Layer(9, (3, 3), out_channels=17, stride=(30, 20), residual=True), (150, 170), 1),
    (Layer(9, (3, 3), out_channels=17, dilation=(20, 30)), (45, 70), (20, 30)),
    (Layer(9, (3,), out_channels=17, dilation=200), (500,), ((400, 0),)),
]


@on_each_machine
@pytest.mark.parametrize(("layer", "spatial", "padding"), APART, ids=str)
def test_windows_and_taps_far_apart(layer: Layer, spatial: tuple[int, ...], padding: Any, target: Machine) -> None:
    for layout, small_cache in product(("last", "planar", "last_sliced", "planar_sliced"), (False, True)):
        given = Input(2, spatial, padding, layout, threads=1 + 2 * small_cache, small_cache=small_cache)
        assert_exact(layer, given, target)


@on_each_machine
@pytest.mark.parametrize("layout", ["last", "planar"])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_strides_and_dilations_beyond_all_sizes(rank: int, layout: str, target: Machine) -> None:
    """Of three taps so far apart the middle one sees the image, and of windows so far apart there is the first one."""
    last = (1,) * (rank - 1)
    near = Layer(9, (*last, 3), dilation=8)
    given = Input(1, (*(3,) * (rank - 1), 8), (*(0,) * (rank - 1), 8), layout)
    numbers, expected = exact_example(near, given)
    for far in (1000, 2**31 - 1, 2**33, 2**61):
        layer, padded = replace(near, dilation=(*last, far)), replace(given, padding=(*(0,) * (rank - 1), far))
        if far < 2**61:
            assert_same(run(layer, padded, numbers, target), expected, str(layer))
        once = replace(near, dilation=1, stride=far)
        found = run(once, replace(given, padding=0), numbers, target)
        assert_same(found, expected_of(replace(once, stride=8), replace(given, padding=0), numbers), str(once))
        alone = Layer(9, (1,) * rank, dilation=2 * far)
        numbers_alone, expected_alone = exact_example(replace(alone, dilation=1), given)
        assert_same(run(alone, given, numbers_alone, target), expected_alone, str(alone))


UNEVEN = [
    *(Layer(9, (2, 3)), Layer(9, (2, 5), stride=2), Layer(9, (1, 4), 2, 12, dilation=2), Layer(9, (1, 13))),
    *(Layer(9, (2, 2, 3), stride=(1, 2, 3)), Layer(9, (4,))),
]


@on_each_machine
@pytest.mark.parametrize("layer", UNEVEN, ids=str)
def test_rows_that_other_tiles_do_not_divide(layer: Layer, target: Machine) -> None:
    """Of every width, with every padding up to the reach: "same", none, on one side only, and more than "same"."""
    reach, stride = layer.reach[-1], per_axis(layer.stride, layer.rank, "stride")[-1]
    for width in (*range(1, 13), 15, 16, 22):
        for before, after in product(range(reach), repeat=2):
            columns = (width - 1) * stride + reach - before - after
            if columns > 0:
                spatial, padding = (*(4,) * (layer.rank - 1), columns), (*((1, 1),) * (layer.rank - 1), (before, after))
                assert_exact(layer, Input(1, spatial, padding, "planar" if after % 2 else "last"), target)


PLANES = [
    *(Layer(3, (3, 3)), Layer(3, (5, 5)), Layer(3, (3, 3), stride=2), Layer(3, (5, 5), stride=2), Layer(3, (4, 4))),
    *(Layer(3, (3, 3, 3)), Layer(3, (3, 3, 3), stride=(1, 2, 2)), Layer(3, (3, 3), dilation=3)),
    *(Layer(2, (2, 3, 3), 2), Layer(3, (3, 3, 3), stride=(2, 1, 1)), Layer(3, (3, 1, 2), dilation=(1, 2, 1))),
    *(Layer(3, (3, 3), stride=3), Layer(3, (2, 2), stride=4, dilation=(1, 3)), Layer(3, (1, 7), stride=(1, 3))),
    *(Layer(2, (3, 3), stride=2, dilation=4), Layer(2, (3, 2), stride=(4, 2), dilation=(6, 1))),
    *(Layer(2, (3, 3), 3, stride=3), Layer(1, (2, 1, 3), 2, stride=(1, 2, 4))),
]


@on_each_machine
@pytest.mark.parametrize("layer", PLANES, ids=str)
def test_planes_of_every_width(monkeypatch: pytest.MonkeyPatch, layer: Layer, target: Machine) -> None:
    """Those too that boxes are quicker for."""
    always = replace(tuning.tuning_of(target), direct_shares={tuning.MOST_DIRECT: (0, 0)})
    monkeypatch.setitem(tuning.ROWS, target.kind, always)
    least = layer.reach[-1] - 1 + target.vector_lanes
    stride = per_axis(layer.stride, layer.rank, "stride")[-1]
    for columns in range(least, least + 2 * target.vector_lanes + 3):
        padding = tuple(reach // 2 for reach in layer.reach)
        # Two planes at a time, and one.
        rows = (4 + columns % 2, 5) if layer.rank > 2 else (5,)
        given = Input(1, (*rows, columns * stride), padding, "planar")
        assert kind(program_of(layer, given, target)) == "depthwise_planes"
        assert_exact(layer, given, target)


@on_each_machine
def test_planes_under_more_than_same_padding(target: Machine) -> None:
    """No tile within a short row sees both of its ends; gradients of dilated convolutions without padding are such."""
    dilation = (target.vector_lanes - 1) // 2
    layer, reach = Layer(2, (3, 3), dilation=(1, dilation)), 2 * dilation
    kinds: set[str] = set()
    for width in range(target.vector_lanes, 3 * target.vector_lanes):
        given = Input(1, (3, width), ((1, 1), (reach, reach)), "planar")
        kinds.add(kind(program_of(layer, given, target)))
        assert_exact(layer, given, target)
    assert kinds >= {"depthwise_planes", "depthwise_planar_planar"}


@on_each_machine
@pytest.mark.parametrize("wide", [(1, 1), (1, 0), (0, 1)])
def test_planes_at_stride_2_whose_edge_is_a_vector_but_a_lane(wide: tuple[int, int], target: Machine) -> None:
    """One vector holds every other column that a tap at the edge sees."""
    edge = target.vector_lanes - 1
    layer, before, after = Layer(2, (3, 3), stride=(1, 2), dilation=(1, edge)), edge * wide[0], edge * wide[1]
    for width in (3 * edge + 3, 4 * edge + 4):
        size = (width - 1) * 2 + layer.reach[-1] - before - after
        given = Input(1, (4, size), ((1, 1), (before, after)), "planar")
        assert kind(program_of(layer, given, target)) == "depthwise_planes"
        assert_exact(layer, given, target)


PATCHES = [
    *(Layer(3, (2, 8), stride=(2, 8)), Layer(3, (5,), stride=8), Layer(2, (3, 2), 2, stride=(1, 2), dilation=(2, 1))),
    *(Layer(3, (4, 3), stride=4), Layer(2, (2, 2, 4), stride=4)),
    *(Layer(2, (16, 16), stride=16), Layer(2, (1, 9), 3, stride=16)),
]


@pytest.mark.parametrize(("layer", "target"), [*product(PATCHES, HERE)], ids=shown)
def test_patches_of_planes_of_every_width(monkeypatch: pytest.MonkeyPatch, layer: Layer, target: Machine) -> None:
    """Those too that others are quicker for."""
    monkeypatch.setitem(tuning.ROWS, target.kind, replace(tuning.tuning_of(target), patch_strides=(2, 4, 8, 16)))
    stride = per_axis(layer.stride, layer.rank, "stride")[-1]
    if stride > target.vector_lanes:
        return
    for width, more, padding in product((4, 7, 8, 9, 15, 16, 17, 33), (0, stride - 1), (0, 1)):
        rows, around = tuple(n + 4 for n in layer.kernel[:-1]), (*((padding, 0),) * (layer.rank - 1), (0, 0))
        given = Input(2, (*rows, width * stride + more), around, "planar", 1 + width % 3)
        if width >= target.vector_lanes and not more:
            assert kind(program_of(layer, given, target)) == "depthwise_patches"
        assert_exact(layer, given, target)


@on_each_machine
def test_what_patches_leave_out_is_not_read(target: Machine) -> None:
    """Columns between patches, and behind the last one."""
    layer, given = Layer(2, (2, 7), stride=8), Input(1, (8, 165), 0, "planar")
    assert kind(program_of(layer, given, target)) == "depthwise_patches"
    numbers = numbers_of(layer, given, small_integers(0))
    expected = expected_of(layer, given, numbers)
    numbers.x[..., 7::8] = math.inf
    numbers.x[..., 160:] = math.nan
    assert_same(run(layer, given, numbers, target), expected, "patches")


@on_each_machine
@pytest.mark.parametrize(
    "layer",
    [
        *(Layer(64, (2, 2), stride=2), Layer(96, (3, 3), stride=3), Layer(40, (2, 3), stride=(2, 4))),
        *(Layer(35, (1, 17), stride=(1, 17)), Layer(128, (2, 2, 2), stride=2)),
    ],
    ids=str,
)
def test_patches_read_in_the_order_of_memory(monkeypatch: pytest.MonkeyPatch, layer: Layer, target: Machine) -> None:
    monkeypatch.setitem(tuning.ROWS, target.kind, replace(tuning.tuning_of(target), patch_lanes=64))
    for columns, before, threads in product((1, 2, 3, 7), (0, 1), (1, 3)):
        steps = per_axis(layer.stride, layer.rank, "stride")
        spatial = tuple(step * n for step, n in zip(steps, (3, 5, columns)[-layer.rank :], strict=True))
        given = Input(2, spatial, ((before, 0),) * layer.rank, "last", threads, small_cache=True)
        assert plan_of(program_of(layer, given, target)).lanes >= target.vector_lanes
        assert_exact(layer, given, target)


@on_each_machine
@pytest.mark.parametrize("layout", LAYOUTS)
def test_rows_that_windows_do_not_cross_are_one(layout: str, target: Machine) -> None:
    for layer, spatial, joined in (
        (Layer(9, (1, 1)), (5, 3), (1, 15)),
        (Layer(5, (1, 1, 1), 2), (3, 4, 2), (1, 1, 24)),
        (Layer(3, (3, 1, 1), stride=(2, 1, 1)), (7, 4, 5), (7, 1, 20)),
        (Layer(4, (1, 1), out_channels=18, residual=True), (6, 7), (1, 42)),
        (Layer(3, (1, 1), stride=(2, 1)), (6, 7), None),
        (Layer(3, (1, 3)), (6, 7), None),
    ):
        given = Input(2, spatial, 0, layout)
        view = program_of(layer, given, target).stages[0].view
        # What is neither dense nor copied keeps its rows, but those that slices leave together.
        if layout in ("last", "planar"):
            assert view.sizes == (1, 1, *(joined or spatial))[-3:]
        assert_exact(layer, given, target)


@on_each_machine
@pytest.mark.parametrize("multiplier", [1, 2, 3])
def test_pixels_come_packed_whatever_they_are(multiplier: int, target: Machine) -> None:
    """Slices, volumes, strides, dilations and multipliers too, which no rule may ask for today."""
    with patch.object(separable, "comes_packed", lambda *_: True):
        for layer, spatial in (
            (Layer(17, (3, 3), multiplier), (5, 9)),
            (Layer(9, (2, 3, 3), multiplier, stride=(2, 1, 2)), (5, 4, 11)),
            (Layer(9, (3, 3), multiplier, dilation=(3, 2)), (7, 20)),
            (Layer(5, (2, 2), multiplier, stride=(30, 20)), (90, 70)),
        ):
            for layout, padding, threads in (("last", 1, 1), ("last_sliced", 0, 2), ("last_strided", 1, 3)):
                given = Input(2, spatial, padding, layout, threads, small_cache=threads == 2)
                assert kind(program_of(layer, given, target)) == "depthwise_packed"
                assert_exact(layer, given, target)


@on_each_machine
@pytest.mark.parametrize("depth", [2, 4, 11, 13])
def test_planes_two_at_a_time(depth: int, target: Machine) -> None:
    """Where they are odd in number the last two overlap those before; threads begin within planes."""
    layer = Layer(3, (3, 3, 3))
    for rows, batch, team in ((1, 1, 1), (5, 2, 1), (6, 1, 2), (9, 1, 3)):
        given = Input(batch, (depth, rows, 32), 1, "planar", threads=team)
        plan = plan_of(program_of(layer, given, target))
        assert (plan.planes, plan.edges) == (2, (1, 1))
        assert_exact(layer, given, target)


@on_each_machine
def test_every_number_of_pixels_and_every_tile(target: Machine) -> None:
    for vectors, choices in tuning.tuning_of(target).tiles.items():
        # Two full panels and the rest of a third, whose last vector overlaps the one before it.
        layer = Layer(5, (1, 1), out_channels=2 * vectors * target.vector_lanes + 3, residual=True)
        for pixels in range(1, 61):
            given = Input(1, (1, pixels))
            numbers, expected = exact_example(layer, given)
            x = input_tensor(layer, given, numbers.x)
            for heights in choices:
                decision = with_tile(decide(layer, given, x, target), vectors, heights)
                y = run_decision(decision, geometry_of(layer, given), x, numbers)
                assert_same(y, expected, f"{target.isa}, {vectors} vectors, {heights} rows, {pixels} pixels")


def with_tile(decision: Decision, vectors: int, heights: tuple[int, ...]) -> Decision:
    plan = decision.program.pointwise
    assert isinstance(plan, PointwisePlan)
    return with_kernels(decision, pointwise=replace(plan, vectors=vectors, heights=heights))


def any_cut(given: Input, layer: Layer, decision: Decision, **numbers: Any) -> Decision:
    """`decision` cut into tasks by these numbers, with more scratch memory than any cut needs."""
    g = geometry_of(layer, given)
    pixels = given.batch * prod(g.out_spatial)
    pointwise = decision.program.pointwise
    of_pixel = 64
    if isinstance(pointwise, PointwisePlan):
        of_pixel = pointwise.pixel_stride + 2 * pointwise.out_channels
    covered = prod(given.spatial) * prod(layer.kernel) * 16
    numbers = {"scratch_elements": covered + pixels * of_pixel, "box_pixels": pixels, "in_scratch": covered} | numbers

    def cut(stage: Stage) -> Stage:
        own = {field.name for field in fields(stage.cut)} & {"threads", *stage.kernel.slots} & set(numbers)
        return replace(stage, cut=replace(stage.cut, **{name: numbers[name] for name in own}))

    return with_stages(decision, cut)


# Fewer tasks than threads and more, tasks that hold parts of two images, and empty ones.
CUTS: dict[str, list[dict[str, int]]] = {
    "depthwise_last_last": [{"segments": s, "chunks": c} for s in (1, 2, 3, 9, 12) for c in (1, 2, 3)]
    + [{"strip_rows": r} for r in (1, 2, 5, 20)],
    "depthwise_last_planar": [{"segments": s, "boxes": s} for s in (1, 3, 40)],
    "depthwise_planar_planar": [{"segments": 1, "boxes": b} for b in (1, 2, 7)]
    + [{"segments": s, "boxes": 7 * s} for s in (2, 9)],
    "depthwise_planes": [{}],
    "depthwise_patches": [{}],
    "depthwise_padded_last_last": [{"bands": b, "segments": s} for b in (1, 2, 5) for s in (1, 2)],
    "depthwise_padded_planar_planar": [{"bands": b, "segments": s} for b in (1, 2, 5) for s in (1, 2)],
    "depthwise_packed": [{"segments": 1, "boxes": b} for b in (1, 2, 4)]
    + [{"segments": s, "boxes": 4 * s} for s in (2, 9)],
    "fused_last_last": [{"segments": s, "bands": b} for s in (1, 2, 9) for b in (1, 2, 5, 7, 18, 20)]
    + [{"whole_rows": 0, "bands": b} for b in (1, 2, 5, 18, 23, 162, 170)],
    "fused_last_planar": [{"segments": s, "boxes": s} for s in (1, 3, 40)],
    "fused_planar_planar": [{"segments": 1, "boxes": b} for b in (1, 2, 7)]
    + [{"segments": s, "boxes": 7 * s} for s in (2, 9)],
    "two_stage_last_last": [
        {"segments": s, "chunks": c, "bands": b, "panel_chunks": p}
        for s, c in ((1, 1), (2, 2), (1, 3))
        for b in (1, 2, 63, 70)
        for p in (1, 2, 5)
    ],
    "two_stage_last_planar": [{"segments": s, "boxes": s, "bands": b} for s in (1, 3, 40) for b in (1, 2, 3, 11)],
    "two_stage_planar_planar": [{"segments": 1, "boxes": s, "bands": b} for s in (1, 2, 7) for b in (1, 2, 3, 11)],
    "two_stage_planes": [{"bands": b, "fetch_out": f} for b in (1, 2, 3, 9, 20) for f in (0, 1)],
}


@on_each_machine
def test_every_order_of_rows_and_planes_gives_the_same_bits(target: Machine) -> None:
    layer, given = Layer(9, (3, 3, 2), stride=(2, 1, 1)), Input(2, (9, 12, 16), 1)
    g, (numbers, expected) = geometry_of(layer, given), exact_example(layer, given)
    x = input_tensor(layer, given, numbers.x)
    decision = decide(layer, given, x, target)
    for plane_rows, threads, strip_rows, segments in product((1, 2, 6, 12), (1, 2, 7), (1, 4), (1, 2)):
        cut = {"plane_rows": plane_rows, "strip_rows": strip_rows, "segments": segments}
        for fetched in ({}, {"fetch_rows": 3}, {"fetch_planes": 1}):
            again = any_cut(given, layer, decision, threads=threads, **fetched, **cut)
            assert_same(run_decision(again, g, x, numbers), expected, f"{target.isa}, {threads} threads, {cut}")


@on_each_machine
@on_each_emitter
def test_every_cut_gives_the_same_bits(emitter: str, target: Machine) -> None:
    layer, given = example(emitter, target)
    g, numbers = geometry_of(layer, given), numbers_of(layer, given, normals(1))
    x = input_tensor(layer, given, numbers.x)
    decision = decide(layer, given, x, target)
    expected = run_decision(decision, g, x, numbers)
    for cut in CUTS[emitter]:
        for threads in (1, 2, 7):
            y = run_decision(any_cut(given, layer, decision, threads=threads, **cut), g, x, numbers)
            assert_same(y, expected, f"{emitter}, {target.isa}, {threads} threads, {cut}")


@on_each_machine
@on_each_emitter
def test_threads_and_neighbours_in_the_batch_change_no_bit(emitter: str, target: Machine) -> None:
    layer, given = example(emitter, target)
    given = replace(given, batch=3)
    numbers = numbers_of(layer, given, normals(2))
    alone = replace(given, batch=1, threads=1)
    rows = [run(layer, alone, image(numbers, n), target) for n in range(3)]
    for threads in (1, 2, 3, 50):
        for small_cache in (False, True):
            shared = replace(given, threads=threads, small_cache=small_cache)
            assert_same(run(layer, shared, numbers, target), torch.cat(rows), f"{target.isa}, {shared}")


def image(numbers: Numbers, n: int) -> Numbers:
    """The part of one image."""
    batch = numbers.x.shape[0]
    return numbers.mapped(lambda t: t[n : n + 1] if t.shape[0] == batch else t)


@pytest.mark.parametrize(
    ("layer", "target"),
    in_turn(
        [
            *(Layer(17, (3, 3)), Layer(5, (13, 2), 3), Layer(9, (255,)), Layer(3, (3, 3, 3))),
            *(Layer(300, (3, 3), out_channels=17), Layer(12, (31,), 2, out_channels=33, groups=3, residual=True)),
        ]
    ),
    ids=shown,
)
def test_random_numbers_stay_within_the_rounding_bound(layer: Layer, target: Machine) -> None:
    terms = prod(layer.kernel) + (0 if layer.out_channels is None else layer.filters // layer.groups) + 1
    for given in inputs_of(layer, 5):
        numbers = numbers_of(layer, given, normals(3))
        exact = expected_of(layer, given, numbers.mapped(Tensor.double))
        bound = 2 * terms * EPS * expected_of(layer, given, numbers.mapped(lambda t: t.double().abs()))
        error = (run(layer, given, numbers, target).double() - exact).abs()
        assert bool((error <= bound).all()), f"{given}: {float((error / bound).max())} of the rounding bound"
        assert not bool((error <= bound / 1e6).all()), "the bound says nothing"


# The most by which an activation's result moves where its input moves by 1.
SLOPES = {
    "relu": 1.0,
    "relu6": 1.0,
    "silu": 1.1,
    "hardswish": 1.5,
    "hardsigmoid": 0.17,
    "sigmoid": 0.25,
    "gelu": 1.13,
    "leaky_relu": 2.7,
    "elu": 2.7,
}
ACTIVATIONS: list[tuple[str, float]] = [
    *((name, 0.0) for name in ERROR_BOUNDS if name not in ("leaky_relu", "elu")),
    *(("leaky_relu", 0.1), ("leaky_relu", -2.7), ("elu", 1.0), ("elu", -2.7)),
]


def through(activation: Activation, exact: Tensor, error: Tensor) -> tuple[Tensor, Tensor]:
    """The activation of `exact`, and the bound of its error where the input's is `error`."""
    if activation is None:
        return exact, error
    bound, result = ERROR_BOUNDS[activation[0]], activate(exact, activation)
    moved = SLOPES[activation[0]] * error
    own = EPS * (bound.relative * (result.abs() + moved) + bound.of_input * (exact.abs() + error)) + bound.absolute
    return result, moved + own


def bounded(layer: Layer, given: Input, numbers: Numbers) -> tuple[Tensor, Tensor]:
    """The exact result in float64, and how far from it float32 may be."""
    wide, sizes = numbers.mapped(Tensor.double), numbers.mapped(lambda t: t.double().abs())
    first = replace(layer, out_channels=None)
    y, error = (
        expected_of(first, given, Numbers(n.x, DepthwiseTensors(w.depthwise_weight, w.depthwise_bias)))
        for n, w in ((n, n.separable) for n in (wide, sizes))
    )
    y, error = through(layer.activations[0], y, 2 * (prod(layer.kernel) + 1) * EPS * error)
    w, a = wide.separable, sizes.separable
    assert w.residual is not None
    assert a.residual is not None
    z = reference.pointwise_conv(y, w.pointwise_weight, w.pointwise_bias) + w.residual
    size = reference.pointwise_conv(y.abs() + error, a.pointwise_weight, a.pointwise_bias) + a.residual
    error = reference.pointwise_conv(error, a.pointwise_weight) + 2 * (layer.filters + 2) * EPS * size
    return through(layer.activations[1], z, error)


@pytest.mark.parametrize(("activation", "target"), in_turn(ACTIVATIONS), ids=shown)
def test_activations_stay_within_the_bounds_of_both_steps(activation: tuple[str, float], target: Machine) -> None:
    layer = Layer(19, (3, 3), out_channels=21, activations=(activation, activation), residual=True)
    given = Input(2, (5, 8), 1)
    numbers = numbers_of(layer, given, normals(4))
    y = run(layer, given, numbers, target)
    assert excess(y, layer, given, numbers) <= 1.0
    # Either activation left out is seen.
    for wrong in ((None, activation), (activation, None)):
        assert excess(y, replace(layer, activations=wrong), given, numbers) > 1.0


def excess(y: Tensor, layer: Layer, given: Input, numbers: Numbers) -> float:
    """The largest ratio of the error to its bound."""
    exact, bound = bounded(layer, given, numbers)
    return float(((y.double() - exact).abs() / bound).max())


@on_each_machine
@on_each_emitter
def test_what_is_not_finite_reaches_the_outputs_that_see_it_and_no_other(emitter: str, target: Machine) -> None:
    layer, given = example(emitter, target)
    # No weight is zero, whose product with infinity would be NaN, and inputs lie between the windows.
    drawn = numbers_of(replace(layer, stride=3), given, small_integers(5)).mapped(lambda t: t.abs() + 1)
    for stride in (1, 3):
        strided = replace(layer, stride=stride)
        numbers = drawn if stride == 3 else numbers_of(layer, given, small_integers(5)).mapped(lambda t: t.abs() + 1)
        for value in (NAN, math.inf, -math.inf):
            for place in places(numbers.x):
                x = numbers.x.clone()
                x[place] = value
                planted = replace(numbers, x=x)
                expected = expected_of(strided, given, planted)
                assert_same(run(strided, given, planted, target), expected, f"{emitter}, {value} at {place}")
                assert expected.isfinite().any()


def places(x: Tensor) -> Iterator[tuple[int, ...]]:
    """The first element, the last, and some between."""
    for fraction in (0.0, 0.31, 0.56, 1.0):
        index = int(fraction * (x.numel() - 1))
        yield tuple(int(i) for i in torch.unravel_index(torch.tensor(index), x.shape))


@on_each_machine
@pytest.mark.parametrize("emitter", sorted(KINDS - {kind for kind in KINDS if "depthwise" in kind}))
def test_nan_goes_through_activations(emitter: str, target: Machine) -> None:
    layer, given = example(emitter, target)
    layer = replace(layer, activations=(("relu6", 0.0), ("relu", 0.0)))
    numbers = numbers_of(layer, given, normals(6))
    numbers.x[0, 1] = NAN
    y = run(layer, given, numbers, target)
    assert torch.equal(y.isnan(), expected_of(layer, given, numbers).isnan())
    assert y[0].isnan().any()


@pytest.mark.skipif(not HERE, reason="no generator serves this machine")
def test_a_batch_of_none() -> None:
    for emitter, (layer, given) in EMITTERS.items():
        empty = replace(given, batch=0)
        numbers = numbers_of(layer, empty, small_integers(0))
        x = input_tensor(layer, empty, numbers.x)
        problem = problem_of(x, numbers.weights, geometry_of(layer, empty))
        ready = launch.prepared(numbers.weights, problem)
        assert ready is not None
        out = ready.run(x, numbers.residual)
        assert out is not None
        assert_same(out, expected_of(layer, empty, numbers), emitter)


@pytest.mark.skipif(not HERE, reason="no generator serves this machine")
def test_a_residual_in_another_layout() -> None:
    layer, given = EMITTERS["fused_last_last"]
    numbers, expected = exact_example(layer, given)
    residual = numbers.residual
    assert residual is not None
    x = input_tensor(layer, given, numbers.x)
    for other in (residual, residual.to(memory_format=torch.channels_last), residual.mT.contiguous().mT):
        weights = replace(numbers.separable, residual=other)
        ready = launch.prepared(weights, problem_of(x, weights, geometry_of(layer, given)))
        assert ready is not None
        out = ready.run(x, other)
        assert out is not None
        assert_same(out, expected, str(other.stride()))


@on_each_machine
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_a_residual_of_pixels_is_read_where_it_lies_beside_a_result_in_planes(rank: int, target: Machine) -> None:
    layer, given = Layer(3, (3,) * rank, out_channels=19, residual=True), Input(2, (5, 6, 7)[:rank], 1, "planar", 2)
    g, (numbers, expected) = geometry_of(layer, given), exact_example(layer, given)
    assert numbers.residual is not None
    pixels = laid_out(numbers.residual, "last")
    problem = replace(support.problem_of(g, numbers.x), residual=pixels.stride())
    with patch("depthwise.backends.cpu.run.threads.team_size", lambda: given.threads):
        decision = launch.decide(problem, target)
    assert decision.layout.residual_pixels
    launched = Launch(decision, problem)
    out = launched.run(numbers.x, pixels, pack_of(numbers.weights, decision.program.pointwise), NO_PRINTS.address)
    assert out is not None
    assert out.is_contiguous()
    assert not launched._residual_copied
    assert_same(out, expected, target.isa)


# Kernels beyond any other's, channels too, and multipliers whose filters lie across vectors.
LARGE = [
    *(Layer(64, (51, 51), out_channels=80), Layer(4096, (255,), 33, 4096), Layer(64, (3, 3, 3), 32)),
    *(Layer(64, (12, 12), 5, 96, 2, residual=True), Layer(64, (12,), 5, 80, stride=3, dilation=2)),
    # Rows of as many taps as are written out.
    *(Layer(64, (16, 16), out_channels=80), Layer(64, (23, 23), stride=2), Layer(64, (16, 16), dilation=6)),
    *(Layer(64, (14,)), Layer(64, (9, 9), 16, dilation=3)),
]
MOST_LINES = 5_500


@pytest.mark.parametrize("target", [*HERE[:1], machine.neon()], ids=lambda target: target.isa)
@pytest.mark.parametrize("layer", LARGE, ids=str)
def test_the_size_of_a_kernel_is_bounded(layer: Layer, target: Machine) -> None:
    inputs = [
        Input(1, tuple(reach + more for reach in layer.reach), layout=layout, threads=team)
        for layout, team in (("last", 1), ("last", 2), ("planar", 1))
        for more in (12, 4)
    ]
    for kernel in {kernel for given in inputs for kernel in program_of(layer, given, target).kernels}:
        assert kernel.ir().count("\n") < MOST_LINES, kernel.name


@pytest.mark.parametrize(("emitter", "target"), in_turn(list(EMITTERS)), ids=shown)
def test_no_program_calls_a_function(emitter: str, target: Machine) -> None:
    layer, given = example(emitter, target)
    layer = replace(layer, multiplier=5, channels=2 * layer.channels)
    if layer.out_channels is not None:
        layer = replace(layer, activations=(("silu", 0.0), ("gelu", 0.0)))
    for kernel in program_of(layer, given, target).kernels:
        assert outside_calls(jit.assembly(kernel.ir(), target)) == set()


def test_a_call_would_be_seen() -> None:
    text = "stage0:\n\tcallq\tstage1\n\tcallq\texpf@PLT\n\tjmp\t.LBB0_1\n\tcallq\t*%rax\nstage1:\n\tbl\tmemcpy\n"
    assert outside_calls(text) == {"expf@PLT", "memcpy"}
