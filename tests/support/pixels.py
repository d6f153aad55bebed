"""Checks of what is asked of pixels beside convolutions, on memory that a test chooses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

from depthwise.backends.cpu.machine import Machine
from depthwise.backends.pixels import Bilinear, Elementwise, GroupNorm, Mean, Rearrange, Term
from tests.support.cases import small_integers
from tests.support.kernels import HEAP, Memory, assert_same
from tests.support.series import run_problem

# Below, equal to, a multiple of and above the lanes of every machine, and of four vectors.
CHANNELS = (1, 2, 3, 7, 8, 9, 16, 17, 31, 33, 64, 100, 129)
TEAMS = (1, 2, 3)
GROUPS = ((1, 1), (2, 2), (6, 3), (8, 1), (9, 3), (16, 4), (34, 17), (64, 1), (100, 5))


def check_bilinear(target: Machine, memory: Memory = HEAP) -> None:
    """Images of another size, corners on corners or not, against PyTorch in float64."""
    sizes = ((1, 1), (2, 3), (5, 4), (7, 9))
    given = zip(CHANNELS * 2, TEAMS * 8, product(sizes, sizes[1:], (False, True)), strict=False)
    for channels, team, (size, out_size, aligned) in given:
        x = small_integers(0)((2, channels, *size)).contiguous(memory_format=torch.channels_last)
        expected = F.interpolate(x.double(), out_size, mode="bilinear", align_corners=aligned).float()
        pairs = zip(size, out_size, strict=True)
        down, across = ((n - 1) / (m - 1) if aligned else n / m for n, m in pairs)
        problem = Bilinear(2, channels, size, out_size, (down, across), aligned)
        out = run_problem(problem, {"x": x.permute(0, 2, 3, 1)}, (2, *out_size, channels), target, team, memory)
        torch.testing.assert_close(out.permute(0, 3, 1, 2), expected, rtol=1e-6, atol=1e-5)


def check_group_norm(target: Machine, memory: Memory = HEAP) -> None:
    """Norms over groups of channels, against PyTorch in float64."""
    for (channels, groups), pixels, team in zip(GROUPS, (7, 2, 3, 50, 9) * 2, TEAMS * 3, strict=False):
        draw = torch.Generator().manual_seed(channels)
        # Far from zero, where a square in float32 would lose the variance.
        x = torch.randn(3, pixels, channels, generator=draw) + 100
        scale, shift = (torch.randn(channels, generator=draw) for _ in range(2))
        exact = F.group_norm(x.mT.double(), groups, scale.double(), shift.double(), 1e-3).mT
        tensors = {"x": x, "scale": scale, "shift": shift}
        problem = GroupNorm(3, pixels, channels, groups, 1e-3, affine=True)
        # x · scale and the shift are rounded each, and cancel.
        allowed = 1e-4 * (1 + scale.abs().double())
        for place in ("", "x"):
            out = run_problem(problem, tensors, tuple(x.shape), target, team, memory, in_place=place)
            assert bool(((out - exact).abs() <= allowed).all()), (channels, groups, team)
        plain = run_problem(replace(problem, affine=False), {"x": x}, tuple(x.shape), target, team, memory)
        assert bool(((plain - F.group_norm(x.mT.double(), groups, eps=1e-3).mT).abs() <= 1e-4).all())


def check_pixel_factors(target: Machine, memory: Memory = HEAP) -> None:
    """Numbers multiplied with one of each pixel."""
    for channels, team in zip(CHANNELS, TEAMS * 5, strict=False):
        x, factors = small_integers(0)((2, 5, channels)), small_integers(1)((2, 5))
        problem = Elementwise(2, 5, channels, (Term("mul", "pixel"),))
        out = run_problem(problem, {"x": x, "operand_0": factors}, tuple(x.shape), target, team, memory)
        assert_same(out, x * factors[..., None], f"{channels} channels, {team} threads")


def check_totals(target: Machine, memory: Memory = HEAP) -> None:
    """Sums over pixels, and roots of sums of squares."""
    for channels, pixels, team in zip(CHANNELS, (1, 2, 3, 7, 50) * 3, TEAMS * 5, strict=False):
        x = small_integers(0)((2, pixels, channels))
        expected = {"sum": x.sum(1), "norm": x.double().square().sum(1).sqrt().float()}
        for result, numbers in expected.items():
            problem = Mean(2, pixels, channels, result)  # type: ignore[arg-type]
            out = run_problem(problem, {"x": x}, (2, channels), target, team, memory)
            assert_same(out, numbers, f"{result} of {pixels} x {channels}, {team} threads")


# How x of this shape is seen, and the dimensions of that in the order in which they are written.
BOXES: dict[str, tuple[tuple[int, ...], Callable[[Tensor], Tensor], tuple[int, ...]]] = {
    "as it is": ((2, 5, 7), lambda x: x, (0, 1, 2)),
    "transposed": ((2, 9, 17), lambda x: x.mT, (0, 1, 2)),
    "written transposed": ((2, 9, 17), lambda x: x, (0, 2, 1)),
    "part of rows": ((3, 4, 33), lambda x: x[:, 1:3, 2:31], (0, 1, 2)),
    "every other": ((3, 4, 33), lambda x: x[:, ::2, 1::3], (0, 1, 2)),
    "repeated": ((3, 1, 18), lambda x: x.expand(3, 4, 18), (0, 1, 2)),
    "one number": ((1, 1), lambda x: x.expand(3, 40), (0, 1)),
    "six axes": ((2, 2, 3, 2, 3, 5), lambda x: x.permute(0, 5, 1, 3, 2, 4), (0, 1, 2, 3, 4, 5)),
}


def check_rearranged(target: Machine, memory: Memory = HEAP) -> None:
    """Boxes of numbers at other places, and filled ones."""
    for (name, (shape, view, order)), team in product(BOXES.items(), TEAMS):
        x = torch.arange(float(prod(shape))).view(shape)
        seen = view(x)
        out = torch.empty(tuple(seen.shape[n] for n in order)).permute(tuple(order.index(n) for n in range(len(order))))
        steps = tuple(zip(seen.stride(), out.stride(), strict=True))
        axes = [(seen.shape[n], steps[n]) for n in order]
        sizes, distances = tuple(size for size, _ in axes), tuple(step for _, step in axes)
        problem = Rearrange(sizes, (int(seen.storage_offset()), 0), distances)
        result = run_problem(problem, {"x": x}, sizes, target, team, memory)
        assert_same(result, seen.permute(order), f"{name}, {team} threads")
        filled = run_problem(replace(problem, fill=2.5), {"x": x}, sizes, target, team, memory)
        assert_same(filled, torch.full(sizes, 2.5), f"{name}, filled, {team} threads")
        mirrored = tuple((-step, out_step) for step, out_step in distances)
        last = int(seen.storage_offset()) + sum((size - 1) * step for size, (step, _) in axes)
        result = run_problem(Rearrange(sizes, (last, 0), mirrored), {"x": x}, sizes, target, team, memory)
        assert_same(result, seen.permute(order).flip([*range(len(order))]), f"{name}, mirrored, {team} threads")
