"""Expansions with the convolution after them, to test with: as a series of two steps, run in one stage or in two."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from math import prod
from unittest.mock import patch

import torch.nn.functional as F
from torch import Tensor

from depthwise.backends.base import DepthwiseTensors, PointwiseTensors, SeparableTensors
from depthwise.backends.cpu.emit.expanded import ExpandedKernel
from depthwise.backends.cpu.machine import Machine
from depthwise.backends.cpu.series import plan
from depthwise.backends.series import Series
from depthwise.geometry import Geometry, geometry
from tests.support.cases import small_integers
from tests.support.kernels import HEAP, Memory, assert_same
from tests.support.series import LAST, convolution, run_series

RELU, LEAKY = ("relu", 0.0), ("leaky_relu", 0.25)


@dataclass(frozen=True)
class Expanded:
    """What is tried. out: channels of the last pointwise convolution, or None."""

    channels: int
    expanded: int
    out: int | None
    size: tuple[int, int]
    kernel: tuple[int, int] = (3, 3)
    stride: int = 1
    padding: int = 1
    dilation: int = 1
    multiplier: int = 1
    batch: int = 2
    residual: bool = False

    @property
    def window(self) -> Geometry:
        return geometry(
            (self.expanded, *self.size),
            self.kernel,
            self.stride,
            self.padding,
            self.dilation,
            depth_multiplier=self.multiplier,
            out_channels=self.out,
        )


TRIED = (
    Expanded(5, 17, 9, (7, 6)),
    Expanded(8, 16, 8, (9, 5), residual=True),
    Expanded(3, 9, 24, (8, 11), kernel=(5, 3), stride=2, padding=2),
    Expanded(4, 8, None, (6, 7), multiplier=2, batch=1),
    Expanded(4, 33, None, (9, 4), kernel=(3, 1), padding=0, stride=3),
    Expanded(7, 12, 5, (11, 9), dilation=2, padding=3),
    # Windows with nothing but padding under them, and fewer rows under a window than from one to the next.
    Expanded(2, 8, 3, (3, 4), padding=4),
    Expanded(2, 8, 3, (9, 4), kernel=(1, 1), padding=0, stride=2),
)


def series_of(case: Expanded) -> tuple[Series, dict[str, Tensor], Tensor]:
    """The two steps on small integers, what they take, and what they should give."""
    draw, g = small_integers(0), case.window
    x = draw((case.batch, case.channels, *case.size)).sign().contiguous(memory_format=LAST)
    expand, shift = draw((case.expanded, case.channels, 1, 1)).sign(), draw((case.expanded,))
    depthwise = draw((g.depthwise_channels, 1, *case.kernel)).sign()
    wide = geometry(x.shape[1:], 1, out_channels=case.expanded)
    first = convolution("pointwise", wide, (None, RELU), PointwiseTensors(expand, shift), "x", "a", batch=case.batch)
    a = F.relu(F.conv2d(x, expand, shift))
    y = F.conv2d(a, depthwise, None, case.stride, case.padding, case.dilation, groups=case.expanded)
    tensors = {"x": x}
    if case.out is None:
        last = convolution("depthwise", g, (LEAKY, None), DepthwiseTensors(depthwise), "a", "y", batch=case.batch)
        y = F.leaky_relu(y, 0.25)
    else:
        pointwise = draw((case.out, g.depthwise_channels, 1, 1)).sign()
        weights = SeparableTensors(depthwise, pointwise)
        added = "r" if case.residual else ""
        last = convolution("separable", g, (LEAKY, RELU), weights, "a", "y", added, batch=case.batch)
        y = F.conv2d(F.leaky_relu(y, 0.25), pointwise)
        if case.residual:
            tensors["r"] = draw(tuple(y.shape)).contiguous(memory_format=LAST)
            y = y + tensors["r"]
        y = F.relu(y)
    elements = {"a": case.batch * prod(g.input_size), "y": y.numel()}
    return Series((first, last), frozenset(tensors), frozenset({"y"}), elements), tensors, y


def check_expanded(case: Expanded, target: Machine, team: int, bands: int, memory: Memory = HEAP) -> None:
    """Check one stage, of so many bands of each image, against PyTorch."""
    series, tensors, expected = series_of(case)
    cutting = patch("depthwise.backends.cpu.lower.expanded.expanded_bands", lambda *_: bands)
    alone = patch("depthwise.backends.cpu.lower.expanded.team_of", lambda *_: team)
    with cutting, alone:
        (kernel,) = plan(series, target, team).program.kernels
        assert isinstance(kernel, ExpandedKernel)
        y = run_series(series, tensors, target, team, memory)["y"]
    found = y.view(case.batch, *expected.shape[2:], expected.shape[1]).permute(0, 3, 1, 2)
    assert_same(found, expected, f"{case}, {team} threads, {bands} bands")


def tried() -> Iterator[tuple[Expanded, int, int]]:
    """Each case with numbers of threads and of bands."""
    for case, team, bands in product(TRIED, (1, 2, 3), (1, 2, 3)):
        yield case, team, min(bands, case.window.out_spatial[0])
