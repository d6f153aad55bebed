"""Layers, with torch's leading arguments in torch's order."""

from .depthwise import DepthwiseConv1d, DepthwiseConv2d, DepthwiseConv3d
from .separable import SeparableConv1d, SeparableConv2d, SeparableConv3d

__all__ = [
    "DepthwiseConv1d",
    "DepthwiseConv2d",
    "DepthwiseConv3d",
    "SeparableConv1d",
    "SeparableConv2d",
    "SeparableConv3d",
]
