"""A batch norm that normalises with the batch's own statistics, with the activation behind it: in one pass, or not."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .backends import asked_backend
from .backends.cpu import machine_refusal
from .backends.formats import LAST
from .backends.problem import Activation
from .backends.tensors import is_foreign, is_listened_to, why_not_memory

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

    found = norm_activation(x, weight, bias, residual, eps, activation, running, momentum, counted)
    return None if found is None else found[0]


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
    for tensor in (x, residual):
        why = None if tensor is None else _foreign(tensor) or why_not_memory(tensor)
        if why is not None:
            return why
    # Numbers by channel are looked at less: each look takes as long as the smallest norms.
    for tensor in (weight, bias, *(running or ())):
        why = None if tensor is None else _foreign(tensor) or _not_by_channel(tensor, x.shape[1])
        if why is not None:
            return why
    if asked_backend() not in (None, "cpu"):
        return "another backend is asked for"
    return machine_refusal()


def _not_by_channel(tensor: Tensor, channels: int) -> str | None:
    is_one_each = tensor.shape == (channels,) and (channels == 1 or tensor.stride(0) == 1)
    return None if is_one_each else "a weight or a statistic is not one number a channel"


def _foreign(tensor: Any) -> str | None:
    if is_foreign(tensor):
        return f"a tensor is a {type(tensor).__name__}"
    if tensor.dtype != torch.float32 or not tensor.is_cpu or tensor.layout != torch.strided:
        return f"a tensor is {tensor.dtype} on {tensor.device}, not torch.float32 on cpu"
    if tensor.is_neg():
        return "a tensor is a view that negates"
    return None if tensor.data_ptr() else "a tensor has no memory"
