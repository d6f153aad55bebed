"""Dense convolutions: small integers give PyTorch's numbers, on every geometry and however the work is cut."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from depthwise.backends import CPU, EAGER
from depthwise.backends.base import DenseTensors
from depthwise.backends.cpu.machine import Machine
from depthwise.backends.problem import Problem
from depthwise.geometry import Geometry, geometry
from tests.support.cases import small_integers
from tests.support.convolutions import assert_exact, tried
from tests.support.kernels import HERE

LAST = torch.channels_last
runs_here = pytest.mark.skipif(not HERE, reason="no generator serves this machine")
on_each_machine = pytest.mark.parametrize("target", HERE, ids=lambda target: target.isa)


@on_each_machine
def test_integers_are_exact(target: Machine) -> None:
    for layer, given in tried(6):
        assert_exact(layer, given, target)


def problem_of(x: Tensor, tensors: DenseTensors, g: Geometry, **options: Any) -> Problem:
    result = torch.empty((len(x), *g.output_size), device="meta", memory_format=LAST).stride()
    added = None if tensors.residual is None else tensors.residual.stride()
    given: dict[str, Any] = {"strides": x.stride(), "result": result, "residual": added} | options
    return Problem("dense", g, x.dtype, "cpu", len(x), activations=tensors.activations, **given)


@runs_here
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("layout", [LAST, torch.contiguous_format])
def test_as_a_problem_of_the_backend(layout: torch.memory_format, threads: int) -> None:
    torch.set_num_threads(threads)
    draw = small_integers(0)
    x, weight, bias = draw((2, 3, 20, 31)).contiguous(memory_format=layout), draw((19, 3, 5, 4)), draw((19,))
    g = geometry((3, 20, 31), (5, 4), stride=2, padding=((2, 2), (1, 2)), out_channels=19)
    added = draw((2, *g.output_size)).contiguous(memory_format=LAST)
    tensors = DenseTensors(weight, bias, ("leaky_relu", 0.25), added)
    problem = problem_of(x, tensors, g)
    assert CPU.refusal(problem) is None
    expected = EAGER.run(x, tensors, problem)
    for _ in range(2):
        out = CPU.run(x, tensors, problem)
        assert torch.equal(out, expected)
        assert out.is_contiguous(memory_format=LAST)
    ready = CPU.prepared(x, tensors, problem)
    assert ready is not None
    assert ready.run(x, added) is not None
    assert str(CPU.kernel(problem)).startswith("conv_f32_k5x4_s2x2_d1x1_n19c3g1")


@runs_here
def test_what_is_refused() -> None:
    x, tensors = torch.ones(2, 8, 5, 6), DenseTensors(torch.ones(4, 8, 3, 3))
    g = geometry((8, 5, 6), 3, out_channels=4)
    last = x.contiguous(memory_format=LAST)
    why = "a dense convolution is computed of dense images, channels-last or contiguous, to channels-last ones"
    assert CPU.refusal(problem_of(x, tensors, g)) is None
    assert CPU.refusal(problem_of(last, tensors, g)) is None
    assert CPU.refusal(problem_of(last, tensors, g, result=None)) == why
    assert CPU.refusal(problem_of(last, tensors, g, residual=(48, 12, 4, 1))) == why
    assert CPU.refusal(problem_of(x.transpose(2, 3), tensors, g)) == why
    assert CPU.refusal(problem_of(last, tensors, g, differentiable=True)) == why
