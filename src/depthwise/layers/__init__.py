"""Layers, with torch's leading arguments in torch's order."""

from .depthwise import DepthwiseConv1d, DepthwiseConv2d, DepthwiseConv3d
from .lazy import (
    LazyDepthwiseConv1d,
    LazyDepthwiseConv2d,
    LazyDepthwiseConv3d,
    LazySeparableConv1d,
    LazySeparableConv2d,
    LazySeparableConv3d,
)
from .separable import SeparableConv1d, SeparableConv2d, SeparableConv3d
from .transposed import SeparableConvTranspose1d, SeparableConvTranspose2d, SeparableConvTranspose3d

__all__ = [
    "DepthwiseConv1d",
    "DepthwiseConv2d",
    "DepthwiseConv3d",
    "LazyDepthwiseConv1d",
    "LazyDepthwiseConv2d",
    "LazyDepthwiseConv3d",
    "LazySeparableConv1d",
    "LazySeparableConv2d",
    "LazySeparableConv3d",
    "SeparableConv1d",
    "SeparableConv2d",
    "SeparableConv3d",
    "SeparableConvTranspose1d",
    "SeparableConvTranspose2d",
    "SeparableConvTranspose3d",
]
