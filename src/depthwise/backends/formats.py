"""The memory format that a convolution's result has."""

from __future__ import annotations

import torch
from torch import Tensor
from torch._prims_common import suggest_memory_format


def memory_format_of(x: Tensor, *weights: Tensor) -> torch.memory_format:
    """That of torch's own convolutions: channels-last where the input's strides say so, or those of a weight."""
    last = {2: torch.channels_last, 3: torch.channels_last_3d}.get(x.dim() - 2)
    if last is None or not any(suggest_memory_format(tensor) == last for tensor in (x, *weights)):
        return torch.contiguous_format
    return last
