"""Between a separable layer and the dense convolution that says the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import is_lazy

from ..errors import DepthwiseError
from ..factorize import compose, factorize
from ..folding import BATCH_NORMS, scale_and_shift, through_pointwise
from ..geometry import check_countable, check_groups, padding_pairs, positive, torch_padding, without_causal
from ..modules import why_foreign
from .depthwise import DEPTHWISE

if TYPE_CHECKING:
    from .separable import _SeparableConv

CONVOLUTIONS: Mapping[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}

Separable = TypeVar("Separable", bound="_SeparableConv")


def pointwise_convolution(
    rank: int, in_channels: int, out_channels: int, groups: int, *, bias: bool, device: Any, dtype: Any
) -> _ConvNd:
    """Torch's convolution of a single pixel, its channels checked."""
    check_groups(in_channels, out_channels, groups)
    check_countable("the pointwise weight", out_channels, in_channels // groups)
    conv: _ConvNd = CONVOLUTIONS[rank](
        in_channels, out_channels, 1, groups=groups, bias=bias, device=device, dtype=dtype
    )
    return conv


class Weights(NamedTuple):
    """What a convolution convolves with."""

    weight: Tensor
    bias: Tensor | None


def to_dense(layer: _SeparableConv, base: type[nn.Module]) -> _ConvNd:
    """Body of `SeparableConv2d.to_dense`; base: whose calls those of `layer` must be."""
    check_own_call(layer, base)
    for name in ("depthwise_activation", "pointwise_activation"):
        activation = getattr(layer, name)
        if activation is not None and why_foreign(activation, nn.Identity):
            raise DepthwiseError(f"a layer with {name}={activation} is no single convolution; remove it first")
    first, last = pair_weights(layer.depthwise, layer.pointwise, layer.rank)
    depthwise, shift = _folded(first, layer.depthwise_norm, "depthwise_norm", layer.rank)
    pointwise, offset = _folded(last, layer.pointwise_norm, "pointwise_norm", layer.rank, shift, layer.pointwise.groups)
    norms = (layer.depthwise_norm, layer.pointwise_norm)
    has_bias = any(source is not None for source in (first.bias, last.bias, *norms))
    kernel = compose(depthwise, pointwise, layer.depthwise.in_channels, layer.pointwise.groups)
    return dense_like(layer, layer.depthwise, layer.pointwise.groups, kernel, offset if has_bias else None, last.weight)


def check_own_call(layer: nn.Module, base: type[nn.Module]) -> None:
    """Raise where a call of `layer` may be another than its parts say."""
    foreign = why_foreign(layer, base)
    if foreign is not None:
        raise DepthwiseError(f"to_dense cannot say what this {type(layer).__name__} computes: {foreign}")


def pair_weights(depthwise: _ConvNd, pointwise: _ConvNd, rank: int) -> tuple[Weights, Weights]:
    """Weights of a depthwise and a pointwise convolution, checked to be that and no more."""
    own, torchs = DEPTHWISE[rank], CONVOLUTIONS[rank]
    weights = []
    for name, conv, bases in (("depthwise", depthwise, (own, torchs)), ("pointwise", pointwise, (torchs,))):
        foreign = why_foreign(conv, *bases)
        if foreign is not None:
            raise DepthwiseError(f"to_dense cannot say what the {name} part, {conv}, computes: {foreign}")
        weights.append(weights_of(conv))
    ones = (1,) * rank
    is_pointwise = (pointwise.kernel_size, pointwise.stride) == (ones, ones) and not any(_pads(pointwise))
    if depthwise.groups != depthwise.in_channels or not is_pointwise:
        raise DepthwiseError(f"to_dense needs a depthwise and a pointwise convolution; got {depthwise} and {pointwise}")
    return weights[0], weights[1]


def dense_like(
    layer: nn.Module, depthwise: _ConvNd, groups: int, kernel: Tensor, bias: Tensor | None, like: Tensor
) -> _ConvNd:
    """The dense convolution of this kernel and bias that moves over its input as `depthwise` does, `like` a tensor."""
    padding = without_causal(depthwise.padding, depthwise.kernel_size, depthwise.dilation)
    settled = torch_padding(padding, depthwise.stride)
    if settled is None:
        raise DepthwiseError(
            f"torch's dense convolution has no padding={depthwise.padding!r} with stride={depthwise.stride}; "
            "pad the input yourself and use padding=0"
        )
    dense: _ConvNd = CONVOLUTIONS[len(depthwise.kernel_size)](
        kernel.shape[1] * groups,
        kernel.shape[0],
        depthwise.kernel_size,
        depthwise.stride,
        settled,
        depthwise.dilation,
        groups,
        bias is not None,
        depthwise.padding_mode,
        like.device,
        like.dtype,
    )
    with torch.no_grad():
        dense.weight.copy_(kernel)
        if dense.bias is not None and bias is not None:
            dense.bias.copy_(bias)
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
    foreign = why_foreign(conv, expected, DEPTHWISE[cls.rank])
    if foreign is not None:
        raise DepthwiseError(
            f"{cls.__name__}.from_dense cannot say what {conv!r} computes: {foreign}; "
            f"give a plain torch.nn.{expected.__name__} with the weights that it convolves with"
        )
    multiplier = positive(depth_multiplier, "depth_multiplier")
    weight, bias = weights_of(conv)
    if weight.device.type == "meta":
        raise DepthwiseError("from_dense needs the weights, and this convolution is on the meta device")
    factors = factorize(weight, multiplier, conv.groups)
    layer = cls(*arguments_of(conv), depth_multiplier=multiplier)
    with torch.no_grad():
        layer.depthwise.weight.copy_(factors.depthwise)
        layer.pointwise.weight.copy_(factors.pointwise)
        if bias is not None and layer.pointwise.bias is not None:
            layer.pointwise.bias.copy_(bias)
    layer.dense_error = factors.relative_error
    return layer.train(conv.training)


def weights_of(conv: _ConvNd) -> Weights:
    """Weight and bias of one of torch's convolutions, as it uses them now, checked to be what its attributes say."""
    with torch.no_grad():
        found = Weights(conv.weight, conv.bias)
    tensors: list[tuple[str, Tensor | None, tuple[int, ...]]] = [
        ("weight", found.weight, (conv.out_channels, conv.in_channels // conv.groups, *conv.kernel_size)),
        ("bias", found.bias, (conv.out_channels,)),
    ]
    for name, tensor, shape in tensors:
        if tensor is None:
            continue
        if type(tensor) not in (Tensor, nn.Parameter) or tensor.layout != torch.strided:
            raise DepthwiseError(f"the {name} of {conv} must be a plain tensor; it is a {type(tensor).__name__}")
        if tensor.shape != shape:
            raise DepthwiseError(f"the {name} of {conv} must have the shape {shape}; it has {tuple(tensor.shape)}")
    if (
        conv.padding_mode != "zeros"
        and not isinstance(conv, DEPTHWISE[len(conv.kernel_size)])
        and not _pads_alike(conv)
    ):
        raise DepthwiseError(
            f"the padding of {conv} was changed after it was made, and torch pads by what it was; make it anew"
        )
    return found


def _pads(conv: _ConvNd) -> list[int]:
    """What one of torch's convolutions pads by: before and after, last axis first, as F.pad takes it."""
    # A "same" of torch's is never strided, so that the input's size does not matter.
    pairs = padding_pairs(conv.padding, conv.kernel_size, conv.kernel_size, conv.stride, conv.dilation)
    return [amount for pair in reversed(pairs) for amount in pair]


def _pads_alike(conv: _ConvNd) -> bool:
    return _pads(conv) == list(conv._reversed_padding_repeated_twice)


def _folded(
    conv: Weights, norm: nn.Module | None, name: str, rank: int, shift: Tensor | None = None, groups: int = 1
) -> tuple[Tensor, Tensor]:
    """Weight and bias, float64, of a convolution with the batch norm after it and a constant `shift` before it."""
    weight = conv.weight.detach().double()
    bias = weight.new_zeros(len(weight)) if conv.bias is None else conv.bias.detach().double()
    if shift is not None:
        bias = bias + through_pointwise(shift, weight, groups)
    if norm is None or why_foreign(norm, nn.Identity) is None:
        return weight, bias
    foreign = why_foreign(norm, *BATCH_NORMS[rank])
    if foreign is not None:
        raise DepthwiseError(f"only a batch norm folds into a convolution; {name} is {norm}, and {foreign}")
    scale, offset = scale_and_shift(norm)  # type: ignore[arg-type]
    if len(scale) != len(weight):
        raise DepthwiseError(f"{name} has {len(scale)} channels, and the convolution before it {len(weight)}")
    return weight * scale.reshape(-1, *(1,) * (weight.dim() - 1)), bias * scale + offset
