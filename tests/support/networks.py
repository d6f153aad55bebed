"""Networks to test with: timm's, and small ones that show one thing each."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

# torchvision's compiled operators do not load beside every CPU build of torch, and timm asks for two of them when it is
# imported. Those that stand in for them live as long as this object.
_OPERATORS = torch.library.Library("torchvision", "FRAGMENT")


def timm_model(name: str) -> nn.Module:
    """One of timm's networks, on the meta device: without memory for its weights."""
    _load_compiled_operators()
    for operator in ("nms", "qnms"):
        if not _defined(operator):
            _OPERATORS.define(f"{operator}(Tensor a, Tensor b, float c) -> Tensor")
    import timm

    with torch.device("meta"):
        model: nn.Module = timm.create_model(name)
    return model.eval()


def _load_compiled_operators() -> None:
    found = find_spec("torchvision")
    assert found is not None
    assert found.origin is not None
    for library in Path(found.origin).parent.glob("_C*.so"):
        with suppress(OSError):
            torch.ops.load_library(library)


def _defined(operator: str) -> bool:
    try:
        getattr(torch.ops.torchvision, operator)
    except AttributeError:
        return False
    return True


class Calls(nn.Module):
    """A module whose forward is a function; modules given by keyword are its children."""

    def __init__(self, function: Callable[..., Any], **children: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, child in children.items():
            self.add_module(name, child)

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(*inputs, **dict(self.named_children()))


class SqueezeExcite(nn.Module):
    """Scale each channel by a number computed from the means of all."""

    def __init__(self, channels: int, reduced: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, reduced, 1)
        self.expand = nn.Conv2d(reduced, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        gate = x.mean((2, 3), keepdim=True)
        return x * torch.sigmoid(self.expand(torch.relu(self.reduce(gate))))


class InvertedResidual(nn.Module):
    """MobileNetV2's block with MobileNetV3's squeeze-excite where `squeeze` is given."""

    def __init__(self, channels: int, expanded: int, squeeze: int = 0) -> None:
        super().__init__()
        self.expand = nn.Sequential(nn.Conv2d(channels, expanded, 1, bias=False), nn.BatchNorm2d(expanded), nn.ReLU6())
        self.depthwise = nn.Sequential(
            nn.Conv2d(expanded, expanded, 3, padding=1, groups=expanded, bias=False),
            nn.BatchNorm2d(expanded),
            nn.ReLU6(inplace=True),
        )
        self.squeeze = SqueezeExcite(expanded, squeeze) if squeeze else nn.Identity()
        self.project = nn.Sequential(nn.Conv2d(expanded, channels, 1, bias=False), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.project(self.squeeze(self.depthwise(self.expand(x))))
        return x + out
