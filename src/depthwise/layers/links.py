"""What modules are to a chain: convolutions with batch norms in training mode behind them, and squeeze-excites."""

from __future__ import annotations

from math import isfinite
from typing import Any, NamedTuple, TypeGuard

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from ..chains import ConvNorm, Link, SqueezeExcite
from ..functional import ActivationName, activation_of
from ..geometry import IntOrTuple, Padding
from ..modules import STANDS_FOR, computes_as, is_watched
from .activations import UNKNOWN, activation_name
from .conversion import CONVOLUTIONS
from .depthwise import DEPTHWISE, weight_and_bias
from .pointwise import is_padded

NORMS = {4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
_DEPTHWISE, _CONVOLUTIONS = frozenset(DEPTHWISE.values()), frozenset(CONVOLUTIONS.values())
# Of timm: a batch norm, `drop`, then `act`.
_NORM_AND_ACTIVATION = "timm.layers.norm_act", "BatchNormAct2d"
# Of a chain: what a node keeps goes when all its gradients are there. A block of EfficientNets has as many.
_MOST_LINKS = 4
# What they call a convolution, an activation, a convolution and an activation.
_SQUEEZE_EXCITES = {
    ("timm.models._efficientnet_blocks", "SqueezeExcite"): ("conv_reduce", "act1", "conv_expand", "gate"),
    ("torchvision.ops.misc", "SqueezeExcitation"): ("fc1", "activation", "fc2", "scale_activation"),
    ("depthwise.blocks", "SqueezeExcite"): ("reduce", "activation", "expand", "gate"),
}


class _Convolution(NamedTuple):
    """A depthwise convolution, or a pointwise one, whose window is None; as `ConvNorm` begins."""

    weight: Tensor
    bias: Tensor | None
    window: tuple[IntOrTuple, Padding, IntOrTuple] | None
    groups: int


class _Biased(_Convolution):
    bias: Tensor


class TrainedNorm(NamedTuple):
    """A batch norm in training mode; as `ConvNorm` goes on."""

    weight: Tensor | None
    bias: Tensor | None
    running: tuple[Tensor, Tensor] | None
    counted: Tensor | None
    momentum: float
    eps: float


def links_from(parts: list[nn.Module], index: int) -> tuple[list[Link], int]:
    """What one node can stand for, from one place on, and how many modules it is.

    Convolutions with batch norms in training mode behind them, and squeeze-excites between them.
    """
    links: list[Link] = []
    first = index
    while index < len(parts) and len(links) < _MOST_LINKS:
        gate = _squeeze_excite_of(parts[index]) if links else None
        if gate is not None:
            links.append(gate)
            index += 1
            continue
        if index + 1 == len(parts):
            break
        convolution = _convolution_of(parts[index])
        norm, known = (None, None) if convolution is None else _norm_of(parts[index + 1], convolution.weight.dim())
        if convolution is None or norm is None:
            break
        index += 2
        if known is UNKNOWN and index < len(parts) and not is_seen(parts[index]):
            known = activation_name(parts[index])
            index += known is not UNKNOWN
        activation = activation_of(None if known is UNKNOWN else known)
        weight, bias, running, counted, momentum, eps = norm
        links.append(ConvNorm(*convolution, weight, bias, running, counted, momentum, eps, activation))
    return links, index - first


def _convolution_of(module: Any) -> _Convolution | None:
    """A depthwise or pointwise convolution that the backends run; None of other modules."""
    if not isinstance(module, _ConvNd) or is_seen(module) or module.padding_mode != "zeros" or module.transposed:
        return None
    kind = type(module)
    is_ours = kind in _DEPTHWISE
    # Of torch's own classes, which most stand for, nothing more is to be asked.
    plain = kind.__bases__[0] if STANDS_FOR in kind.__dict__ else kind
    if not is_ours and plain not in _CONVOLUTIONS and computes_as(kind, *_CONVOLUTIONS) is None:
        return None
    weight, bias = weight_and_bias(module)
    one = (1,) * len(module.kernel_size)
    # A window of one pixel is a depthwise one where the layer's own forward calls it so: sums are in its order.
    is_depthwise = is_ours or (hasattr(kind, STANDS_FOR) and module.groups == module.in_channels > 1)
    if weight.shape[2:] == one and module.stride == one and not is_padded(module) and not is_depthwise:
        return _Convolution(weight, bias, None, module.groups)
    # Torch's own depthwise ones stay torch's where nobody asked for others.
    if not is_depthwise or (not is_ours and type(module.padding) is not tuple):
        return None
    if weight.shape[1] != 1:
        return None
    return _Convolution(weight, bias, (module.stride, module.padding, module.dilation), module.groups)


def _norm_of(module: nn.Module, dims: int) -> tuple[TrainedNorm | None, Any]:
    """What a batch norm in training mode is made of, and the activation within it, or UNKNOWN where there is none.

    dims: of what it normalises
    """
    if is_seen(module) or not isinstance(module, NORMS.get(dims, ())):
        return None, UNKNOWN
    if is_batch_norm(module):
        return trained_norm(module), UNKNOWN
    known = activation_within(module)
    return (None, known) if known is UNKNOWN else (trained_norm(module), known)


def activation_within(module: Any) -> ActivationName:
    """The activation in a timm BatchNormAct2d, behind nothing else; UNKNOWN of other modules."""
    kind = _plain_kind(module)
    if (kind.__module__, kind.__name__) != _NORM_AND_ACTIVATION:
        return UNKNOWN  # type: ignore[no-any-return]
    drop, act = module._modules.get("drop"), module._modules.get("act")
    if type(drop) is not nn.Identity or act is None or is_seen(act) or is_seen(drop):
        return UNKNOWN  # type: ignore[no-any-return]
    return activation_name(act)


def is_batch_norm(module: nn.Module) -> bool:
    """Whether a module computes what one of torch's batch norms of images or volumes does."""
    return computes_as(type(module), *NORMS.values()) is not None


def trained_norm(norm: nn.Module) -> TrainedNorm | None:
    """What a batch norm is in training mode; None where torch's operators compute it."""
    own: dict[str, Any] = norm.__dict__
    if not own["training"]:
        return None
    buffers = own["_buffers"]
    mean, var = buffers.get("running_mean"), buffers.get("running_var")
    momentum, eps, tracks = own["momentum"], own["eps"], own["track_running_stats"]
    # Statistics that are averaged over all batches, or kept and not tracked, are torch's.
    if type(eps) is not float or eps <= 0 or (mean is None) != (var is None) or tracks != (mean is not None):
        return None
    if tracks and not (isinstance(momentum, float | int) and isfinite(momentum)):
        return None
    weight, bias = weight_and_bias(norm)
    running = (mean, var) if tracks else None
    counted = buffers.get("num_batches_tracked") if tracks else None
    return TrainedNorm(weight, bias, running, counted, float(momentum or 0.0), eps)


def _squeeze_excite_of(module: Any) -> SqueezeExcite | None:
    """The squeeze-excite that a module is; None of others, and where something sees a part of it."""
    kind = _plain_kind(module)
    names = _SQUEEZE_EXCITES.get((kind.__module__, kind.__name__))
    if names is None or is_seen(module) or "_scale" in module.__dict__:
        return None
    own = module._modules
    pool = own.get("avgpool")
    if pool is not None and not is_mean(pool):
        return None
    parts = [own.get(name) for name in names]
    if None in parts or any(map(is_seen, parts)):
        return None
    reduce, first, expand, last = parts
    pairs = [(each.weight, each.bias) for each in map(_convolution_of, (reduce, expand)) if _mixes(each)]
    known = [activation_of(name) for name in map(activation_name, (first, last)) if name is not UNKNOWN]
    if len(pairs) < 2 or len(known) < 2:
        return None
    return SqueezeExcite(pairs[0], pairs[1], (known[0], known[1]))


def _mixes(convolution: _Convolution | None) -> TypeGuard[_Biased]:
    """Whether a convolution is pointwise, mixes all channels and has a bias."""
    return convolution is not None and convolution[2:] == (None, 1) and convolution.bias is not None


def is_mean(pool: nn.Module) -> bool:
    """Whether a pooling takes the mean of each image."""
    return type(pool) is nn.AdaptiveAvgPool2d and pool.output_size in (1, (1, 1)) and not is_seen(pool)


def _plain_kind(module: nn.Module) -> type:
    """The class of a module without those that stand for it."""
    return next(cls for cls in type(module).__mro__ if STANDS_FOR not in cls.__dict__)


def is_seen(module: nn.Module) -> bool:
    """Whether something sees the calls of a module, or stands for them."""
    return is_watched(module.__dict__)
