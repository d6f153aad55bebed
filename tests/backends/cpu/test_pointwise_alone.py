"""Pointwise convolutions alone, as a problem of the backend's: what runs, what is refused, and the values."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from depthwise import backend
from depthwise.backends import CPU, EAGER
from depthwise.backends.base import PointwiseTensors
from depthwise.backends.cpu import machine
from depthwise.backends.cpu.plan.product import LONGEST_CHAIN
from depthwise.backends.problem import Problem
from depthwise.functional import separable_conv2d
from depthwise.geometry import geometry
from tests.support.cases import small_integers

pytestmark = pytest.mark.skipif(machine.host() is None, reason="no generator serves this machine")

LAST = {4: torch.channels_last, 5: torch.channels_last_3d}
# channels, spatial, outputs, groups
SIZES = [
    (1, (1, 1), 1, 1),
    (16, (7, 7), 96, 1),
    (17, (3, 5), 33, 1),
    (24, (4, 4), 40, 2),
    (96, (14, 14), 24, 1),
    (512, (2, 3), 130, 1),
    (12, (2, 3, 4), 20, 4),
]


def problem_of(x: Tensor, tensors: PointwiseTensors, groups: int, **options: Any) -> Problem:
    g = geometry(tuple(x.shape[1:]), 1, out_channels=len(tensors.weight), groups=groups)
    result = torch.empty((len(x), *g.output_size), device="meta", memory_format=LAST[x.dim()]).stride()
    added = None if tensors.residual is None else tensors.residual.stride()
    given: dict[str, Any] = {"strides": x.stride(), "result": result, "residual": added} | options
    return Problem("pointwise", g, x.dtype, "cpu", len(x), activations=tensors.activations, **given)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize(("channels", "spatial", "outputs", "groups"), SIZES)
def test_integers_are_exact(
    channels: int, spatial: tuple[int, ...], outputs: int, groups: int, residual: bool, threads: int
) -> None:
    torch.set_num_threads(threads)
    draw, form = small_integers(0), LAST[2 + len(spatial)]
    x = draw((2, channels, *spatial)).contiguous(memory_format=form)
    weight, bias = draw((outputs, channels // groups, *(1,) * len(spatial))), draw((outputs,))
    added = draw((2, outputs, *spatial)).contiguous(memory_format=form) if residual else None
    tensors = PointwiseTensors(weight, bias, ("leaky_relu", 0.25), added)
    problem = problem_of(x, tensors, groups)
    assert CPU.refusal(problem) is None
    convolve = F.conv2d if len(spatial) == 2 else F.conv3d
    y = convolve(x, weight, bias, groups=groups)
    expected = F.leaky_relu(y if added is None else y + added, 0.25)
    for _ in range(2):
        out = CPU.run(x, tensors, problem)
        assert torch.equal(out, expected)
        assert out.is_contiguous(memory_format=form)
    ready = CPU.prepared(x, tensors, problem)
    assert ready is not None
    again = ready.run(x, added)
    assert again is not None
    assert torch.equal(again, expected)
    assert str(CPU.kernel(problem)).startswith("pw_f32")


@pytest.mark.parametrize("form", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("width", [1, 5, 6, 33, 196])
def test_no_sum_is_one_long_chain(width: int, form: torch.memory_format) -> None:
    """2^24 swallows each 1 that is added to it; sums of 1s that begin anew lose none."""
    channels, outputs = 3 * LONGEST_CHAIN - 2, 40
    x = torch.ones(1, channels, 1, width).contiguous(memory_format=form)
    pointwise = torch.ones(outputs, channels, 1, 1)
    pointwise[:, 0] = 2.0**24
    with backend("cpu"):
        out = separable_conv2d(x, torch.ones(channels, 1, 1, 1), pointwise)
    assert torch.equal(out, torch.full_like(out, 2.0**24 + (channels - LONGEST_CHAIN)))


def test_random_numbers_stay_within_the_bound() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 300, 9, 9).contiguous(memory_format=torch.channels_last)
    tensors = PointwiseTensors(torch.randn(70, 300, 1, 1), torch.randn(70))
    out = CPU.run(x, tensors, problem_of(x, tensors, 1))
    exact = F.conv2d(x.double(), tensors.weight.double(), tensors.bias.double())  # type: ignore[union-attr]
    most = F.conv2d(x.double().abs(), tensors.weight.double().abs(), tensors.bias.double().abs())  # type: ignore[union-attr]
    assert bool(((out - exact).abs() <= 2 * 301 * torch.finfo().eps * most).all())


def test_changed_weights_are_seen() -> None:
    x = torch.ones(1, 8, 3, 3).contiguous(memory_format=torch.channels_last)
    tensors = PointwiseTensors(torch.ones(8, 8, 1, 1))
    problem = problem_of(x, tensors, 1)
    assert CPU.run(x, tensors, problem).max() == 8
    tensors.weight.data.mul_(2)
    assert CPU.run(x, tensors, problem).max() == 16


def test_what_is_refused() -> None:
    x, tensors = torch.ones(2, 8, 3, 3), PointwiseTensors(torch.ones(4, 8, 1, 1))
    last = x.contiguous(memory_format=torch.channels_last)
    why = "a pointwise convolution alone is computed of dense channels-last images"
    assert CPU.refusal(problem_of(last, tensors, 1)) is None
    assert CPU.refusal(problem_of(x, tensors, 1)) == why
    assert CPU.refusal(problem_of(last, tensors, 1, result=None)) == why
    assert CPU.refusal(problem_of(last, tensors, 1, residual=(36, 9, 3, 1))) == why
    assert CPU.refusal(problem_of(last[:, :, :, :2], tensors, 1)) == why


def test_torch_computes_the_same() -> None:
    x = torch.randn(2, 8, 3, 3).contiguous(memory_format=torch.channels_last)
    added = torch.randn(2, 4, 3, 3).contiguous(memory_format=torch.channels_last)
    tensors = PointwiseTensors(torch.randn(4, 8, 1, 1), torch.randn(4), ("relu", 0.0), added)
    problem = problem_of(x, tensors, 1)
    torch.testing.assert_close(CPU.run(x, tensors, problem), EAGER.run(x, tensors, problem))
