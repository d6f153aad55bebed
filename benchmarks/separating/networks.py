"""The three dense networks, small enough for two cores: a straight one, one with shortcuts, one with branches."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CLASSES = 10


def conv(in_channels: int, out_channels: int, kernel_size: int = 3, stride: int = 1) -> nn.Sequential:
    layer = nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(out_channels), nn.ReLU())


def head(channels: int) -> nn.Sequential:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, CLASSES))


def vgg() -> nn.Module:
    """Six 3x3 convolutions (after VGG, arXiv 1409.1556)."""
    return nn.Sequential(
        *(conv(1, 32), conv(32, 32), nn.MaxPool2d(2)),
        *(conv(32, 64), conv(64, 64), nn.MaxPool2d(2)),
        *(conv(64, 128), conv(128, 128), head(128)),
    )


class Residual(nn.Module):
    """Two 3x3 convolutions beside a shortcut."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.first = conv(in_channels, out_channels, 3, stride)
        self.second = conv(out_channels, out_channels)[:2]
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1:
            self.shortcut = conv(in_channels, out_channels, 1, stride)[:2]

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.second(self.first(x)) + self.shortcut(x))


def resnet() -> nn.Module:
    """Twenty layers with weights, shortcuts left out (ResNet, arXiv 1512.03385, section 4.2), 16 to 64 channels."""
    blocks = [Residual(16, 16, 1) for _ in range(3)]
    blocks += [Residual(16, 32, 2), Residual(32, 32, 1), Residual(32, 32, 1)]
    blocks += [Residual(32, 64, 2), Residual(64, 64, 1), Residual(64, 64, 1)]
    return nn.Sequential(conv(1, 16), *blocks, head(64))


class Branches(nn.Module):
    """1x1, 3x3 and 5x5 convolutions and a pooling side by side (Inception, arXiv 1409.4842, figure 2b)."""

    def __init__(self, in_channels: int, one: int, three: tuple[int, int], five: tuple[int, int], pool: int) -> None:
        super().__init__()
        self.one = conv(in_channels, one, 1)
        self.three = nn.Sequential(conv(in_channels, three[0], 1), conv(*three, 3))
        self.five = nn.Sequential(conv(in_channels, five[0], 1), conv(*five, 5))
        self.pool = nn.Sequential(nn.MaxPool2d(3, 1, 1), conv(in_channels, pool, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.one(x), self.three(x), self.five(x), self.pool(x)], 1)


def inception() -> nn.Module:
    """Three blocks of branches."""
    return nn.Sequential(
        *(conv(1, 32), nn.MaxPool2d(2), conv(32, 64)),
        *(Branches(64, 24, (32, 48), (16, 32), 24), Branches(128, 32, (48, 64), (24, 48), 32), nn.MaxPool2d(2)),
        *(Branches(176, 48, (64, 96), (32, 64), 48), head(256)),
    )


NETWORKS: dict[str, Callable[[], nn.Module]] = {"vgg": vgg, "resnet": resnet, "inception": inception}
