"""Poolings: PyTorch's numbers for every window, NaN included, and however the pixels are dealt out."""

from __future__ import annotations

from itertools import product
from random import Random
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from depthwise.backends.cpu import machine
from depthwise.backends.cpu.emit import pool, tile
from depthwise.backends.cpu.emit.ir import select
from depthwise.backends.cpu.lower import lower
from depthwise.backends.cpu.machine import Machine
from depthwise.backends.cpu.run import jit
from depthwise.backends.pixels import AveragePool, MaxPool, Pool
from depthwise.geometry import Geometry, pool_geometry
from tests.support.cases import small_integers
from tests.support.kernels import HEAP, HERE, NAN, Memory, assert_same
from tests.support.series import run_problem

on_each_machine = pytest.mark.parametrize("target", HERE, ids=lambda target: target.isa)
CHANNELS = (1, 2, 3, 7, 8, 9, 16, 17, 33, 64, 70, 130)
# kernel, stride, padding, dilation, ceil_mode, each for y and x
WINDOWS = [
    ((3, 3), (2, 2), (1, 1), (1, 1), False),
    ((3, 3), (2, 2), (0, 0), (1, 1), True),
    ((2, 2), (2, 2), (0, 0), (1, 1), False),
    ((3, 3), (1, 1), (1, 1), (1, 1), False),
    ((2, 5), (3, 1), (1, 2), (1, 1), True),
    ((3, 2), (2, 3), (1, 1), (2, 3), True),
    ((1, 1), (2, 2), (0, 0), (1, 1), False),
    ((7, 7), (7, 7), (3, 3), (1, 1), True),
]


@pytest.fixture(autouse=True)
def _every_size_is_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("depthwise.backends.cpu.plan.elementwise.FEWEST_SHARED", 0)


def run(problem: Pool, x: Tensor, target: Machine, team: int, memory: Memory = HEAP) -> Tensor:
    """x: (images, channels, height, width)"""
    size = (problem.images, *problem.geometry.out_spatial, problem.geometry.in_channels)
    out = run_problem(problem, {"x": x.movedim(1, -1).contiguous()}, size, target, team, memory)
    return out.movedim(-1, 1)


def examples(seed: int) -> list[tuple[Geometry, dict[str, Any], int, int]]:
    """Each window with some channels: the geometry, PyTorch's arguments, images and threads."""
    random, found = Random(seed), []
    for index, ((kernel, stride, padding, dilation, ceil_mode), channels) in enumerate(product(WINDOWS, CHANNELS)):
        if index % 3:
            continue
        least = [max(1, d * (k - 1) + 1 - 2 * p) for k, d, p in zip(kernel, dilation, padding, strict=True)]
        size = tuple(n + random.choice((0, 1, 4, 11)) for n in least)
        g = pool_geometry((channels, *size), kernel, stride, padding, dilation, ceil_mode=ceil_mode)
        window: dict[str, Any] = {"kernel_size": kernel, "stride": stride, "padding": padding}
        window |= {"dilation": dilation, "ceil_mode": ceil_mode}
        found.append((g, window, random.choice((1, 2, 3)), random.choice((1, 2, 3))))
    return found


@on_each_machine
def test_the_greatest_of_each_window(target: Machine) -> None:
    for g, window, images, team in examples(0):
        x = small_integers(0)((images, *g.input_size))
        x[:, :, ::3, ::4] = -torch.inf
        x[0, :, -1, 0] = NAN
        expected = F.max_pool2d(x, **window)
        assert_same(run(MaxPool(images, g), x, target, team), expected, f"{g}, {team} threads")


@on_each_machine
@pytest.mark.parametrize("divisor", [None, 7])
@pytest.mark.parametrize("counts_padding", [False, True])
def test_the_mean_of_each_window(target: Machine, divisor: int | None, counts_padding: bool) -> None:
    for g, window, images, team in examples(1):
        if window.pop("dilation") != (1, 1):
            continue
        x = small_integers(0)((images, *g.input_size))
        x[0, :, 0, 0] = NAN
        expected = F.avg_pool2d(x, **window, count_include_pad=counts_padding, divisor_override=divisor)
        counted = tuple((before if counts_padding else 0,) * 2 for before, _ in g.padding)
        out = run(AveragePool(images, g, divisor, counted), x, target, team)
        assert_same(out, expected, f"{g}, {team} threads")


@on_each_machine
@pytest.mark.parametrize("rank", [1, 3])
def test_sequences_and_volumes(target: Machine, rank: int) -> None:
    g = pool_geometry((9, *(5, 6, 7)[:rank]), (3,) * rank, (2,) * rank, (1,) * rank, (1,) * rank)
    x = small_integers(0)((2, *g.input_size))
    expected = (F.max_pool1d if rank == 1 else F.max_pool3d)(x, 3, 2, 1)
    assert_same(run(MaxPool(2, g), x, target, 2), expected, "greatest")
    expected = (F.avg_pool1d if rank == 1 else F.avg_pool3d)(x, 3, 2, 1)
    assert_same(run(AveragePool(2, g, None, ((1, 1),) * rank), x, target, 2), expected, "means")


@on_each_machine
def test_a_mean_of_random_numbers_rounds_little(target: Machine) -> None:
    g = pool_geometry((40, 30, 30), (7, 7), (3, 3), (3, 3), (1, 1))
    x = torch.randn(1, 40, 30, 30, generator=torch.Generator().manual_seed(0))
    out = run(AveragePool(1, g, None, ((0, 0), (0, 0))), x, target, 1)
    exact = F.avg_pool2d(x.double(), 7, 3, 3, count_include_pad=False)
    most = F.avg_pool2d(x.double().abs(), 7, 3, 3, count_include_pad=False)
    assert bool(((out - exact).abs() <= 50 * torch.finfo().eps * most).all())


@on_each_machine
@pytest.mark.parametrize("wrong", ["a window's last row left out", "less than is counted", "NaN lost"])
def test_mutants_are_seen(wrong: str, target: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEPTHWISE_CACHE_DIR", "off")
    monkeypatch.setattr(jit, "load", lambda key, machine, emit: jit.link(jit.compile_object(emit(), machine), machine))
    if wrong == "a window's last row left out":
        valid = tile.valid
        monkeypatch.setattr(pool, "valid", lambda *all_: (valid(*all_)[0], valid(*all_)[1] - int(all_[3] == 1)))
    elif wrong == "less than is counted":
        counted = pool._counted
        monkeypatch.setattr(pool, "_counted", lambda *all_: counted(*all_) - 1)
    else:
        monkeypatch.setattr(pool, "_joined", lambda k, one, value: select(one.above(value), one, value))
    g = pool_geometry((9, 7, 9), (3, 3), (2, 2), (1, 1), (1, 1))
    x = small_integers(0)((1, 9, 7, 9))
    x[0, 3, 2, 2] = NAN
    if wrong == "less than is counted":
        out, expected = run(AveragePool(1, g, None, ((1, 1), (1, 1))), x, target, 1), F.avg_pool2d(x, 3, 2, 1)
    else:
        out, expected = run(MaxPool(1, g), x, target, 1), F.max_pool2d(x, 3, 2, 1)
    with pytest.raises(AssertionError, match="elements differ"):
        assert_same(out, expected, wrong)


@pytest.mark.parametrize("target", [machine.avx2(), machine.neon()], ids=lambda target: target.isa)
def test_code_for_other_machines(target: Machine) -> None:
    g = pool_geometry((70, 9, 9), (3, 3), (2, 2), (1, 1), (1, 1))
    for problem in (MaxPool(1, g), AveragePool(1, g, None, ((1, 1), (1, 1)))):
        for kernel in lower(problem, target, 1).program.kernels:
            assert jit.compile_object(kernel.ir(), target)[:4] == b"\x7fELF"
