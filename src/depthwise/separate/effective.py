"""Convolutions of classes of their own, read as torch's: those that compute with other weights than they have.

Such a layer is called on random inputs of two sizes. The weight and bias that it gives torch's convolution are its
effective ones where torch's own layer with them gives the same for both, so that nothing of them hangs on the input.
"""

from __future__ import annotations

from collections import Counter
from copy import deepcopy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils.parametrize import is_parametrized
from torch.overrides import TorchFunctionMode

from ..layers.conversion import CONVOLUTIONS
from ..layers.depthwise import DEPTHWISE
from ..modules import computes_as, is_watched
from .building import replace_

# Of the largest output: what another order of sums may change.
TOLERANCE = 1e-4
_CALLS: tuple[Any, ...] = (F.conv1d, F.conv2d, F.conv3d)


class _Convolved(TorchFunctionMode):
    """The weight and bias of each call of torch's convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[Tensor, Tensor | None]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = kwargs or {}
        if func in _CALLS:
            weight = args[1] if len(args) > 1 else given["weight"]
            self.seen.append((weight, args[2] if len(args) > 2 else given.get("bias")))
        return func(*args, **given)


def as_plain(model: nn.Module) -> nn.Module:
    """`model`, or a copy with torch's own layers where it has others that compute the same.

    Layers that share a parameter, and those that something sees or parametrises, stay.
    """
    found = {name: plain for name, conv in _foreign(model) if (plain := effective(conv)) is not None}
    if not found:
        return model
    copy = deepcopy(model)
    for name, plain in found.items():
        replace_(copy, name, plain)
    return copy


def _foreign(model: nn.Module) -> list[tuple[str, _ConvNd]]:
    used = Counter(id(parameter) for module in model.modules() for parameter in module._parameters.values())
    return [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, _ConvNd)
        and isinstance(module, (*CONVOLUTIONS.values(),))
        and not isinstance(module, (*DEPTHWISE.values(),))
        and computes_as(type(module), *CONVOLUTIONS.values()) is None
        and not (is_watched(module.__dict__) or is_parametrized(module))
        and all(used[id(parameter)] == 1 for parameter in module.parameters())
    ]


def effective(conv: _ConvNd) -> _ConvNd | None:
    """Torch's own layer that computes what `conv` does; None where there is none, or it cannot be told."""
    if conv.weight.is_meta or not conv.weight.is_floating_point():
        return None
    reach = max(d * (k - 1) + 1 for k, d in zip(conv.kernel_size, conv.dilation, strict=True))
    outputs = [_called(conv, reach + more) for more in (8, 13)]
    if None in outputs:
        return None
    known: list[Any] = outputs
    weight, bias = known[0][2]
    paddings = [conv.padding, *(["same"] if set(conv.stride) == {1} else [])]
    for padding in paddings:
        plain = _plain(conv, weight, bias, padding)
        if plain is not None and all(_is_close(plain(x), y) for x, y, _ in known):
            return plain
    return None


def _called(conv: _ConvNd, size: int) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor | None]] | None:
    """An input of so many pixels a side, what `conv` makes of it, and the weight and bias of its one convolution."""
    generator = torch.Generator().manual_seed(size)
    x = torch.randn(2, conv.in_channels, *(size,) * len(conv.kernel_size), generator=generator).to(conv.weight)
    convolved = _Convolved()
    # A class of the user's may want other inputs, or raise what it likes, or write down what it was called with.
    try:
        with torch.no_grad(), convolved:
            y = deepcopy(conv)(x)
    except Exception:  # noqa: BLE001
        return None
    if len(convolved.seen) != 1 or type(y) is not Tensor:
        return None
    return x, y, convolved.seen[0]


def _plain(conv: _ConvNd, weight: Tensor, bias: Tensor | None, padding: Any) -> _ConvNd | None:
    if weight.shape != conv.weight.shape:
        return None
    plain: _ConvNd = CONVOLUTIONS[len(conv.kernel_size)](
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,
        conv.stride,
        padding,
        conv.dilation,
        conv.groups,
        bias is not None,
        conv.padding_mode,
        device="meta",
    )
    plain.weight = nn.Parameter(weight.detach().clone(), conv.weight.requires_grad)
    if bias is not None:
        plain.bias = nn.Parameter(bias.detach().clone(), conv.weight.requires_grad)
    return plain.train(conv.training)


def _is_close(found: Tensor, expected: Tensor) -> bool:
    return found.shape == expected.shape and bool((found - expected).abs().max() <= TOLERANCE * expected.abs().max())
