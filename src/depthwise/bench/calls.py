"""The candidates for a case's work: ours through the public door, PyTorch's own operators, and the dense convolution.

All do the same work: biases, activations and the residual are part of each.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import functional
from ..backends.eager import CONVOLUTIONS, activate
from ..functional import ActivationName, activation_of
from ..geometry import Geometry
from .cases import Case, Tensors, laid_out

Call = Callable[[], Tensor]
Build = Callable[[Case, Tensors, str], Call]

DEPTHWISE = {1: functional.depthwise_conv1d, 2: functional.depthwise_conv2d, 3: functional.depthwise_conv3d}
SEPARABLE = {1: functional.separable_conv1d, 2: functional.separable_conv2d, 3: functional.separable_conv3d}

# Those that torch can do in the convolution's own output, which is faster than into a new tensor.
IN_PLACE: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": partial(F.relu, inplace=True),
    "relu6": partial(F.relu6, inplace=True),
    "silu": partial(F.silu, inplace=True),
    "hardswish": partial(F.hardswish, inplace=True),
}


def ours(case: Case, tensors: Tensors, layout: str) -> Call:
    """The functional form, as a user calls it; a depthwise convolution's activation is torch's, for it takes none."""
    g, t = case.geometry, tensors.laid_out(layout)
    stride, padding, dilation = _short(g.stride), _short_padding(g), _short(g.dilation)
    if t.pointwise_weight is None:
        depthwise = DEPTHWISE[g.rank]
        weight, bias, activation = t.depthwise_weight, t.depthwise_bias, case.depthwise_activation
        if activation is None:
            return lambda: depthwise(t.x, weight, bias, stride, padding, dilation)
        return lambda: activated(depthwise(t.x, weight, bias, stride, padding, dilation), activation)
    return partial(
        SEPARABLE[g.rank],
        t.x,
        t.depthwise_weight,
        t.pointwise_weight,
        t.depthwise_bias,
        t.pointwise_bias,
        stride,
        padding,
        dilation,
        g.groups,
        depthwise_activation=case.depthwise_activation,
        pointwise_activation=case.pointwise_activation,
        residual=t.residual,
    )


def torch_parts(case: Case, tensors: Tensors, layout: str) -> Call:
    """PyTorch's convolutions one after the other, weights in the same layout, activations in place."""
    g, t = case.geometry, tensors.laid_out(layout)
    depthwise_weight = laid_out(t.depthwise_weight, layout)
    if t.pointwise_weight is None:
        return lambda: activated(
            _convolved(t.x, depthwise_weight, t.depthwise_bias, g, g.in_channels), case.depthwise_activation
        )
    pointwise_weight = laid_out(t.pointwise_weight, layout)

    def call() -> Tensor:
        y = _convolved(t.x, depthwise_weight, t.depthwise_bias, g, g.in_channels)
        y = activated(y, case.depthwise_activation)
        y = CONVOLUTIONS[g.rank](y, pointwise_weight, t.pointwise_bias, groups=g.groups)
        return _finished(y, t.residual, case.pointwise_activation)

    return call


def torch_dense(case: Case, tensors: Tensors, layout: str) -> Call:
    """The dense convolution that the separable case stands for, of the same geometry, by PyTorch."""
    g, t = case.geometry, tensors.laid_out(layout)
    generator = torch.Generator().manual_seed(1)
    shape = (g.output_size[0], g.in_channels // g.groups, *g.kernel_size)
    scale = (shape[1] * g.kernel_area) ** -0.5
    weight = laid_out(scale * torch.randn(shape, generator=generator), layout)
    return lambda: _finished(
        _convolved(t.x, weight, t.pointwise_bias, g, g.groups), t.residual, case.pointwise_activation
    )


def activated(y: Tensor, activation: ActivationName) -> Tensor:
    """`y` with an activation, in `y` itself where torch can."""
    if activation is None:
        return y
    in_place = IN_PLACE.get(activation) if isinstance(activation, str) else None
    return activate(y, activation_of(activation)) if in_place is None else in_place(y)


def _finished(y: Tensor, residual: Tensor | None, activation: ActivationName) -> Tensor:
    return activated(y if residual is None else y.add_(residual), activation)


def _convolved(x: Tensor, weight: Tensor, bias: Tensor | None, g: Geometry, groups: int) -> Tensor:
    # torch pads both ends alike. For a causal convolution, users pad both by the larger amount and drop the rest: that
    # is faster than a padded copy. At stride 1 only, as all uneven cases are.
    y = CONVOLUTIONS[g.rank](x, weight, bias, g.stride, tuple(map(max, g.padding)), g.dilation, groups)
    for axis, ((before, after), size) in enumerate(zip(g.padding, g.out_spatial, strict=True), start=2):
        if before != after:
            y = y.narrow(axis, max(before, after) - before, size)
    return y


def _short(values: tuple[int, ...]) -> int | tuple[int, ...]:
    """As a user would write it: one int where all are the same."""
    return values[0] if len(set(values)) == 1 else values


def _short_padding(g: Geometry) -> int | tuple[int, ...] | tuple[tuple[int, int], ...]:
    even = all(before == after for before, after in g.padding)
    return _short(tuple(before for before, _ in g.padding)) if even else g.padding
