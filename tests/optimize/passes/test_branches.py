"""Convolutions of one input that are added become one, exactly; what only looks alike stays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from depthwise.optimize.passes.branches import merge_branches
from depthwise.optimize.passes.norms import fold_norms
from depthwise.optimize.passes.padding import fold_padding
from tests.support.passes import after, calls, captured

PASSES = (fold_norms, merge_branches, fold_norms, merge_branches, fold_norms)


def dense(kernel: Any, padding: Any = 0, **window: Any) -> nn.Conv2d:
    return nn.Conv2d(6, 6, kernel, padding=padding, **window)


def merged(one: nn.Module, two: nn.Module, function: Callable[..., Any] | None = None) -> list[str]:
    return after(calls(function or (lambda x, one, two: one(x) + two(x)), one=one, two=two), *PASSES)


@pytest.mark.parametrize("groups", [1, 3, 6])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_small_kernel_goes_into_a_large_one(groups: int, stride: int) -> None:
    window = {"groups": groups, "stride": stride}
    assert merged(dense(3, 1, **window), dense(1, **window)) == ["conv"]
    assert merged(dense(1, bias=False, **window), dense(5, 2, bias=False, **window)) == ["conv"]
    assert merged(dense(5, 2, **window), dense(3, 1, **window)) == ["conv"]
    assert merged(dense(3, 1, **window), dense(3, 1, **window)) == ["conv"]


def test_kernels_of_two_shapes_and_a_difference() -> None:
    difference = lambda x, one, two: one(x) - two(x)  # noqa: E731
    assert merged(dense((3, 5), (1, 2)), dense((1, 3), (0, 1)), difference) == ["conv"]
    assert merged(dense(1), dense(3, 1), difference) == ["conv"]
    assert merged(dense(3, 0), dense(1), lambda x, one, two: one(x) + two(x[:, :, 1:-1, 1:-1])) != ["conv"]


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (dense((3, 1), (1, 0)), dense((1, 3), (0, 1))),
        (dense(3, 1), dense(1, groups=6)),
        (dense(3, 2, dilation=2), dense(3, 1)),
    ],
)
def test_kernels_that_do_not_lie_in_each_other_stay(one: nn.Module, two: nn.Module) -> None:
    assert sorted(merged(one, two)) == ["add", "conv", "conv"]


def test_a_tap_before_the_first_stays() -> None:
    def forward(x: Tensor, one: nn.Module, two: nn.Module) -> Any:
        return one(F.pad(x, (0, 2, 0, 0))) + two(F.pad(x, (1, 0, 0, 0)))

    model = calls(forward, one=dense((1, 3)), two=dense((1, 2)))
    assert sorted(after(model, fold_padding, *PASSES)) == ["add", "conv", "conv"]


def test_with_the_padding_not_in_the_middle() -> None:
    model = calls(lambda x, one, two: one(F.pad(x, (2, 0, 2, 0))) + two(x), one=dense(3), two=dense(1))
    assert after(model, fold_padding, *PASSES) == ["conv"]


def test_a_dilated_kernel_takes_one_tap_where_it_has_one() -> None:
    assert merged(dense(3, 2, dilation=2), dense(1)) == ["conv"]
    assert merged(dense(3, 2, dilation=2), dense(3, 2, dilation=2)) == ["conv"]
    assert merged(dense(2, 1, dilation=2), dense(1)) == ["conv", "conv", "add"]


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_repvggs_block(groups: int) -> None:
    parts = {
        "three": nn.Sequential(dense(3, 1, groups=groups, bias=False), nn.BatchNorm2d(6)),
        "one": nn.Sequential(dense(1, groups=groups, bias=False), nn.BatchNorm2d(6)),
        "norm": nn.BatchNorm2d(6),
    }
    sums: list[Callable[..., Tensor]] = [
        lambda x, three, one, norm: three(x) + one(x) + norm(x),
        lambda x, three, one, norm: norm(x) + three(x) + one(x),
        lambda x, three, one, norm: one(x) + norm(x) - three(x),
    ]
    for function in sums:
        assert after(calls(function, **parts), *PASSES) == ["conv"]


def test_the_input_itself_goes_into_a_depthwise_convolution_or_before_a_norm() -> None:
    add = lambda x, one, two: two(one(x) + x)  # noqa: E731
    assert merged(dense(3, 1, groups=6), nn.Identity(), add) == ["conv"]
    assert merged(dense(3, 1, groups=6), nn.BatchNorm2d(6), add) == ["conv"]
    assert merged(dense(3, 1), nn.BatchNorm2d(6), add) == ["conv"]
    # Elsewhere a sum costs less than a kernel that copies.
    assert merged(dense(3, 1), nn.Identity(), add) == ["conv", "add"]


@pytest.mark.parametrize(
    "function",
    [
        lambda x, one, two: (y := one(x)) + two(x) + torch.relu(y),
        lambda x, one, two: (one(x) + (y := two(x)), y),
        lambda x, one, two: one(x) + two(torch.relu(x)),
        lambda x, one, two: torch.relu(one(x)) + two(x),
        lambda x, one, two: torch.add(one(x), two(x), alpha=2),
        lambda x, one, two: one(x) * two(x),
    ],
)
def test_branches_that_something_else_reads_or_changes_stay(function: Callable[..., Any]) -> None:
    assert merged(dense(3, 1), dense(1), function).count("conv") == 2


def test_no_branch_is_repeated_to_fit() -> None:
    one, two = nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 1, 1)
    assert sorted(merged(one, two)) == ["add", "conv", "conv"]
    pixel = calls(lambda x, one: one(x) + x, one=nn.Conv2d(6, 6, (9, 8), groups=6))
    assert after(pixel, *PASSES) == ["conv", "add"]


def test_a_strided_convolution_takes_no_identity() -> None:
    model = calls(lambda x, one: one(x) + x[:, :, ::2, ::2], one=dense(3, 1, stride=2, groups=6))
    assert "add" in after(model, *PASSES)
    even = calls(lambda x, one: one(x) + x, one=nn.Conv2d(6, 6, 3, padding=1, stride=(1, 1), groups=6))
    assert after(even, *PASSES) == ["conv"]


def test_the_weights_of_a_shared_convolution_are_left_alone() -> None:
    model = calls(lambda x, one, two: two(torch.relu(one(x) + two(x))), one=dense(3, 1), two=dense(1))
    network = captured(model, 1, 6, 9, 8)
    before = {name: tensor.clone() for name, tensor in network.weights.items()}
    found = merge_branches(network)
    assert [node.operator for node in found.graph.nodes] == ["conv", "relu", "conv"]
    assert all(torch.equal(network.weights[name], tensor) for name, tensor in before.items())
    assert after(model, *PASSES) == ["conv", "relu", "conv"]


def test_in_one_dimension() -> None:
    one, two = nn.Conv1d(6, 6, 3, padding=1), nn.Conv1d(6, 6, 1)
    assert after(calls(lambda x, one, two: one(x) + two(x), one=one, two=two), *PASSES, sizes=(1, 6, 9)) == ["conv"]
