"""Why torch's operators compute what is made of tensors in training, or None where kernels of ours do."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .backends import asked_backend
from .backends.cpu import machine_refusal
from .backends.tensors import is_foreign, is_listened_to, why_not_memory


def refusal(*tensors: Any) -> str | None:
    """Asked before anything else is asked of them: transforms have no words for how a tensor lies."""
    if torch.compiler.is_compiling() or is_listened_to():
        return "something sees or rewrites operators"
    for tensor in tensors:
        why = foreign(tensor) or why_not_memory(tensor)
        if why is not None:
            return why
    if asked_backend() not in (None, "cpu"):
        return "another backend is asked for"
    return machine_refusal()


def foreign(tensor: Any) -> str | None:
    """Why a tensor is none that kernels read: float32, strided, on the CPU, with memory of its own."""
    if not isinstance(tensor, Tensor) or is_foreign(tensor):
        return f"a tensor is a {type(tensor).__name__}"
    if tensor.dtype != torch.float32 or not tensor.is_cpu or tensor.layout != torch.strided:
        return f"a tensor is {tensor.dtype} on {tensor.device}, not torch.float32 on cpu"
    if tensor.is_neg():
        return "a tensor is a view that negates"
    return None if tensor.data_ptr() else "a tensor has no memory"
