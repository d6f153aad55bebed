"""What the functional forms call the activation that a module is."""

from __future__ import annotations

from collections.abc import Callable
from math import isfinite
from typing import Any

from torch import nn

from ..activations import ACTIVATIONS, Named
from ..functional import ActivationName
from ..modules import computes_as

# What they have no name for.
UNKNOWN: Any = object()


def activation_name(module: nn.Module) -> ActivationName:
    """What the functional forms call a module, or UNKNOWN."""
    name_of = _ACTIVATIONS.get(type(module))
    if name_of is None:
        base = computes_as(type(module), *_ACTIVATIONS)
        if base is None:
            return UNKNOWN  # type: ignore[no-any-return]
        name_of = _ACTIVATIONS[base]
    return name_of(module)


def _sloped(name: str, slope: object) -> ActivationName:
    # A number that a kernel can be made of; torch also takes NaN, and tensors that may change.
    return (name, slope) if type(slope) is float and isfinite(slope) else UNKNOWN


def _named(name: str, row: Named) -> Callable[[Any], ActivationName]:
    """What the functional forms call a module of the row's class."""
    if row.slope is not None:
        return lambda module: _sloped(name, getattr(module, row.slope_attribute))
    # Looked at in each call, as a module may be set anew.
    return (lambda module: name if row.is_computed_by(module) else UNKNOWN) if row.settings else lambda _: name


_ACTIVATIONS: dict[type[nn.Module], Callable[[Any], ActivationName]] = {
    **{row.module: _named(name, row) for name, row in ACTIVATIONS.items()},
    nn.Identity: lambda _: None,
}
