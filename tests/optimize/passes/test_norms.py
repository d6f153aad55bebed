"""Norms and factors go into the convolution before them, where nothing else reads it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from depthwise.optimize.passes.identities import drop_identities
from depthwise.optimize.passes.norms import fold_norms
from tests.support.passes import after, calls, captured
from tests.support.whole import randomised


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("groups", [1, 2, 6])
def test_into_a_convolution(affine: bool, bias: bool, groups: int) -> None:
    conv = nn.Conv2d(6, 6, 3, padding=1, groups=groups, bias=bias)
    assert after(randomised(nn.Sequential(conv, nn.BatchNorm2d(6, affine=affine, eps=1e-3))), fold_norms) == ["conv"]


def test_in_one_and_three_dimensions_and_after_a_linear_layer() -> None:
    one = randomised(nn.Sequential(nn.Conv1d(6, 4, 3), nn.BatchNorm1d(4)))
    assert after(one, fold_norms, sizes=(1, 6, 9)) == ["conv"]
    three = randomised(nn.Sequential(nn.Conv3d(6, 4, 3), nn.BatchNorm3d(4)))
    assert after(three, fold_norms, sizes=(1, 6, 5, 4, 3)) == ["conv"]
    linear = randomised(nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4)))
    assert after(linear, fold_norms, sizes=(1, 6)) == ["linear"]


def test_not_after_a_linear_layer_over_its_last_dimension() -> None:
    model = randomised(nn.Sequential(nn.Linear(6, 9), nn.BatchNorm1d(8)))
    assert after(model, fold_norms, sizes=(1, 8, 6)) == ["linear", "affine"]


def test_not_where_something_else_reads_the_convolution() -> None:
    model = calls(lambda x, conv, norm: norm(y := conv(x)) + y, conv=nn.Conv2d(6, 6, 1), norm=nn.BatchNorm2d(6))
    assert after(model, fold_norms) == ["conv", "affine", "add"]
    gives = calls(lambda x, conv, norm: (norm(y := conv(x)), y), conv=nn.Conv2d(6, 6, 1), norm=nn.BatchNorm2d(6))
    assert after(gives, fold_norms) == ["conv", "affine"]


def test_a_shared_convolution_gets_weights_for_each_norm() -> None:
    def forward(x: Tensor, conv: nn.Module, one: nn.Module, two: nn.Module) -> Any:
        return two(conv(one(conv(x)))) + conv(x)

    parts = {"conv": nn.Conv2d(6, 6, 3, padding=1), "one": nn.BatchNorm2d(6), "two": nn.BatchNorm2d(6)}
    assert after(calls(forward, **parts), fold_norms) == ["conv", "conv", "conv", "add"]


def test_a_shared_convolution_with_one_norm_is_folded_once() -> None:
    model = calls(lambda x, a, b: b(a(b(a(x)))), a=nn.Conv2d(6, 6, 3, padding=1), b=nn.BatchNorm2d(6))
    network = fold_norms(captured(model, 1, 6, 9, 8))
    assert sorted(network.weights) == ["a.weight_bias", "a.weight_scaled"]


def test_factors_per_channel_and_numbers() -> None:
    class Scaled(nn.Module):
        def __init__(self, *sizes: int) -> None:
            super().__init__()
            self.conv = nn.Conv2d(6, 6, 3)
            self.gamma = nn.Parameter(torch.rand(sizes) + 0.5)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.gamma * self.conv(x) * 2.5
            return out

    assert after(Scaled(6, 1, 1).eval(), fold_norms) == ["conv"]
    assert after(Scaled(1, 6, 1, 1).eval(), fold_norms) == ["conv"]
    assert after(Scaled(1).eval(), fold_norms) == ["conv"]


def test_a_factor_for_each_pixel_stays() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(6, 6, 1)
            self.gamma = nn.Parameter(torch.rand(6, 9, 1) + 0.5)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.conv(x) * self.gamma
            return out

    assert after(Scaled().eval(), fold_norms) == ["conv", "mul"]


def test_a_factor_that_makes_the_result_larger_stays() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(6, 1, 1)
            self.gamma = nn.Parameter(torch.rand(6, 1, 1) + 0.5)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.conv(x) * self.gamma
            return out

    assert after(Scaled().eval(), fold_norms) == ["conv", "mul"]


def test_a_norm_after_an_activation_is_a_scale() -> None:
    model = randomised(nn.Sequential(nn.Conv2d(6, 6, 1), nn.ReLU(), nn.BatchNorm2d(6), nn.BatchNorm2d(6)))
    assert after(model, fold_norms) == ["conv", "relu", "affine", "affine"]


def test_a_norm_of_the_batch_stays() -> None:
    model = nn.Sequential(nn.Conv2d(6, 6, 1), nn.BatchNorm2d(6, track_running_stats=False)).eval()
    assert after(model, fold_norms) == ["conv", "batch_norm"]


def test_a_convolution_with_a_computed_weight_stays() -> None:
    model = calls(
        lambda x, norm: norm(torch.conv2d(x, x[:1, :, :3, :3].mean((0, 2), keepdim=True).expand(6, 6, 1, 3))),
        norm=nn.BatchNorm2d(6),
    )
    assert after(model, drop_identities, fold_norms)[-2:] == ["conv", "affine"]
