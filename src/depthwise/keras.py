"""Weights of Keras and TensorFlow in our layers and torch's, and back; neither library is needed.

Keras stores a depthwise kernel as (*kernel_size, channels, depth_multiplier), a dense or pointwise one as
(*kernel_size, in_channels, out_channels), and a batch norm as gamma, beta, moving mean, moving variance; so does
`layer.get_weights()`, in 1-d and 3-d too. A batch norm's epsilon is 1e-3 there and 1e-5 in torch: make the norm with
`eps=1e-3`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from .errors import DepthwiseError
from .layers.separable import _SeparableConv

Arrays = Sequence[Any]


def load_(layer: nn.Module, weights: Arrays | Mapping[str, Arrays]) -> None:
    """Copy what Keras's `get_weights()` gave into `layer`.

    layer:   a DepthwiseConv*, a SeparableConv*, or an nn.Conv*, nn.BatchNorm* or nn.Linear of torch's
    weights: arrays in Keras's order: kernel, bias; depthwise kernel, pointwise kernel, bias; gamma, beta, mean,
             variance, without those that the layer has not. For a SeparableConv* with norms, or made of layers apart,
             a dict of such lists by part: {"depthwise": [...], "depthwise_norm": [...], "pointwise": [...], ...}

    Raises DepthwiseError, before anything is written, where a number or a shape does not fit.

    >>> from depthwise import SeparableConv1d, keras
    >>> layer = SeparableConv1d(8, 16, 3)
    >>> keras.load_(layer, [torch.ones(3, 8, 1), torch.ones(1, 8, 16), torch.zeros(16)])
    >>> [tuple(array.shape) for array in keras.weights(layer)]
    [(3, 8, 1), (1, 8, 16), (16,)]
    """
    pairs = _by_part(layer, weights) if isinstance(weights, Mapping) else _paired(layer, weights, "weights")
    with torch.no_grad():
        for target, values in pairs:
            target.copy_(values)


def weights(layer: nn.Module) -> list[Any]:
    """The weights of `layer` as numpy arrays that Keras's `set_weights` takes: the inverse of `load_`.

    A SeparableConv* with norms gives those of its depthwise convolution, norm, pointwise convolution, norm in turn.
    """
    return [_to_keras(owner, name, tensor).numpy() for owner, name, tensor in _tensors(layer)]


def _by_part(layer: nn.Module, weights: Mapping[str, Arrays]) -> list[tuple[Tensor, Tensor]]:
    parts = dict(layer.present_parts()) if isinstance(layer, _SeparableConv) else {}
    known = [name for name, module in parts.items() if _names(module)]
    if set(weights) != set(known):
        raise DepthwiseError(f"weights by part need the parts {known} of this {type(layer).__name__}; got {[*weights]}")
    return [pair for name in known for pair in _paired(parts[name], weights[name], name)]


def _paired(layer: nn.Module, weights: Arrays, label: str) -> list[tuple[Tensor, Tensor]]:
    """Each tensor of `layer` with its values, checked, in torch's order of axes."""
    if not isinstance(weights, list | tuple):
        raise DepthwiseError(f"{label} must be a list of arrays, as Keras's get_weights() gives; got {type(weights)}")
    own = _tensors(layer)
    expected = [tuple(_to_keras(*each).shape) for each in own]
    arrays = [_tensor(value, label) for value in weights]
    got = [tuple(array.shape) for array in arrays]
    if got != expected:
        raise DepthwiseError(
            f"{label} of a {type(layer).__name__} are {[name for _, name, _ in own]} of the shapes {expected} in "
            f"Keras's order; got the shapes {got}"
        )
    return [(tensor, _from_keras(each, name, array)) for (each, name, tensor), array in zip(own, arrays, strict=True)]


def _tensor(value: Any, label: str) -> Tensor:
    try:
        return torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DepthwiseError(f"{label} must hold arrays of numbers; got {type(value).__name__}") from error


def _tensors(layer: nn.Module) -> list[tuple[nn.Module, str, Tensor]]:
    """(module, name, tensor) of what Keras's layer of this kind holds, in Keras's order."""
    if isinstance(layer, _SeparableConv):
        return [each for _, module in layer.present_parts() for each in _tensors(module)]
    names = _names(layer)
    if not names and any(True for _ in layer.parameters()):
        raise DepthwiseError(f"Keras's weights go into convolutions, batch norms and linear layers; this is a {layer}")
    present = [(name, getattr(layer, name)) for name in names]
    return [(layer, name, tensor.detach()) for name, tensor in present if tensor is not None]


def _names(layer: nn.Module) -> tuple[str, ...]:
    if isinstance(layer, _BatchNorm):
        return ("weight", "bias", "running_mean", "running_var")
    is_known = isinstance(layer, nn.Linear) or (isinstance(layer, _ConvNd) and not isinstance(layer, _ConvTransposeNd))
    return ("weight", "bias") if is_known else ()


def _is_depthwise(layer: nn.Module) -> bool:
    # Of one channel in and one group both layouts have the same order of numbers, and (*kernel, 1, out) fits both.
    return isinstance(layer, _ConvNd) and layer.groups == layer.in_channels


def _to_keras(layer: nn.Module, name: str, tensor: Tensor) -> Tensor:
    if name != "weight" or tensor.dim() == 1:
        return tensor
    if isinstance(layer, _ConvNd) and _is_depthwise(layer):
        # (channels · multiplier, 1, *kernel) -> (*kernel, channels, multiplier)
        filters: Tensor = tensor.squeeze(1).movedim(0, -1)
        return filters.reshape(*filters.shape[:-1], layer.in_channels, -1)
    # (out, in, *kernel) -> (*kernel, in, out)
    return tensor.movedim((0, 1), (-1, -2)).contiguous()


def _from_keras(layer: nn.Module, name: str, values: Tensor) -> Tensor:
    if name != "weight" or values.dim() == 1:
        return values
    if isinstance(layer, _ConvNd) and _is_depthwise(layer):
        return values.flatten(-2).movedim(-1, 0).unsqueeze(1)
    return values.movedim((-1, -2), (0, 1))
