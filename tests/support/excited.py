"""The two ends of squeeze-excite, to test with: means of what leaves the sums of its rows, and gated convolutions."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from math import prod
from unittest.mock import patch

import torch.nn.functional as F
from torch import Tensor

from depthwise.backends.base import DepthwiseTensors, PointwiseTensors
from depthwise.backends.cpu.machine import Machine
from depthwise.backends.cpu.series import plan
from depthwise.backends.pixels import Mean
from depthwise.backends.problem import Problem
from depthwise.backends.series import Series, Step
from depthwise.geometry import Geometry, geometry
from tests.support.cases import small_integers
from tests.support.kernels import HEAP, Memory, assert_same
from tests.support.series import LAST, convolution, run_series

RELU, LEAKY = ("relu", 0.0), ("leaky_relu", 0.25)


@dataclass(frozen=True)
class Summed:
    """A depthwise convolution and the mean of its result; expanded_from: channels that it is expanded from, or 0."""

    channels: int
    size: tuple[int, int]
    kernel: int = 3
    stride: int = 1
    dilation: int = 1
    multiplier: int = 1
    batch: int = 2
    expanded_from: int = 0

    @property
    def window(self) -> Geometry:
        padding = (self.kernel - 1) // 2 * self.dilation
        return geometry(
            (self.channels, *self.size),
            self.kernel,
            self.stride,
            padding,
            self.dilation,
            depth_multiplier=self.multiplier,
        )


SUMMED = (
    # One tile to a row, whole tiles, a tile over the one before it; blocks that overlap.
    Summed(16, (5, 7)),
    Summed(33, (4, 14), batch=1),
    Summed(21, (6, 11)),
    Summed(5, (9, 10), kernel=5),
    Summed(17, (8, 32), kernel=5, stride=2),
    Summed(8, (3, 23), dilation=2),
    Summed(6, (5, 3), multiplier=2),
    Summed(16, (5, 7), kernel=1),
    Summed(33, (4, 3), multiplier=2),
    Summed(40, (7, 15), stride=2, expanded_from=8),
    Summed(9, (6, 10), expanded_from=3, batch=1),
)


def series_of(
    case: Summed, draw: Callable[[tuple[int, ...]], Tensor] | None = None
) -> tuple[Series, dict[str, Tensor], dict[str, Tensor]]:
    """Its steps on small integers, or on what `draw` gives: what they take, and what they should give."""
    draw, g = draw or small_integers(0), case.window
    weight = draw((g.depthwise_channels, 1, *g.kernel_size))
    given = draw((case.batch, case.expanded_from or case.channels, *case.size))
    x = image = given.contiguous(memory_format=LAST)
    steps = []
    if case.expanded_from:
        wide = geometry(x.shape[1:], 1, out_channels=case.channels)
        expand = draw((case.channels, case.expanded_from, 1, 1)).sign()
        steps.append(convolution("pointwise", wide, (None, RELU), PointwiseTensors(expand), "x", "a", batch=case.batch))
        image = F.relu(F.conv2d(x, expand))
    read = "a" if case.expanded_from else "x"
    steps.append(convolution("depthwise", g, (LEAKY, None), DepthwiseTensors(weight), read, "y", batch=case.batch))
    y = F.leaky_relu(F.conv2d(image, weight, None, *g.window[:1], g.padding[0][0], g.dilation, case.channels), 0.25)
    pixels = prod(g.out_spatial)
    steps.append(Step(Mean(case.batch, pixels, g.depthwise_channels), (("x", "y"), ("out", "m"))))
    expected = {"y": y, "m": y.sum((2, 3)) / pixels}
    elements = {"a": case.batch * prod(g.input_size)} | {name: one.numel() for name, one in expected.items()}
    return Series(tuple(steps), frozenset({"x"}), frozenset({"y", "m"}), elements), {"x": x}, expected


def rolling() -> AbstractContextManager[object]:
    """Expansions in one stage with what reads them, in two bands of each image."""
    return patch("depthwise.backends.cpu.lower.expanded.expanded_bands", lambda *_: 2)


def check_summed(case: Summed, target: Machine, team: int, memory: Memory = HEAP) -> None:
    """Check both results against PyTorch, bit by bit."""
    series, tensors, expected = series_of(case)
    with rolling():
        kernels = plan(series, target, team).program.kernels
        assert ["sums" in kernel.writes for kernel in kernels] == [True, False], [kernel.name for kernel in kernels]
        found = run_series(series, tensors, target, team, memory)
    y = found["y"].view(case.batch, *expected["y"].shape[2:], -1).permute(0, 3, 1, 2)
    assert_same(y, expected["y"], f"{case}, {team} threads")
    assert_same(found["m"].view(case.batch, -1), expected["m"], f"the mean of {case}, {team} threads")


@dataclass(frozen=True)
class Gated:
    """A pointwise convolution of an image times its gate."""

    channels: int
    out: int
    size: tuple[int, int]
    groups: int = 1
    batch: int = 2
    residual: bool = False


GATED = (
    Gated(5, 9, (7, 6)),
    Gated(17, 33, (5, 3), residual=True),
    Gated(8, 40, (4, 4), batch=3),
    Gated(12, 8, (1, 3), groups=2),
    Gated(9, 24, (1, 1), batch=1),
    Gated(33, 100, (9, 11), batch=1, residual=True),
)


def check_gated(case: Gated, target: Machine, team: int, memory: Memory = HEAP) -> None:
    """Check one stage against PyTorch, bit by bit."""
    draw, size = small_integers(0), (case.channels, *case.size)
    x, gate = draw((case.batch, *size)).contiguous(memory_format=LAST), draw((case.batch, case.channels, 1, 1))
    weight, bias = draw((case.out, case.channels // case.groups, 1, 1)), draw((case.out,))
    g = geometry(size, 1, out_channels=case.out, groups=case.groups)
    added = "r" if case.residual else ""
    plain = convolution(
        "pointwise", g, (None, LEAKY), PointwiseTensors(weight, bias, LEAKY), "x", "y", added, batch=case.batch
    )
    assert isinstance(plain.problem, Problem)
    gated = replace(plain, problem=replace(plain.problem, gated=True), buffers=(*plain.buffers, ("gate", "gate")))
    y = F.conv2d(x * gate, weight, bias, groups=case.groups)
    tensors = {"x": x, "gate": gate}
    if case.residual:
        tensors["r"] = draw(tuple(y.shape)).contiguous(memory_format=LAST)
        y = y + tensors["r"]
    y = F.leaky_relu(y, 0.25)
    series = Series((gated,), frozenset(tensors), frozenset({"y"}), {"y": y.numel()})
    found = run_series(series, tensors, target, team, memory)["y"]
    assert_same(found.view(case.batch, *case.size, -1).permute(0, 3, 1, 2), y, f"{case}, {team} threads")
