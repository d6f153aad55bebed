"""The operators behind the functional forms: `torch.ops.depthwise.depthwise_conv` and `separable_conv`.

Through them a traced program holds one node whatever runs behind it. They are composite: autograd, autocast, vmap and
fake tensors see what the chosen backend does. While a program is exported they are left out, and plain aten
convolutions stand in the result.
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


def run_depthwise(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> Tensor:
    """Body of `torch.ops.depthwise.depthwise_conv`: arguments checked, padding flat: (before, after, before, ...)."""
    g = _operator_geometry(x, weight, stride, padding, dilation)
    return _chosen("depthwise", g, x).depthwise(x, weight, bias, g)


def run_separable(
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
    pointwise_activation: str | None,
    depthwise_slope: float,
    pointwise_slope: float,
) -> Tensor:
    """Body of `torch.ops.depthwise.separable_conv`, as `run_depthwise`."""
    g = _operator_geometry(x, depthwise_weight, stride, padding, dilation, pointwise_weight, groups)
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


def _operator_geometry(
    x: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    pointwise_weight: Tensor | None = None,
    groups: int = 1,
) -> Geometry:
    return Geometry(
        input_size=tuple(x.shape[1:]),
        kernel_size=tuple(weight.shape[2:]),
        stride=tuple(stride),
        padding=tuple(zip(padding[::2], padding[1::2], strict=True)),
        dilation=tuple(dilation),
        depth_multiplier=weight.shape[0] // x.shape[1],
        out_channels=None if pointwise_weight is None else pointwise_weight.shape[0],
        groups=groups,
    )


def _chosen(operation: Operation, g: Geometry, x: Tensor) -> Backend:
    return EAGER if exporting() else choose(Call(operation, g, x.dtype, x.device.type)).backend


def exporting() -> bool:
    return torch.compiler.is_exporting() or torch.onnx.is_in_onnx_export() or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]


_LIBRARY = torch.library.Library("depthwise", "DEF")
_LIBRARY.define(
    "depthwise_conv(Tensor x, Tensor weight, Tensor? bias, int[] stride, SymInt[] padding, int[] dilation) -> Tensor"
)
_LIBRARY.define(
    "separable_conv(Tensor x, Tensor depthwise_weight, Tensor pointwise_weight, Tensor? depthwise_bias, "
    "Tensor? pointwise_bias, Tensor? residual, int[] stride, SymInt[] padding, int[] dilation, int groups, "
    "str? depthwise_activation, str? pointwise_activation, float depthwise_slope, float pointwise_slope) -> Tensor"
)
# functorch finds no composite kernel written in Python by itself, and would loop over the batch.
for _key in ("CompositeImplicitAutograd", "FuncTorchBatchedDecomposition"):
    _LIBRARY.impl("depthwise_conv", run_depthwise, _key)
    _LIBRARY.impl("separable_conv", run_separable, _key)


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
