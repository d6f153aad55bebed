"""Squeeze-excites of timm and torchvision: their means and products on kernels of ours, what lies between as it is."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn.modules.module import _has_any_global_hook

from ..gates import squeeze_excite
from ..layers.links import is_mean
from .classes import Forward, Known
from .norms import is_traced


def timm_forward(kind: Any) -> Forward:
    def forward(self: Any, x: Any) -> Any:
        def factors(means: Tensor) -> Any:
            return self.gate(self.conv_expand(self.act1(self.conv_reduce(means))))

        out = None if is_traced(x) else squeeze_excite(x, factors)
        return kind.forward(self, x) if out is None else out

    return forward


def torchvision_forward(kind: Any) -> Forward:
    def forward(self: Any, input: Any) -> Any:  # noqa: A002  as torchvision calls it
        def factors(means: Tensor) -> Any:
            return self.scale_activation(self.fc2(self.activation(self.fc1(means))))

        is_whole = is_traced(input) or _has_any_global_hook() or "_scale" in self.__dict__ or not is_mean(self.avgpool)
        out = None if is_whole else squeeze_excite(input, factors)
        return kind.forward(self, input) if out is None else out

    return forward


GATES: Known = {
    ("timm.models._efficientnet_blocks", "SqueezeExcite"): ("squeeze-excite", timm_forward),
    ("torchvision.ops.misc", "SqueezeExcitation"): ("squeeze-excite", torchvision_forward),
}
