"""Dense convolutional networks to separate, and data for them."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def convolutional(*, bias: bool = False) -> nn.Sequential:
    """Three dense 3x3 convolutions with batch norms whose statistics fit `images`, then a classifier; eval mode."""

    def conv(in_channels: int, out_channels: int, stride: int = 1) -> list[nn.Module]:
        layer = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=bias)
        return [layer, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True)]

    model = nn.Sequential(
        *conv(3, 8), *conv(8, 16, 2), *conv(16, 24), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 5)
    )
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.momentum = None
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias, std=0.3)
    with torch.no_grad():
        model.train()(images(64))
    return model.eval()


def images(count: int = 64, channels: int = 3, size: int = 12, seed: int = 7) -> Tensor:
    """Smooth noise: neighbouring pixels agree, as those of images do."""
    draw = torch.Generator().manual_seed(seed)
    noise = torch.randn(count, channels, size, size, generator=draw)
    return 2 * nn.functional.avg_pool2d(noise, 3, 1, 1) + 0.3 * noise
