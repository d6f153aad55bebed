"""A depthwise convolution and the pointwise one that alone reads it are one node."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from depthwise.optimize.passes.activations import fuse_activations
from depthwise.optimize.passes.separable import join_separable
from tests.support.passes import after, calls, captured


def pair(groups: int = 1, multiplier: int = 1, **window: int) -> dict[str, nn.Module]:
    middle = 6 * multiplier
    return {
        "first": nn.Conv2d(6, middle, 3, groups=6, **window),  # type: ignore[arg-type]
        "last": nn.Conv2d(middle, 6, 1, groups=groups),
    }


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("multiplier", [1, 2])
def test_with_activations_and_a_residual(groups: int, multiplier: int) -> None:
    model = calls(
        lambda x, first, last: torch.relu(last(nn.functional.silu(first(x))) + x),
        **pair(groups, multiplier, padding=2, dilation=2),
    )
    assert after(model, fuse_activations, join_separable) == ["separable"]
    node = join_separable(fuse_activations(captured(model, 1, 6, 9, 8))).graph.nodes[0]
    assert (node["depthwise_activation"], node["activation"]) == (("silu", 0.0), ("relu", 0.0))
    assert (node["dilation"], node["padding"], node["groups"]) == ((2, 2), ((2, 2), (2, 2)), groups)


@pytest.mark.parametrize("sizes", [(1, 6, 12), (1, 6, 5, 6, 7)])
def test_in_one_and_three_dimensions(sizes: tuple[int, ...]) -> None:
    kind = nn.Conv1d if len(sizes) == 3 else nn.Conv3d
    model = nn.Sequential(kind(6, 6, 3, groups=6), kind(6, 4, 1)).eval()
    assert after(model, join_separable, sizes=sizes) == ["separable"]


@pytest.mark.parametrize(
    "function",
    [
        lambda x, first, last: (last(y := first(x)), y),
        lambda x, first, last: last(torch.tanh(first(x))),
        lambda x, first, last: last(first(x) + x[:, :, 2:, 2:]),
        lambda x, first, last: first(last(x)),
    ],
)
def test_not_where_something_is_between(function: Callable[[Tensor, nn.Module, nn.Module], object]) -> None:
    assert "separable" not in after(calls(function, **pair()), fuse_activations, join_separable)


@pytest.mark.parametrize(
    "last",
    [
        nn.Conv2d(6, 6, 1, stride=2),
        nn.Conv2d(6, 6, 1, padding=1),
        nn.Conv2d(6, 6, (1, 2)),
        nn.Conv2d(6, 12, 1, groups=6),
    ],
)
def test_not_with_what_is_no_pointwise_convolution(last: nn.Module) -> None:
    model = nn.Sequential(nn.Conv2d(6, 6, 3, groups=6), last).eval()
    assert after(model, join_separable) == ["conv", "conv"]


def test_not_with_a_dense_convolution_before() -> None:
    assert after(nn.Sequential(nn.Conv2d(6, 6, 3, groups=3), nn.Conv2d(6, 6, 1)).eval(), join_separable) == ["conv"] * 2
