"""The functional forms: check the tensors, settle the geometry, call the operator."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Size, Tensor
from torch.compiler import is_dynamo_compiling

from . import operators
from .activations import ACTIVATIONS
from .backends import calls
from .backends.base import DepthwiseTensors, Norm, PointwiseTensors, SeparableTensors, Weights
from .backends.calls import OfOne, Setting, is_plain_window
from .backends.problem import Activation
from .backends.tensors import Tensors, is_autocasting
from .backends.weights import Identities
from .errors import DepthwiseError
from .geometry import AXES, Geometry, IntOrTuple, Padding, check_countable, finite, geometry

ActivationName = str | tuple[str, float] | None


def depthwise_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: IntOrTuple = 1,
    padding: Padding = 0,
    dilation: IntOrTuple = 1,
) -> Tensor:
    """Convolve each channel of a sequence with its own filters: `depthwise_conv2d` in one dimension.

    x:      (batch, in_channels, length)
    weight: (in_channels * depth_multiplier, 1, kernel_length)
    out:    (batch, in_channels * depth_multiplier, out_length)

    >>> depthwise_conv1d(torch.ones(1, 8, 100), torch.ones(8, 1, 4), padding=((3, 0),)).shape  # causal
    torch.Size([1, 8, 100])
    """
    return depthwise_conv(1, x, weight, bias, stride, padding, dilation)


def depthwise_conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: IntOrTuple = 1,
    padding: Padding = 0,
    dilation: IntOrTuple = 1,
) -> Tensor:
    """Convolve each channel of `x` with its own filters; channel c·depth_multiplier + m is the m-th filter of c.

    x:       (batch, in_channels, height, width), or without the batch
    weight:  (in_channels * depth_multiplier, 1, kernel_height, kernel_width)
    bias:    (in_channels * depth_multiplier,) or None
    padding: int, tuple, "valid", "same" (TensorFlow's rule where strided), or (before, after) pairs
    out:     (batch, in_channels * depth_multiplier, out_height, out_width)

    Raises DepthwiseError where shapes, dtypes or devices do not fit.

    >>> depthwise_conv2d(torch.ones(1, 8, 5, 5), torch.ones(16, 1, 3, 3), padding="same").shape
    torch.Size([1, 16, 5, 5])
    """
    return depthwise_conv(2, x, weight, bias, stride, padding, dilation)


def depthwise_conv3d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: IntOrTuple = 1,
    padding: Padding = 0,
    dilation: IntOrTuple = 1,
) -> Tensor:
    """Convolve each channel of a volume with its own filters: `depthwise_conv2d` in three dimensions.

    x:      (batch, in_channels, depth, height, width)
    weight: (in_channels * depth_multiplier, 1, kernel_depth, kernel_height, kernel_width)
    out:    (batch, in_channels * depth_multiplier, out_depth, out_height, out_width)
    """
    return depthwise_conv(3, x, weight, bias, stride, padding, dilation)


def separable_conv1d(
    x: Tensor,
    depthwise_weight: Tensor,
    pointwise_weight: Tensor,
    depthwise_bias: Tensor | None = None,
    pointwise_bias: Tensor | None = None,
    stride: IntOrTuple = 1,
    padding: Padding = 0,
    dilation: IntOrTuple = 1,
    groups: int = 1,
    *,
    depthwise_activation: ActivationName = None,
    pointwise_activation: ActivationName = None,
    residual: Tensor | None = None,
) -> Tensor:
    """A depthwise, then a pointwise convolution of a sequence: `separable_conv2d` in one dimension.

    x:                (batch, in_channels, length)
    depthwise_weight: (in_channels * depth_multiplier, 1, kernel_length)
    pointwise_weight: (out_channels, in_channels * depth_multiplier / groups, 1)
    out:              (batch, out_channels, out_length)
    """
    weights = (depthwise_weight, depthwise_bias, pointwise_weight, pointwise_bias)
    activations = (depthwise_activation, pointwise_activation)
    return separable_conv(1, x, weights, (stride, padding, dilation, groups), activations, residual)


def separable_conv2d(
    x: Tensor,
    depthwise_weight: Tensor,
    pointwise_weight: Tensor,
    depthwise_bias: Tensor | None = None,
    pointwise_bias: Tensor | None = None,
    stride: IntOrTuple = 1,
    padding: Padding = 0,
    dilation: IntOrTuple = 1,
    groups: int = 1,
    *,
    depthwise_activation: ActivationName = None,
    pointwise_activation: ActivationName = None,
    residual: Tensor | None = None,
) -> Tensor:
    """A depthwise convolution, then a pointwise one that mixes its channels.

    x:                (batch, in_channels, height, width), or without the batch
    depthwise_weight: (in_channels * depth_multiplier, 1, kernel_height, kernel_width)
    pointwise_weight: (out_channels, in_channels * depth_multiplier / groups, 1, 1)
    depthwise_bias:   (in_channels * depth_multiplier,) or None
    pointwise_bias:   (out_channels,) or None
    groups:           of the pointwise convolution, as of the dense one that the pair replaces
    residual:         (batch, out_channels, out_height, out_width), added before the last activation
    activations:      "relu", "relu6", "silu", "hardswish", "hardsigmoid", "sigmoid", "gelu" (erf), "leaky_relu",
                      "elu", or a pair of name and slope
    out:              (batch, out_channels, out_height, out_width)

    Raises DepthwiseError where shapes, dtypes or devices do not fit.

    >>> x, depthwise, pointwise = torch.ones(1, 3, 7, 7), torch.ones(3, 1, 3, 3), torch.ones(128, 3, 1, 1)
    >>> separable_conv2d(x, depthwise, pointwise, pointwise_activation="relu6")[0, 0, 0, 0]
    tensor(6.)
    """
    weights = (depthwise_weight, depthwise_bias, pointwise_weight, pointwise_bias)
    activations = (depthwise_activation, pointwise_activation)
    return separable_conv(2, x, weights, (stride, padding, dilation, groups), activations, residual)


def separable_conv3d(
    x: Tensor,
    depthwise_weight: Tensor,
    pointwise_weight: Tensor,
    depthwise_bias: Tensor | None = None,
    pointwise_bias: Tensor | None = None,
    stride: IntOrTuple = 1,
    padding: Padding = 0,
    dilation: IntOrTuple = 1,
    groups: int = 1,
    *,
    depthwise_activation: ActivationName = None,
    pointwise_activation: ActivationName = None,
    residual: Tensor | None = None,
) -> Tensor:
    """A depthwise, then a pointwise convolution of a volume: `separable_conv2d` in three dimensions.

    x:                (batch, in_channels, depth, height, width)
    depthwise_weight: (in_channels * depth_multiplier, 1, kernel_depth, kernel_height, kernel_width)
    pointwise_weight: (out_channels, in_channels * depth_multiplier / groups, 1, 1, 1)
    out:              (batch, out_channels, out_depth, out_height, out_width)
    """
    weights = (depthwise_weight, depthwise_bias, pointwise_weight, pointwise_bias)
    activations = (depthwise_activation, pointwise_activation)
    return separable_conv(3, x, weights, (stride, padding, dilation, groups), activations, residual)


def activation_of(name: ActivationName) -> Activation:
    """(name, slope) of an activation given as None, a name, or a pair of name and slope.

    >>> activation_of("relu"), activation_of(("leaky_relu", 0.1)), activation_of("elu")
    (('relu', 0.0), ('leaky_relu', 0.1), ('elu', 1.0))
    """
    if name is None:
        return None
    label, slope = name if isinstance(name, tuple) and len(name) == 2 else (name, None)
    if not isinstance(label, str) or label not in ACTIVATIONS:
        raise DepthwiseError(f"unknown activation {name!r}; known: None, {', '.join(ACTIVATIONS)}, or (name, slope)")
    usual = ACTIVATIONS[label].slope
    if slope is not None and usual is None:
        raise DepthwiseError(f"the activation {label!r} has no slope; got {name!r}")
    return label, (usual or 0.0) if slope is None else finite(slope, f"the slope of {label!r}")


def depthwise_conv(
    rank: int,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: IntOrTuple,
    padding: Padding,
    dilation: IntOrTuple,
    in_channels: int | None = None,
) -> Tensor:
    """`depthwise_conv1d`, `2d` or `3d` by rank; in_channels: those that `x` must have."""
    tensors, window = (weight, bias), (stride, padding, dilation)
    setting: Setting = ()
    if not is_dynamo_compiling():
        setting = (id(stride), id(padding), id(dilation), rank, in_channels)
        out = calls.found((id(weight), id(bias)), setting, x, None, tensors, window)
        if out is not None:
            return out
    batch, _ = batched(x, rank, in_channels)
    _check_tensors(batch, {"weight": weight}, {"bias": bias})
    shapes = Shapes(batch.shape, weight.shape, _shape(bias))
    g = _settled(rank, shapes, stride, padding, dilation, 1)
    return _computed(setting, x, None, tensors, window, DepthwiseTensors(weight, bias), g)


def pointwise_conv(
    rank: int, x: Tensor, weight: Tensor, bias: Tensor | None, groups: int = 1, residual: Tensor | None = None
) -> Tensor:
    """A convolution whose window is one pixel, by rank, and a residual added to it.

    x:        (batch, in_channels, *spatial), or without the batch
    weight:   (out_channels, in_channels / groups, 1, ...)
    residual: (batch, out_channels, *spatial)
    """
    tensors, window = (weight, bias), (groups,)
    setting: Setting = ()
    if not is_dynamo_compiling():
        setting = (id(groups), "pointwise", rank, residual is not None)
        out = calls.found((id(weight), id(bias)), setting, x, residual, tensors, window)
        if out is not None:
            return out
    batch, _ = batched(x, rank, weight.shape[1] * groups)
    _check_tensors(batch, {"weight": weight}, {"bias": bias})
    is_plain = not torch.compiler.is_compiling() and all(type(n) is int for n in batch.shape)
    settle = _remembered_pointwise if is_plain else _pointwise_geometry
    g = settle(batch.shape[1:], weight.shape[0], groups)
    _check_pointwise(weight.shape, g)
    _check_bias("bias", _shape(bias), weight.shape[0])
    return _computed(setting, x, residual, tensors, window, PointwiseTensors(weight, bias, None, residual), g)


def _pointwise_geometry(input_size: Size, out_channels: int, groups: int) -> Geometry:
    return geometry(input_size, 1, out_channels=out_channels, groups=groups)


_remembered_pointwise = lru_cache(maxsize=4096)(_pointwise_geometry)


def separable_conv(
    rank: int,
    x: Tensor,
    weights: tuple[Tensor, Tensor | None, Tensor, Tensor | None],
    window: tuple[IntOrTuple, Padding, IntOrTuple, int],
    activations: tuple[ActivationName, ActivationName],
    residual: Tensor | None,
    norms: tuple[Norm | None, ...] = (),
    in_channels: int | None = None,
) -> Tensor:
    """`separable_conv1d`, `2d` or `3d` by rank.

    weights:            weight and bias of the depthwise, then of the pointwise convolution
    window:             stride, padding, dilation and groups
    activations, norms: after the depthwise, then after the pointwise convolution; a norm comes before the activation
    in_channels:        those that `x` must have
    """
    depthwise_weight, depthwise_bias, pointwise_weight, pointwise_bias = weights
    # In the order of SeparableTensors.weights: what is kept for the one is found by the other.
    tensors: Tensors = weights
    values: Setting = (rank, in_channels, residual is None, *activations)
    for norm in norms:
        tensors = (*tensors, *(norm.tensors if norm else ()))
        values += (norm and norm.eps,)
    setting: Setting = ()
    if not is_dynamo_compiling():
        stride, padding, dilation, groups = window
        identities: Identities = (id(depthwise_weight), id(depthwise_bias), id(pointwise_weight), id(pointwise_bias))
        if norms:
            identities = tuple(map(id, tensors))
        setting = (id(stride), id(padding), id(dilation), id(groups), *values)
        out = calls.found(identities, setting, x, residual, tensors, window)
        if out is not None:
            return out
    batch, unbatched = batched(x, rank, in_channels)
    _check_tensors(
        batch,
        {"depthwise_weight": depthwise_weight, "pointwise_weight": pointwise_weight},
        {"depthwise_bias": depthwise_bias, "pointwise_bias": pointwise_bias, "residual": residual},
    )
    added = residual.unsqueeze(0) if residual is not None and unbatched else residual
    depthwise_shapes = (batch.shape, depthwise_weight.shape, _shape(depthwise_bias))
    shapes = Shapes(*depthwise_shapes, pointwise_weight.shape, _shape(pointwise_bias), _shape(added), unbatched)
    first, last = (activation_of(name) for name in activations)
    g = _settled(rank, shapes, *window)
    _check_norms(batch, norms, (g.depthwise_channels, g.output_size[0]))
    filters, biases = (depthwise_weight, pointwise_weight), (depthwise_bias, pointwise_bias)
    inputs = SeparableTensors(*filters, *biases, first, last, added, *norms)
    return _computed(setting, x, residual, tensors, window, inputs, g)


def _computed(
    setting: Setting,
    x: Tensor,
    residual: Tensor | None,
    tensors: Tensors,
    window: tuple[object, ...],
    weights: Weights,
    g: Geometry,
) -> Tensor:
    """The result of a call that was checked; what ran it is kept for calls like it.

    setting: () while torch.compile traces
    """
    unbatched = x.dim() == g.rank + 1
    out, prepared = operators.convolution(x.unsqueeze(0) if unbatched else x, weights, g)
    if prepared is not None and setting:
        if unbatched:
            prepared = prepared._replace(bound=OfOne(prepared.bound))
        calls.keep(setting, x, residual, tensors, window, prepared)
    return out.squeeze(0) if unbatched else out


class Shapes(NamedTuple):
    """Shapes of a call's tensors; pointwise None for a depthwise convolution, others None where absent.

    unbatched: whether `x` and `residual` came without their batch dimension
    """

    x: Size
    depthwise: Size
    depthwise_bias: Size | None
    pointwise: Size | None = None
    pointwise_bias: Size | None = None
    residual: Size | None = None
    unbatched: bool = False


def _settled(
    rank: int, shapes: Shapes, stride: IntOrTuple, padding: Padding, dilation: IntOrTuple, groups: int
) -> Geometry:
    if torch.compiler.is_compiling() or not is_plain_window((stride, padding, dilation, groups)):
        return _checked_geometry(rank, shapes, stride, padding, dilation, groups)
    try:
        return _remembered_geometry(rank, shapes, stride, padding, dilation, groups)
    except TypeError:  # nor has a traced size
        return _checked_geometry(rank, shapes, stride, padding, dilation, groups)


def _checked_geometry(
    rank: int, shapes: Shapes, stride: IntOrTuple, padding: Padding, dilation: IntOrTuple, groups: int
) -> Geometry:
    """Geometry of a call whose shapes all fit; everything here depends on shapes alone, so that it can be kept."""
    name = "weight" if shapes.pointwise is None else "depthwise_weight"
    if shapes.pointwise is not None and len(shapes.pointwise) != rank + 2:
        raise DepthwiseError(
            f"pointwise_weight must be (out_channels, in_channels * depth_multiplier / groups, "
            f"{', '.join('1' * rank)}); got the shape {tuple(shapes.pointwise)}"
        )
    g = geometry(
        shapes.x[1:],
        _kernel_size(name, shapes.depthwise, rank),
        stride,
        padding,
        dilation,
        depth_multiplier=_depth_multiplier(name, shapes.depthwise, shapes.x),
        out_channels=None if shapes.pointwise is None else shapes.pointwise[0],
        groups=groups,
    )
    if not torch.compiler.is_compiling():
        padded = (n + sum(pair) for n, pair in zip(shapes.x[2:], g.padding, strict=True))
        check_countable("the padded input", *shapes.x[:2], *padded)
        check_countable("the output", shapes.x[0], max(g.depthwise_channels, g.output_size[0]), *g.out_spatial)
    if shapes.pointwise is None:
        _check_bias("bias", shapes.depthwise_bias, g.depthwise_channels)
        return g
    _check_pointwise(shapes.pointwise, g)
    _check_bias("depthwise_bias", shapes.depthwise_bias, g.depthwise_channels)
    _check_bias("pointwise_bias", shapes.pointwise_bias, shapes.pointwise[0])
    out_shape = (shapes.x[0], *g.output_size)
    if shapes.residual is not None and shapes.residual != out_shape:
        expected, got = (tuple(shape)[shapes.unbatched :] for shape in (out_shape, shapes.residual))
        raise DepthwiseError(f"residual must have the output's shape {expected}; got {got}")
    return g


_remembered_geometry = lru_cache(maxsize=4096)(_checked_geometry)


def _shape(tensor: Tensor | None) -> Size | None:
    return None if tensor is None else tensor.shape


def batched(x: Tensor, rank: int, in_channels: int | None = None) -> tuple[Tensor, bool]:
    """`x` with a batch dimension, and whether it came without; in_channels: those that it must have."""
    if not isinstance(x, Tensor):
        raise DepthwiseError(f"x must be a torch.Tensor; got {type(x).__name__}")
    if x.dim() not in (rank + 1, rank + 2):
        axes = ", ".join(AXES[rank])
        raise DepthwiseError(
            f"x must be (batch, channels, {axes}) or (channels, {axes}); got the shape {tuple(x.shape)}"
        )
    if in_channels is not None and x.shape[-rank - 1] != in_channels:
        raise DepthwiseError(
            f"the layer has in_channels={in_channels}; the input has {x.shape[-rank - 1]} channels, "
            f"shape {tuple(x.shape)}"
        )
    unbatched = x.dim() == rank + 1
    return (x.unsqueeze(0) if unbatched else x), unbatched


def _check_tensors(x: Tensor, required: dict[str, Tensor], optional: dict[str, Tensor | None]) -> None:
    if not x.is_floating_point():
        raise DepthwiseError(f"x must have a floating-point dtype; got {x.dtype}; convert it with x.float()")
    present = {name: tensor for name, tensor in optional.items() if tensor is not None}
    for name, tensor in (required | present).items():
        if not isinstance(tensor, Tensor):
            raise DepthwiseError(f"{name} must be a torch.Tensor; got {type(tensor).__name__}")
        if tensor.device != x.device:
            raise DepthwiseError(f"{name} is on {tensor.device} and x on {x.device}; move one with .to(device)")
        # autocast, where it is on, brings the dtypes together.
        if tensor.dtype != x.dtype and not is_autocasting(x):
            raise DepthwiseError(f"{name} has dtype {tensor.dtype} and x {x.dtype}; convert one with .to(dtype)")


def _check_norms(x: Tensor, norms: tuple[Norm | None, ...], channels: tuple[int, int]) -> None:
    """Check what a layer's batch norms hold: one number a channel, like `x`."""
    for name, norm, expected in zip(("depthwise_norm", "pointwise_norm"), norms, channels, strict=False):
        for tensor in () if norm is None else (norm.running_mean, norm.running_var, norm.weight, norm.bias):
            if tensor is not None and tuple(tensor.shape) != (expected,):
                raise DepthwiseError(f"{name} has the shape {tuple(tensor.shape)} for {expected} channels")
            if tensor is not None and tensor.device != x.device:
                raise DepthwiseError(f"{name} is on {tensor.device} and x on {x.device}; move one with .to(device)")


def _kernel_size(name: str, weight: Size, rank: int) -> tuple[int, ...]:
    if len(weight) != rank + 2 or weight[1] != 1:
        raise DepthwiseError(
            f"{name} must be (in_channels * depth_multiplier, 1, {', '.join('kernel_' + a for a in AXES[rank])}); "
            f"got the shape {tuple(weight)}"
        )
    return tuple(weight[2:])


def _depth_multiplier(name: str, weight: Size, x: Size) -> int:
    filters, channels = weight[0], x[1]
    if not channels or not filters or filters % channels:
        raise DepthwiseError(
            f"{name} has {filters} filters for in_channels={channels}; the number of filters must be a multiple of "
            f"in_channels ({channels}, {2 * channels}, ...)"
        )
    return filters // channels


def _check_pointwise(weight: Size, g: Geometry) -> None:
    expected = (g.output_size[0], g.depthwise_channels // g.groups, *(1,) * g.rank)
    if tuple(weight) != expected:
        raise DepthwiseError(
            f"pointwise_weight must be (out_channels, {expected[1]}, {', '.join('1' * g.rank)}) for in_channels="
            f"{g.in_channels}, depth_multiplier={g.depth_multiplier}, groups={g.groups}; got {tuple(weight)}"
        )


def _check_bias(name: str, bias: Size | None, channels: int) -> None:
    if bias is not None and tuple(bias) != (channels,):
        raise DepthwiseError(f"{name} must have the shape ({channels},); got {tuple(bias)}")
