"""Hand a checked call to the chosen backend, or put one node for it into a program that torch compiles.

The nodes are `torch.ops.depthwise.depthwise_conv` and `separable_conv`. They are composite: when the program is lowered
they become what the chosen backend does, so that autograd, autocast and fake tensors need nothing of their own. An
exported program holds no such node: plain aten convolutions stand in it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from .backends import EAGER, choose
from .backends.base import Backend, Call, Operation, SeparableTensors
from .cost import convolution_cost
from .geometry import Geometry


def depthwise(x: Tensor, weight: Tensor, bias: Tensor | None, g: Geometry) -> Tensor:
    """The depthwise convolution of `x`, (batch, *g.input_size)."""
    if not _becomes_a_node():
        return _chosen("depthwise", g, x).depthwise(x, weight, bias, g)
    out: Tensor = torch.ops.depthwise.depthwise_conv.default(x, weight, bias, g.stride, _flat(g), g.dilation)
    return out


def separable(x: Tensor, tensors: SeparableTensors, g: Geometry) -> Tensor:
    """The separable convolution of `x`, (batch, *g.input_size)."""
    if not _becomes_a_node():
        return _chosen("separable", g, x).separable(x, tensors, g)
    first, last = tensors.depthwise_activation, tensors.pointwise_activation
    out: Tensor = torch.ops.depthwise.separable_conv.default(
        x,
        tensors.depthwise_weight,
        tensors.pointwise_weight,
        tensors.depthwise_bias,
        tensors.pointwise_bias,
        tensors.residual,
        g.stride,
        _flat(g),
        g.dilation,
        g.groups,
        *(first or (None, 0.0)),
        *(last or (None, 0.0)),
    )
    return out


def _becomes_a_node() -> bool:
    return torch.compiler.is_compiling() and not _exporting()


def _exporting() -> bool:
    return (
        torch.compiler.is_exporting() or torch.onnx.is_in_onnx_export() or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    )


def _chosen(operation: Operation, g: Geometry, x: Tensor) -> Backend:
    return EAGER if _exporting() else choose(Call(operation, g, _dtype(x), x.device.type)).backend


def is_autocasting(x: Tensor) -> bool:
    """Whether autocast is on where `x` is; it knows nothing of the meta device."""
    return torch.amp.is_autocast_available(x.device.type) and torch.is_autocast_enabled(x.device.type)


def _dtype(x: Tensor) -> torch.dtype:
    """The dtype that the convolution runs in; autocast leaves float64 alone."""
    return torch.get_autocast_dtype(x.device.type) if is_autocasting(x) and x.dtype != torch.float64 else x.dtype


_LIBRARY = torch.library.Library("depthwise", "DEF")
_LIBRARY.define(
    "depthwise_conv(Tensor x, Tensor weight, Tensor? bias, int[] stride, SymInt[] padding, int[] dilation) -> Tensor"
)
_LIBRARY.define(
    "separable_conv(Tensor x, Tensor depthwise_weight, Tensor pointwise_weight, Tensor? depthwise_bias, "
    "Tensor? pointwise_bias, Tensor? residual, int[] stride, SymInt[] padding, int[] dilation, int groups, "
    "str? depthwise_activation, float depthwise_slope, str? pointwise_activation, float pointwise_slope) -> Tensor"
)


def _depthwise_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> Tensor:
    g = _geometry(x, weight, stride, padding, dilation)
    return _chosen("depthwise", g, x).depthwise(x, weight, bias, g)


def _separable_conv(
    x: Tensor,
    depthwise_weight: Tensor,
    pointwise_weight: Tensor,
    depthwise_bias: Tensor | None,
    pointwise_bias: Tensor | None,
    residual: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    depthwise_activation: str | None,
    depthwise_slope: float,
    pointwise_activation: str | None,
    pointwise_slope: float,
) -> Tensor:
    g = _geometry(x, depthwise_weight, stride, padding, dilation, pointwise_weight.shape[0], groups)
    tensors = SeparableTensors(
        depthwise_weight,
        pointwise_weight,
        depthwise_bias,
        pointwise_bias,
        (depthwise_activation, depthwise_slope) if depthwise_activation else None,
        (pointwise_activation, pointwise_slope) if pointwise_activation else None,
        residual,
    )
    return _chosen("separable", g, x).separable(x, tensors, g)


# functorch finds no composite kernel written in Python by itself, and would loop over the batch.
for _key in ("CompositeImplicitAutograd", "FuncTorchBatchedDecomposition"):
    _LIBRARY.impl("depthwise_conv", _depthwise_conv, _key)
    _LIBRARY.impl("separable_conv", _separable_conv, _key)


def _flat(g: Geometry) -> list[int]:
    """Padding as an operator takes it: before, after, before, ..."""
    return [amount for pair in g.padding for amount in pair]


def _geometry(
    x: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    out_channels: int | None = None,
    groups: int = 1,
) -> Geometry:
    return Geometry(
        input_size=tuple(x.shape[1:]),
        kernel_size=tuple(weight.shape[2:]),
        stride=tuple(stride),
        padding=tuple(zip(padding[::2], padding[1::2], strict=True)),
        dilation=tuple(dilation),
        depth_multiplier=weight.shape[0] // x.shape[1],
        out_channels=out_channels,
        groups=groups,
    )


@register_flop_formula(torch.ops.depthwise.depthwise_conv)
def depthwise_flops(x: Sequence[int], weight: Sequence[int], *_: object, out_shape: Sequence[int], **__: object) -> int:
    """FLOPs, 2 x MACs, from shapes: what torch.utils.flop_counter asks of an operator."""
    return 2 * x[0] * _macs(x[1], out_shape[1:], weight[2:], groups=x[1])


@register_flop_formula(torch.ops.depthwise.separable_conv)
def separable_flops(
    x: Sequence[int],
    weight: Sequence[int],
    pointwise: Sequence[int],
    *_: object,
    out_shape: Sequence[int],
    **__: object,
) -> int:
    """FLOPs, 2 x MACs, of both steps."""
    middle = (weight[0], *out_shape[2:])
    groups = weight[0] // pointwise[1]
    depthwise_macs = _macs(x[1], middle, weight[2:], groups=x[1])
    return 2 * x[0] * (depthwise_macs + _macs(weight[0], out_shape[1:], pointwise[2:], groups))


def _macs(in_channels: int, out_size: Sequence[int], kernel_size: Sequence[int], groups: int) -> int:
    return convolution_cost(in_channels, tuple(out_size), tuple(kernel_size), groups).macs
