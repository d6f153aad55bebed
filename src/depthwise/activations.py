"""The activations that have a name, in one table: layers, functional forms and backends read it.

Another one is a row here and, in each backend that generates code, an emitter; a backend without one refuses it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Named:
    """What torch has of an activation.

    function: of (x, slope)
    module:   the class that computes it, where its attributes are those of `settings`
    slope:    the default, of those that have one; `slope_attribute` of the module holds its own
    """

    function: Callable[[Tensor, float], Tensor]
    module: type[nn.Module]
    slope: float | None = None
    slope_attribute: str = ""
    settings: tuple[tuple[str, object], ...] = ()

    def is_computed_by(self, module: nn.Module) -> bool:
        """Whether a module of the class is set as this activation is."""
        for name, value in self.settings:  # noqa: SIM110  called for each call of a layer
            if getattr(module, name) != value:
                return False
        return True


ACTIVATIONS: dict[str, Named] = {
    "relu": Named(lambda x, _: F.relu(x), nn.ReLU),
    "relu6": Named(lambda x, _: F.relu6(x), nn.ReLU6, settings=(("min_val", 0), ("max_val", 6))),
    "silu": Named(lambda x, _: F.silu(x), nn.SiLU),
    "hardswish": Named(lambda x, _: F.hardswish(x), nn.Hardswish),
    "hardsigmoid": Named(lambda x, _: F.hardsigmoid(x), nn.Hardsigmoid),
    "sigmoid": Named(lambda x, _: F.sigmoid(x), nn.Sigmoid),
    "gelu": Named(lambda x, _: F.gelu(x), nn.GELU, settings=(("approximate", "none"),)),
    "leaky_relu": Named(F.leaky_relu, nn.LeakyReLU, slope=0.01, slope_attribute="negative_slope"),
    "elu": Named(F.elu, nn.ELU, slope=1.0, slope_attribute="alpha"),
}
