"""Depthwise separable convolutions for PyTorch that run as fast as their arithmetic promises."""

from .errors import DepthwiseError

__all__ = ["DepthwiseError"]
