"""Squeeze-excite: images times factors that are made of their means, on kernels of ours or not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .refusals import refusal

_DIMENSIONS, _FORMAT = 4, torch.channels_last


def squeeze_excite(x: Any, factors_of: Callable[[Tensor], Tensor]) -> Tensor | None:
    """`x` times the factors made of the means of its channels; None where torch must, and nothing was called.

    x, out:     (batch, channels, height, width) in float32, channels-last
    factors_of: of the means, (batch, channels, 1, 1), makes as many factors; it is called once
    """
    if refusal(x) is not None or x.dim() != _DIMENSIONS or not x.is_contiguous(memory_format=_FORMAT):
        return None
    # One pixel is its own mean.
    if x.numel() <= x.shape[1]:
        return None
    from .backends.cpu.gates import gate_of

    gate = gate_of(x)
    if gate is None:
        return None
    means, x = gate.squeeze(x)
    return gate.excite(x, factors_of(means))
