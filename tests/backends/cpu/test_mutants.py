"""Errors planted in plans, packs and emitters: the check that test_kernels makes must see each of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from types import ModuleType
from typing import Any
from weakref import WeakValueDictionary

import pytest
import torch
from torch import Tensor

from depthwise.backends.cpu import pack
from depthwise.backends.cpu.emit import boxes, depthwise, direct, fused, inputs, ir, planar, pointwise, product, tile
from depthwise.backends.cpu.emit.ir import Block, Int, Vec
from depthwise.backends.cpu.lower import separable
from depthwise.backends.cpu.run import jit, program
from tests.support.kernels import HERE, Input, Layer, Roomy, assert_exact

MODULES = (ir, tile, depthwise, pointwise, planar, product, boxes, direct, fused, program, pack, separable)

_BLOCK = Layer(9, (3, 2), out_channels=19, activations=(("relu", 0.0), ("leaky_relu", 0.25)), residual=True)
# Every emitter, tails in every dimension, and all that a mutant may leave out.
EXAMPLES: list[tuple[Layer, Input]] = [
    (_BLOCK, Input(2, (5, 9), 1)),
    (_BLOCK, Input(2, (5, 9), 1, "planar")),
    (_BLOCK, Input(2, (5, 9), 1, "planar", small_cache=True)),
    (Layer(3, (3, 3), out_channels=20), Input(2, (6, 30), 1, "planar", threads=2)),
    (_BLOCK, Input(1, (5, 9), 1, threads=2)),
    (_BLOCK, Input(1, (5, 9), 1, threads=2, small_cache=True)),
    (Layer(9, (3, 3)), Input(2, (6, 9), ((1, 0), (2, 1)))),
    (Layer(9, (3, 3)), Input(1, (1, 130), 1, threads=2)),
    (Layer(9, (3, 3)), Input(2, (6, 9), 1, "planar")),
    (Layer(3, (3, 3), 2, dilation=2), Input(2, (9, 30), 2, "planar", threads=2)),
    (Layer(5, (3, 4), 2, stride=2), Input(1, (9, 20), ((1, 2), (0, 3)))),
    (Layer(3, (2, 3, 3), 3, dilation=2), Input(1, (4, 6, 11), 1)),
    (Layer(3, (3, 3), stride=3), Input(1, (7, 70), 1, "planar")),
    (Layer(1024, (5, 5)), Input(1, (2, 9), 2)),
]


@pytest.fixture(autouse=True)
def _code_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEPTHWISE_CACHE_DIR", "off")
    monkeypatch.setattr(jit, "_loaded", WeakValueDictionary())
    monkeypatch.setattr(jit, "_kept", deque(maxlen=8))


def check() -> None:
    # The narrowest vectors make the shortest code.
    for layer, given in EXAMPLES:
        assert_exact(layer, given, HERE[-1], Roomy())


Mutant = Callable[[Callable[..., Any]], Callable[..., Any]]


def planted(monkeypatch: pytest.MonkeyPatch, owner: ModuleType | type, name: str, mutant: Mutant) -> None:
    """Put `mutant` of a function in its place: everywhere where `owner` defines it, else where `owner` uses it."""
    right = getattr(owner, name)
    wrong = mutant(right)
    users = MODULES if right.__module__ == owner.__name__ else ()
    for place in {owner, *users}:
        if getattr(place, name, None) is right:
            monkeypatch.setattr(place, name, wrong)


def dropped_tap(right: Callable[..., Any]) -> Callable[..., Any]:
    def chunk(e: Block, k: Any, strip: Any, place: Any, taps: tuple[Int, int], *rest: Any, **options: Any) -> Any:
        return right(e, k, strip, place, (taps[0], max(1, taps[1] - 1)), *rest, **options)

    return chunk


def shifted_padding(axis: str) -> Mutant:
    def mutant(right: Callable[..., Any]) -> Callable[..., Any]:
        return lambda e, name: right(e, name) + int(name == f"pad_{axis}")

    return mutant


def shorter_row(right: Callable[..., Any]) -> Callable[..., Any]:
    def write_rows(e: Block, k: Any, rows: Any, *rest: Any) -> None:
        whole = (rows.stop - rows.start) // k.columns[0] * k.columns[0]
        right(e, k, replace(rows, stop=rows.start + whole), *rest)

    return write_rows


def fewer_rows(right: Callable[..., Any]) -> Callable[..., Any]:
    return lambda e, k, rows, *rest: right(e, k, replace(rows, count=ir.greatest(rows.count - 1, 1)), *rest)


def wider_edge(right: Callable[..., Any]) -> Callable[..., Any]:
    def by_edges(e: Block, k: Any, ix: Int, columns: int, write: Callable[[Any], None]) -> None:
        right(e, k, ix, columns, lambda edges: write(replace(edges, left=edges.left + (edges.left > 0))))

    return by_edges


def without_residual(right: Callable[..., Any]) -> Callable[..., Any]:
    return lambda e, k, *rest: right(e, replace(k, residual=False), *rest)


def shorter_tile(right: Callable[..., Any]) -> Callable[..., Any]:
    return lambda e, k, band, panel, tile: right(e, k, band, panel, replace(tile, rows=max(1, tile.rows - 1)))


def without_bias(right: Callable[..., Any]) -> Callable[..., Any]:
    def packed(*arguments: Any) -> tuple[Tensor, Tensor]:
        weight, bias = right(*arguments)
        return weight, torch.zeros_like(bias)

    return packed


def swapped_window(right: Callable[..., Any]) -> Callable[..., Any]:
    def kernel(*arguments: Any, **options: Any) -> Any:
        k = right(*arguments, **options)
        return replace(k, stride=k.dilation, dilation=k.stride)

    return kernel


def swapped_rows(right: Callable[..., Any]) -> Callable[..., Any]:
    def transposed(rows: list[Vec]) -> list[Vec]:
        first, second, *rest = right(rows)
        return [second, first, *rest]

    return transposed


def moved_less(side: str) -> Mutant:
    def mutant(right: Callable[..., Any]) -> Callable[..., Any]:
        def load(e: Block, k: Any, place: Any, offset: int, own: str) -> Vec:
            less = offset - (offset > 0) + (offset < 0)
            moved: Vec = right(e, k, place, less if own == side else offset, own)
            return moved

        return load

    return mutant


def changed(change: Callable[..., Any]) -> Mutant:
    """What a function returns, changed; `change` also sees the arguments."""
    return lambda right: lambda *arguments: change(right(*arguments), *arguments)


MUTANTS: dict[str, tuple[ModuleType | type, str, Mutant]] = {
    "a dropped tap": (tile, "_chunk", dropped_tap),
    "padding shifted along a row": (Block, "number", shifted_padding("x")),
    "padding shifted along a column": (Block, "number", shifted_padding("y")),
    "padding shifted along the depth": (Block, "number", shifted_padding("z")),
    "the last columns skipped": (depthwise, "write_rows", shorter_row),
    "the last row of a strip skipped": (depthwise, "write_rows", fewer_rows),
    "a column at the left edge left out": (depthwise, "_by_edges", wider_edge),
    "the last block of filters one too early": (
        depthwise,
        "first_filter",
        lambda right: lambda k, block: ir.least(block * k.lanes, max(0, k.filters - k.lanes - 1)),
    ),
    "the last block of filters not overlapping": (
        depthwise,
        "first_filter",
        lambda right: lambda k, block: ir.least(block, k.filters // k.lanes - 1) * k.lanes,
    ),
    "the last row of the kernel left out": (tile, "valid", changed(lambda taps, *_: (taps[0], taps[1] - 1))),
    "rows above the image not left out": (tile, "valid", changed(lambda taps, *_: (taps[0] * 0, taps[1]))),
    "columns outside the image read": (
        Int,
        "is_index_of",
        lambda right: lambda index, length: right(index, length + 1),
    ),
    "edges that tiles do not look at": (
        depthwise,
        "usual_edges",
        lambda right: lambda reach: tuple(outside - (outside > 0) for outside in right(reach)),
    ),
    "segments all begin with their row": (
        depthwise,
        "first_pixel",
        lambda right: lambda e, k, unit: unit // e.number("segments") * e.number("out_x"),
    ),
    "multiplied channels in another order": (
        Vec,
        "permuted",
        lambda right: lambda vector, lanes: right(vector, [*lanes[1:], lanes[0]]),
    ),
    "spread channels one too far": (
        inputs,
        "order_of",
        lambda right: lambda e, name, rows, index: right(e, name, [[*row[1:], row[0]] for row in rows], index),
    ),
    "stride and dilation mistaken": (separable, "depthwise_plan", swapped_window),
    "no depthwise bias": (pack, "pack_depthwise", without_bias),
    "no pointwise bias": (pack, "pack_pointwise", without_bias),
    "taps in another order": (pack, "pack_depthwise", changed(lambda packed, *_: (packed[0].flip(0), packed[1]))),
    "the columns of a panel in another order": (pack, "_columns", changed(lambda columns, _: columns.roll(1, 1))),
    "the last vector of a group one column off": (
        pack,
        "_columns",
        changed(lambda columns, k: columns - (columns[:, :1] % k.lanes > 0).long()),
    ),
    "no depthwise activation": (depthwise, "activated", lambda right: lambda x, activation: x),
    "no pointwise activation": (product, "activated", lambda right: lambda x, activation: x),
    "no residual": (pointwise, "write_product", without_residual),
    "no pointwise bias of planes": (pack, "pack_rows", without_bias),
    "no activation of multiplied planes": (planar, "activated", lambda right: lambda x, activation: x),
    "the last pixels of a band skipped": (
        planar,
        "_write_pixels",
        lambda right: lambda e, k, outputs, start, stop: right(e, k, outputs, start, stop - 8),
    ),
    "a tile of planes one too far": (
        planar,
        "_outputs",
        lambda right: lambda e, k, place, rows: right(e, k, (place[0], place[1], place[2] + 1), rows),
    ),
    "a tile one row short": (pointwise, "_write_tile", shorter_tile),
    "two lanes of a transposition swapped": (boxes, "transposed", swapped_rows),
    "the last pixels not brought to planes": (
        boxes,
        "ceil_div",
        lambda right: lambda a, b: a // b,
    ),
    "the first vector of a row moved too little": (direct, "_load", moved_less("left")),
    "the last vector of a row moved too little": (direct, "_load", moved_less("right")),
    "planes' weights in another order": (
        direct,
        "_weights",
        changed(lambda weights, *_: dict(zip(weights, reversed(weights.values()), strict=True))),
    ),
    "every third column one too far": (
        direct,
        "gathered",
        lambda right: lambda place, columns, starts: right(place, [*columns[1:], columns[-1]], starts),
    ),
    "packed pixels one too few": (
        boxes,
        "_bringing",
        lambda right: lambda *call: lambda offset, count, place: right(*call)(offset, count - 1, place),
    ),
    "a band that begins within a row leaves that row out": (
        fused,
        "_cut",
        changed(lambda cut, *_: (cut[0], cut[2], cut[2])),
    ),
    "a box's input one row too few": (boxes, "_span", changed(lambda span, *_: (span[0] + 1, span[1]))),
}


@pytest.mark.skipif(not HERE, reason="no generator serves this machine")
def test_without_a_mutant_the_check_passes() -> None:
    check()


@pytest.mark.skipif(not HERE, reason="no generator serves this machine")
@pytest.mark.parametrize("name", MUTANTS)
def test_every_mutant_is_seen(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    planted(monkeypatch, *MUTANTS[name])
    with pytest.raises(AssertionError, match="elements differ"):
        check()
