"""A product with a gate goes into the pointwise convolution after it; no other product does."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from depthwise.optimize.passes.activations import fuse_activations
from depthwise.optimize.passes.gates import fuse_gates
from tests.support.passes import after, calls, captured

Parts = dict[str, nn.Module]


def parts(groups: int = 1) -> Parts:
    return {
        "first": nn.Conv2d(6, 6, 3, padding=1, groups=6),
        "excite": nn.Conv2d(6, 6, 1),
        "last": nn.Conv2d(6, 4, 1, groups=groups),
    }


def excited(x: Tensor, p: Parts) -> tuple[Tensor, Tensor]:
    """An image, and its gate."""
    y = p["first"](x)
    return y, torch.sigmoid(p["excite"](y.mean((2, 3), keepdim=True)))


@pytest.mark.parametrize("groups", [1, 2])
# Pixels enough for the weights to be multiplied, and too few.
@pytest.mark.parametrize("sizes", [(1, 6, 9, 8), (1, 6, 3, 2)])
def test_with_an_activation_and_a_residual(groups: int, sizes: tuple[int, ...]) -> None:
    def forward(x: Tensor, **p: nn.Module) -> Tensor:
        y, gate = excited(x, p)
        return torch.relu(p["last"](gate * y) + x[:, :4])

    model = calls(forward, **parts(groups))
    found = after(model, fuse_activations, fuse_gates, sizes=sizes)
    assert "mul" not in found
    assert found.count("gated") == 1
    (node,) = (n for n in fuse_gates(fuse_activations(captured(model, *sizes))).graph.nodes if n.operator == "gated")
    assert (node["activation"], node["groups"]) == (("relu", 0.0), groups)
    assert node["residual"] is not None


@pytest.mark.parametrize(
    "function",
    [
        lambda y, gate, last: (last(product := y * gate), product.mean()),
        lambda y, gate, last: last((product := y * gate) + product),
        lambda y, gate, last: last(y * y),
        lambda y, gate, last: last(y * gate[:1]),
        lambda y, gate, last: last(y * gate[:, :1]),
        lambda y, gate, last: last(y * y.mean(1, keepdim=True)),
        lambda y, gate, last: last(y * y.mean(2, keepdim=True)),
        lambda y, gate, last: last(y.transpose(2, 3) * gate),
        lambda y, gate, last: last(torch.tanh(y * gate)),
    ],
)
def test_not_where_it_is_another_product(function: Callable[[Tensor, Tensor, nn.Module], object]) -> None:
    model = calls(lambda x, **p: function(*excited(x, p), p["last"]), **parts())
    assert "gated" not in after(model, fuse_gates)


def test_a_product_computed_twice_is_no_obstacle() -> None:
    model = calls(lambda x, **p: p["last"]((e := excited(x, p))[0] * e[1]) + p["last"](e[0] * e[1]), **parts())
    assert after(model, fuse_gates).count("gated") == 2


@pytest.mark.parametrize("last", [nn.Conv2d(6, 4, 3), nn.Conv2d(6, 6, 1, groups=6), nn.Conv2d(6, 4, 1, stride=2)])
def test_not_with_what_is_no_pointwise_convolution(last: nn.Module) -> None:
    model = calls(lambda x, **p: p["last"]((e := excited(x, p))[0] * e[1]), **parts() | {"last": last})
    assert "gated" not in after(model, fuse_gates)
