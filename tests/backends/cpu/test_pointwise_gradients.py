"""Gradients of pointwise convolutions of channels-last images: the bits of torch's float64 on small integers."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from depthwise.backends import CPU, calls
from depthwise.backends.base import PointwiseTensors
from depthwise.backends.cpu import gradients, launch, machine
from depthwise.backends.cpu.plan.pointwise_gradient import pointwise_gradient_plan
from depthwise.backends.eager import CONVOLUTIONS
from depthwise.backends.problem import problem_of
from depthwise.geometry import geometry
from tests.support.cases import normals, small_integers

pytestmark = pytest.mark.skipif(machine.host() is None, reason="no generator serves this machine")

ALL = (True, True, True)
SIZES = [
    (1, 1, 1, 1, (1, 1)),
    (2, 16, 24, 1, (7, 7)),
    (1, 17, 33, 1, (3, 5)),
    (2, 24, 40, 2, (4, 4)),
    (1, 9, 5, 1, (5, 5)),
    (1, 33, 21, 3, (4, 6)),
    (3, 96, 7, 1, (6, 9)),
    (2, 8, 16, 1, (40, 70)),
    (1, 130, 12, 1, (2, 3)),
    (2, 12, 20, 4, (2, 3, 4)),
    # Enough tiles and panels to be brought together; rows are output channels in one, input channels in the other.
    (1, 200, 90, 1, (3, 3)),
    (1, 90, 200, 1, (3, 3)),
    (1, 48, 96, 2, (3, 3)),
]


def last(x: Tensor) -> Tensor:
    return x.movedim(1, -1).contiguous().movedim(-1, 1)


def check_pointwise(
    batch: int, channels: int, outputs: int, groups: int, spatial: tuple[int, ...], *, threads: int = 1
) -> None:
    torch.set_num_threads(threads)
    draw, g = small_integers(0), geometry((channels, *spatial), 1, out_channels=outputs, groups=groups)
    x, gradient = last(draw((batch, channels, *spatial))), last(draw((batch, outputs, *spatial)))
    weight = draw((outputs, channels // groups, *(1,) * len(spatial)))
    wide = [tensor.double().requires_grad_() for tensor in (x, weight, torch.zeros(outputs))]
    with torch.enable_grad():
        out = CONVOLUTIONS[g.rank](*wide, groups=groups)
        expected = torch.autograd.grad(out, wide, gradient.double())
    # Without a bias rows may be input channels.
    for wanted in (ALL, (True, True, False)):
        with torch.no_grad():
            found = gradients.plain_gradients(gradient, x, weight, g, wanted)
        assert found is not None
        for name, one, other in zip(("input", "weight", "bias"), found, expected, strict=True):
            if name == "bias" and not wanted[2]:
                assert one is None
                continue
            assert one is not None
            assert torch.equal(one.double(), other), f"{name}: {int((one != other).sum())} elements differ"


def test_rows_and_columns_are_what_fills_vectors_best() -> None:
    target = machine.avx2()
    found = {}
    for inputs, outputs in ((16, 96), (96, 16), (24, 144), (512, 512)):
        g = geometry((inputs, 8, 8), 1, out_channels=outputs)
        plan = pointwise_gradient_plan(g, 1, target, bias=False)
        assert not pointwise_gradient_plan(g, 1, target, bias=True).turned
        found[inputs, outputs] = plan.packs_rows, plan.packs_columns
        columns = outputs if plan.turned else inputs
        assert plan.panels * plan.vectors * plan.lanes >= columns
    assert found[512, 512] == (True, True)
    assert not all(found[16, 96])


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_integers_give_torchs_bits(size: tuple[int, int, int, int, tuple[int, ...]], threads: int) -> None:
    check_pointwise(*size, threads=threads)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("size", [size for size in SIZES if size[3] == 1], ids=str)
def test_pixels_fetched_ahead_change_no_bit(
    size: tuple[int, int, int, int, tuple[int, ...]], threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch, channels, outputs, _, spatial = size
    small = replace(launch.machine(), l2_bytes=4)
    plan = pointwise_gradient_plan(geometry((channels, *spatial), 1, out_channels=outputs), batch, small, bias=True)
    assert 0 < plan.fetching_panels <= plan.panels
    monkeypatch.setattr(gradients, "machine", lambda: small)
    monkeypatch.setattr(calls, "_bound", OrderedDict())
    check_pointwise(*size, threads=threads)


def test_random_numbers_stay_within_the_bound_whatever_the_threads() -> None:
    g, draw = geometry((20, 40, 41), 1, out_channels=30), normals(0)
    x, gradient, weight = last(draw((2, 20, 40, 41))), last(draw((2, 30, 40, 41))), draw((30, 20, 1, 1))
    exact = torch.einsum("nohw,nihw->oi", gradient.double(), x.double())
    most = torch.einsum("nohw,nihw->oi", gradient.double().abs(), x.double().abs())
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        with torch.no_grad():
            found = gradients.plain_gradients(gradient, x, weight, g, ALL)
        assert found is not None
        assert found[1] is not None
        results.append(found)
        error = (found[1][..., 0, 0] - exact).abs()
        assert bool((error <= 2 * 2 * 40 * 41 * torch.finfo().eps * most).all())
    for found in results[1:]:
        for one, other in zip(found, results[0], strict=True):
            assert one is not None
            assert other is not None
            assert torch.equal(one, other)


def test_planes_go_to_torch() -> None:
    g, draw = geometry((8, 3, 3), 1, out_channels=4), normals(0)
    with torch.no_grad():
        assert gradients.plain_gradients(draw((1, 4, 3, 3)), draw((1, 8, 3, 3)), draw((4, 8, 1, 1)), g, ALL) is None


def test_autograd_runs_it_with_its_residual_and_activation() -> None:
    draw = small_integers(0)
    x, added = last(draw((2, 8, 5, 5))).requires_grad_(), last(draw((2, 12, 5, 5))).requires_grad_()
    weight, bias = draw((12, 8, 1, 1)).requires_grad_(), draw((12,)).requires_grad_()
    tensors = PointwiseTensors(weight, bias, ("relu", 0.0), added)
    inputs = [x, weight, bias, added]
    problem = problem_of(x, tensors, geometry((8, 5, 5), 1, out_channels=12))
    assert CPU.refusal(problem) is None
    out = CPU.run(x, tensors, problem)
    expected = (F.conv2d(x, weight, bias) + added).relu()
    assert torch.equal(out, expected)
    found = torch.autograd.grad(out.sum(), inputs)
    for one, other in zip(found, torch.autograd.grad(expected.sum(), inputs), strict=True):
        assert torch.equal(one, other)
