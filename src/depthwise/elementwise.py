"""An activation alone, on kernels of ours or not."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .backends.problem import Activation
from .refusals import refusal


def activation(x: Any, known: Activation) -> Tensor | None:
    """`x` activated; None where torch must.

    x: float32, contiguous, or an image or a volume in channels-last
    """
    if refusal(x) is not None:
        return None
    from .backends.cpu.activations import activated, is_dense

    found = activated(x, known) if is_dense(x) else None
    return None if found is None else found.run(x)
