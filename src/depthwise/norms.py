"""A batch norm that normalises with the batch's own statistics, with the activation behind it: in one pass, or not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from .backends.calls import Seen
from .backends.formats import LAST
from .backends.problem import Activation
from .refusals import foreign, refusal

if TYPE_CHECKING:
    from .backends.cpu.norms import Norm

_FORMATS = {rank + 2: form for rank, form in LAST.items()}
_seen: Seen[Norm] = Seen()


def batch_norm(
    x: Tensor,
    running: tuple[Tensor, Tensor] | None,
    weight: Tensor | None,
    bias: Tensor | None,
    momentum: float,
    eps: float,
    activation: Activation = None,
    residual: Tensor | None = None,
    counted: Tensor | None = None,
) -> Tensor | None:
    """`x` normalised with its own mean and variance by channel, `residual` added, activated; None where torch must.

    x, residual, out: (batch, channels, *spatial) in float32, channels-last or contiguous
    running:          mean and variance, (channels,) each, which move by `momentum` to the batch's
    weight, bias:     (channels,) or None
    counted:          how many batches there were, one more afterwards

    The numbers are torch's within rounding, and do not depend on the number of threads.
    """
    tensors = weight, bias, residual, *(running or ())
    moves = None if running is None else momentum
    key = id(weight), eps, activation, bias is None, residual is None, moves
    read = [x, *(tensor for tensor in tensors if tensor is not None)]
    norm = _seen.found(key, read)
    if norm is None:
        if norm_refusal(x, running, weight, bias, residual) is not None:
            return None
        from .backends.cpu.norms import norm_of

        norm = norm_of(x, eps, activation, residual=residual is not None, momentum=moves)
        if norm is None:
            return None
        _seen.keep(key, read, norm)
    return norm.run(x, weight, bias, residual, running, counted)[0]


def norm_refusal(
    x: Tensor,
    running: tuple[Tensor, Tensor] | None,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
) -> str | None:
    """Why torch's operators compute a batch norm in training mode, or None where kernels of ours do."""
    why = refusal(x) if residual is None else refusal(x, residual)
    if why is not None:
        return why
    if x.dim() not in _FORMATS or not _is_dense(x):
        return "the input is neither channels-last nor contiguous"
    if x.numel() <= x.shape[1]:
        return "there is one pixel"
    if residual is not None and (residual.shape != x.shape or residual.stride() != x.stride()):
        return "the residual does not lie as the input does"
    # Numbers by channel are looked at less: each look takes as long as the smallest norms.
    for tensor in (weight, bias, *(running or ())):
        why = None if tensor is None else foreign(tensor) or not_by_channel(tensor, x.shape[1])
        if why is not None:
            return why
    return None


def _is_dense(x: Tensor) -> bool:
    return x.is_contiguous(memory_format=_FORMATS[x.dim()]) or x.is_contiguous()


def not_by_channel(tensor: Tensor, channels: int) -> str | None:
    is_one_each = tensor.shape == (channels,) and (channels == 1 or tensor.stride(0) == 1)
    return None if is_one_each else "a weight or a statistic is not one number a channel"
