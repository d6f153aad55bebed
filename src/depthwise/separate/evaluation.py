"""A number that the user knows a network by, such as its accuracy: higher is better."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from ..errors import DepthwiseError, said
from .checks import is_finite_number

Evaluate = Callable[[nn.Module], Any]


def value_of(network: nn.Module, evaluate: Evaluate) -> float:
    """What `evaluate` gives for a network, which is in evaluation mode then and afterwards."""
    try:
        value = evaluate(network)
    except DepthwiseError:
        raise
    # The callable is the user's code, and may raise anything.
    except Exception as error:
        raise DepthwiseError(f"evaluate= failed: {said(error)}") from error
    finally:
        network.eval()
    number = value.item() if isinstance(value, Tensor) and value.numel() == 1 else value
    if not is_finite_number(number):
        raise DepthwiseError(f"evaluate= gives a finite number, higher is better; got {number!r:.80}")
    return float(number)
