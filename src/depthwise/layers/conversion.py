"""Between a separable layer and what says the same: a dense convolution, an nn.Sequential's state dict."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import is_lazy

from ..errors import DepthwiseError
from ..factorize import compose, factorize
from ..folding import scale_and_shift, through_pointwise
from ..geometry import torch_padding

if TYPE_CHECKING:
    from .separable import _SeparableConv

CONVOLUTIONS: Mapping[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}

Separable = TypeVar("Separable", bound="_SeparableConv")


def to_dense(layer: _SeparableConv) -> _ConvNd:
    """Body of `SeparableConv2d.to_dense`."""
    settled = torch_padding(layer.padding, layer.stride)
    if settled is None:
        raise DepthwiseError(
            f"torch's dense convolution has no padding={layer.padding!r} with stride={layer.stride}; "
            "pad the input yourself and use padding=0"
        )
    for name in ("depthwise_activation", "pointwise_activation"):
        activation = getattr(layer, name)
        if activation is not None and not isinstance(activation, nn.Identity):
            raise DepthwiseError(f"a layer with {name}={activation} is no single convolution; remove it first")
    depthwise, shift = _folded(layer.depthwise, layer.depthwise_norm, "depthwise_norm")
    pointwise, offset = _folded(layer.pointwise, layer.pointwise_norm, "pointwise_norm", shift)
    sources = (layer.depthwise.bias, layer.depthwise_norm, layer.pointwise.bias, layer.pointwise_norm)
    biased = any(source is not None for source in sources)
    weight = layer.pointwise.weight
    dense: _ConvNd = CONVOLUTIONS[layer.rank](
        layer.in_channels,
        layer.out_channels,
        layer.kernel_size,
        layer.stride,
        settled,
        layer.dilation,
        layer.groups,
        biased,
        layer.padding_mode,
        weight.device,
        weight.dtype,
    )
    with torch.no_grad():
        dense.weight.copy_(compose(depthwise, pointwise, layer.in_channels, layer.groups))
        if dense.bias is not None:
            dense.bias.copy_(offset)
    return dense.train(layer.training)


def arguments_of(conv: _ConvNd) -> tuple[Any, ...]:
    """What a separable layer in the place of `conv` is made with, positionally."""
    return (
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,
        conv.stride,
        conv.padding,
        conv.dilation,
        conv.groups,
        conv.bias is not None,
        conv.padding_mode,
        conv.weight.device,
        conv.weight.dtype,
    )


def from_dense(cls: type[Separable], conv: _ConvNd, depth_multiplier: int) -> Separable:
    """Body of `SeparableConv2d.from_dense`."""
    expected = CONVOLUTIONS[cls.rank]
    if not isinstance(conv, expected):
        raise DepthwiseError(f"{cls.__name__}.from_dense takes a torch.nn.{expected.__name__}; got {conv!r}")
    if is_lazy(conv.weight):
        raise DepthwiseError(f"from_dense needs the weights, and {conv!r} has none before its first call")
    if conv.weight.device.type == "meta":
        raise DepthwiseError("from_dense needs the weights, and this convolution is on the meta device")
    factors = factorize(conv.weight, depth_multiplier, conv.groups)
    layer = cls(*arguments_of(conv), depth_multiplier=depth_multiplier)
    with torch.no_grad():
        layer.depthwise.weight.copy_(factors.depthwise)
        layer.pointwise.weight.copy_(factors.pointwise)
        if conv.bias is not None and layer.pointwise.bias is not None:
            layer.pointwise.bias.copy_(conv.bias)
    layer.dense_error = factors.relative_error
    return layer.train(conv.training)


def numbered_to_named(layer: _SeparableConv, state_dict: dict[str, Any], prefix: str) -> None:
    """Rename, in place, the keys of an nn.Sequential of the layer's parts: 0.weight becomes depthwise.weight."""
    if f"{prefix}0.weight" not in state_dict or f"{prefix}depthwise.weight" in state_dict:
        return
    for position, (name, _) in enumerate(layer.present_parts()):
        numbered = f"{prefix}{position}."
        for key in [key for key in state_dict if key.startswith(numbered)]:
            state_dict[f"{prefix}{name}.{key.removeprefix(numbered)}"] = state_dict.pop(key)
    _merge_depthwise_bias(layer, state_dict, prefix)


def _merge_depthwise_bias(layer: _SeparableConv, state_dict: dict[str, Any], prefix: str) -> None:
    """Make a depthwise bias that the layer leaves out part of what follows, exactly.

    That is the batch norm's mean where one follows, else the pointwise bias: P·b.
    """
    bias, weight = (state_dict.get(f"{prefix}{key}") for key in ("depthwise.bias", "pointwise.weight"))
    mean = state_dict.get(f"{prefix}depthwise_norm.running_mean")
    if bias is None or layer.depthwise.bias is not None or bias.shape != (layer.depthwise.out_channels,):
        return
    if isinstance(layer.depthwise_norm, _BatchNorm) and mean is not None:
        state_dict[f"{prefix}depthwise_norm.running_mean"] = mean - state_dict.pop(f"{prefix}depthwise.bias")
        return
    together = layer.depthwise_norm is None and layer.depthwise_activation is None
    if not together or layer.pointwise.bias is None or weight is None or weight.shape != layer.pointwise.weight.shape:
        return
    del state_dict[f"{prefix}depthwise.bias"]
    merged = through_pointwise(bias.double(), weight.double(), layer.groups)
    own = state_dict.get(f"{prefix}pointwise.bias", torch.zeros_like(merged))
    state_dict[f"{prefix}pointwise.bias"] = (merged + own.double()).to(weight.dtype)


def _folded(conv: _ConvNd, norm: nn.Module | None, name: str, shift: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Weight and bias, float64, of a convolution with the batch norm after it and a constant `shift` before it."""
    weight = conv.weight.detach().double()
    bias = weight.new_zeros(conv.out_channels) if conv.bias is None else conv.bias.detach().double()
    if shift is not None:
        bias = bias + through_pointwise(shift, weight, conv.groups)
    if norm is None or isinstance(norm, nn.Identity):
        return weight, bias
    if not isinstance(norm, _BatchNorm):
        raise DepthwiseError(f"only a batch norm folds into a convolution; {name} is {norm}")
    scale, offset = scale_and_shift(norm)
    return weight * scale.reshape(-1, *(1,) * (weight.dim() - 1)), bias * scale + offset
