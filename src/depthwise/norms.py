"""A batch norm that normalises with the batch's own statistics, with the activation behind it: in one pass, or not."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .backends import asked_backend
from .backends.cpu import machine_refusal
from .backends.formats import LAST
from .backends.problem import Activation
from .backends.tensors import is_listened_to, why_not_memory

_FORMATS = {rank + 2: form for rank, form in LAST.items()}


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

    x, residual, out: (batch, channels, *spatial) in float32, channels-last
    running:          mean and variance, (channels,) each, which move by `momentum` to the batch's
    weight, bias:     (channels,) or None
    counted:          how many batches there were, one more afterwards

    The numbers are torch's within rounding, and do not depend on the number of threads.
    """
    if refusal(x, running, weight, bias, residual) is not None:
        return None
    from .backends.cpu.norms import norm_activation

    if counted is not None:
        counted.add_(1)
    return norm_activation(x, weight, bias, residual, eps, activation, running, momentum)[0]


def refusal(
    x: Tensor,
    running: tuple[Tensor, Tensor] | None,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
) -> str | None:
    """Why torch's operators compute a batch norm in training mode, or None where kernels of ours do."""
    if torch.compiler.is_compiling() or is_listened_to():
        return "something sees or rewrites operators"
    if not isinstance(x, Tensor) or x.dim() not in _FORMATS or not x.is_contiguous(memory_format=_FORMATS[x.dim()]):
        return "the input is not channels-last"
    if x.numel() <= x.shape[1]:
        return "there is one pixel, or none"
    if residual is not None and (residual.shape != x.shape or residual.stride() != x.stride()):
        return "the residual does not lie as the input does"
    for tensor in (x, residual, weight, bias, *(running or ())):
        if tensor is not None:
            why = _foreign(tensor, x)
            if why is not None:
                return why
    if asked_backend() not in (None, "cpu"):
        return "another backend is asked for"
    return machine_refusal()


def _foreign(tensor: Any, x: Tensor) -> str | None:
    if tensor.dtype != torch.float32 or tensor.device.type != "cpu":
        return f"a tensor is {tensor.dtype} on {tensor.device}, not torch.float32 on cpu"
    if tensor.dim() == 1 and (tensor.shape[0] != x.shape[1] or tensor.stride(0) != 1):
        return "a weight or a statistic is not one number a channel"
    if tensor.is_neg():
        return "a tensor is a view that negates"
    return why_not_memory(tensor)
