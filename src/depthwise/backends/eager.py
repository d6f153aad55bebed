"""PyTorch's own operators: supports every call, so it is the last row of the registry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from ..activations import ACTIVATIONS
from ..geometry import Geometry
from .base import Backend, DepthwiseTensors, Norm, PointwiseTensors, SeparableTensors, Weights
from .problem import Activation, Problem

CONVOLUTIONS: dict[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


def activate(x: Tensor, activation: Activation) -> Tensor:
    if activation is None:
        return x
    name, slope = activation
    return ACTIVATIONS[name].function(x, slope)


class Eager(Backend):
    name = "eager"
    summary = "PyTorch's own operators"

    def refusal(self, problem: Problem) -> str | None:  # noqa: ARG002  it supports every one
        return None

    def run(self, x: Tensor, weights: Weights, problem: Problem) -> Tensor:
        return convolved(x, weights, problem.geometry)


EAGER = Eager()


def convolved(x: Tensor, weights: Weights, g: Geometry) -> Tensor:
    """What PyTorch's operators make of `x`."""
    if isinstance(weights, DepthwiseTensors):
        return depthwise(x, weights.weight, weights.bias, g)
    if isinstance(weights, PointwiseTensors):
        x, padding = padded(x, g)
        y = CONVOLUTIONS[g.rank](x, weights.weight, weights.bias, g.stride, padding, g.dilation, g.groups)
        return after(y, None, weights.activation, weights.residual)
    alone, last = parts_of(g)
    return by_parts(partial(depthwise, g=alone), partial(pointwise, g=last), x, weights)


def depthwise(x: Tensor, weight: Tensor, bias: Tensor | None, g: Geometry) -> Tensor:
    x, padding = padded(x, g)
    return CONVOLUTIONS[g.rank](x, weight, bias, g.stride, padding, g.dilation, g.in_channels)


def pointwise(x: Tensor, weight: Tensor, bias: Tensor | None, g: Geometry) -> Tensor:
    return CONVOLUTIONS[g.rank](x, weight, bias, groups=g.groups)


Part = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def parts_of(g: Geometry) -> tuple[Geometry, Geometry]:
    """The depthwise convolution of a separable one, and the pointwise one."""
    one, none = (1,) * g.rank, ((0, 0),) * g.rank
    last = Geometry(g.depthwise_size, one, one, none, one, out_channels=g.out_channels, groups=g.groups)
    return replace(g, out_channels=None, groups=1), last


def by_parts(depthwise: Part, pointwise: Part, x: Tensor, weights: SeparableTensors) -> Tensor:
    """A separable convolution one part after another, each by what computes it of input, weight and bias."""
    w = weights
    y = after(depthwise(x, w.depthwise_weight, w.depthwise_bias), w.depthwise_norm, w.depthwise_activation)
    y = pointwise(y, w.pointwise_weight, w.pointwise_bias)
    return after(y, w.pointwise_norm, w.pointwise_activation, w.residual)


def after(y: Tensor, norm: Norm | None, activation: Activation, residual: Tensor | None = None) -> Tensor:
    """What follows a convolution."""
    if norm is not None:
        y = F.batch_norm(y, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
    return activate(y if residual is None else y + residual, activation)


def padded(x: Tensor, g: Geometry) -> tuple[Tensor, tuple[int, ...]]:
    """`x` and the padding left to torch's convolution, which pads both ends alike."""
    if is_even(g):
        return x, tuple(before for before, _ in g.padding)
    return F.pad(x, [amount for pair in reversed(g.padding) for amount in pair]), (0,) * g.rank


def is_even(g: Geometry) -> bool:
    # The amounts of a strided "same" in a traced program are symbolic: to compare them would pin the input's size.
    if torch.compiler.is_compiling():
        from torch.fx.experimental.symbolic_shapes import statically_known_true

        return all(statically_known_true(before == after) for before, after in g.padding)
    return all(isinstance(before, int) and isinstance(after, int) and before == after for before, after in g.padding)
