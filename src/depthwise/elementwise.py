"""An activation alone, on kernels of ours or not."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .backends import asked_backend
from .backends.cpu import machine_refusal
from .backends.problem import Activation
from .backends.tensors import is_foreign, is_listened_to, why_not_memory


def activation(x: Any, known: Activation) -> Tensor | None:
    """`x` activated; None where torch must.

    x: float32, contiguous, or an image or a volume in channels-last
    """
    if torch.compiler.is_compiling() or not isinstance(x, Tensor) or is_listened_to() or is_foreign(x):
        return None
    if x.dtype != torch.float32 or not x.numel() or why_not_memory(x) is not None or x.is_neg():
        return None
    if asked_backend() not in (None, "cpu") or machine_refusal() is not None:
        return None
    from .backends.cpu.activations import activated, is_dense

    found = activated(x, known) if is_dense(x) else None
    return None if found is None else found.run(x)
