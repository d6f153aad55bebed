"""Convolutions as operators of torch have them: schemas, and their arguments read back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ..geometry import Geometry
from .base import DepthwiseTensors, SeparableTensors, norm_of

DEPTHWISE = "Tensor x, Tensor weight, Tensor? bias, int[] stride, SymInt[] padding, int[] dilation"
SEPARABLE = (
    "Tensor x, Tensor depthwise_weight, Tensor pointwise_weight, Tensor? depthwise_bias, Tensor? pointwise_bias, "
    "Tensor? residual, int[] stride, SymInt[] padding, int[] dilation, int groups, str? depthwise_activation, "
    "float depthwise_slope, str? pointwise_activation, float pointwise_slope, Tensor[]? depthwise_norm=None, "
    "float depthwise_eps=0.0, Tensor[]? pointwise_norm=None, float pointwise_eps=0.0"
)


def of_depthwise(x: Tensor, weight: Tensor, bias: Tensor | None, *window: Any) -> tuple[DepthwiseTensors, Geometry]:
    """The inverse of DepthwiseTensors.arguments."""
    return DepthwiseTensors(weight, bias), _geometry(x, weight, *window)


def of_separable(
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
    depthwise_norm: Sequence[Tensor] | None = None,
    depthwise_eps: float = 0.0,
    pointwise_norm: Sequence[Tensor] | None = None,
    pointwise_eps: float = 0.0,
) -> tuple[SeparableTensors, Geometry]:
    """The inverse of SeparableTensors.arguments."""
    tensors = SeparableTensors(
        depthwise_weight,
        pointwise_weight,
        depthwise_bias,
        pointwise_bias,
        (depthwise_activation, depthwise_slope) if depthwise_activation else None,
        (pointwise_activation, pointwise_slope) if pointwise_activation else None,
        residual,
        norm_of(depthwise_norm, depthwise_eps),
        norm_of(pointwise_norm, pointwise_eps),
    )
    return tensors, _geometry(x, depthwise_weight, stride, padding, dilation, pointwise_weight.shape[0], groups)


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
