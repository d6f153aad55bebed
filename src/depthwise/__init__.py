"""Depthwise separable convolutions for PyTorch that run as fast as their arithmetic promises."""

from . import blocks, functional
from .backends import backend
from .backends.recall import repack_
from .count import count
from .errors import DepthwiseError
from .explain import explain
from .layers import (
    DepthwiseConv1d,
    DepthwiseConv2d,
    DepthwiseConv3d,
    SeparableConv1d,
    SeparableConv2d,
    SeparableConv3d,
)
from .optimize import load_optimized, optimize
from .preparing import prepare
from .separate import distill, separate_, separated_like

__all__ = [
    "DepthwiseConv1d",
    "DepthwiseConv2d",
    "DepthwiseConv3d",
    "DepthwiseError",
    "SeparableConv1d",
    "SeparableConv2d",
    "SeparableConv3d",
    "backend",
    "blocks",
    "count",
    "distill",
    "explain",
    "functional",
    "load_optimized",
    "optimize",
    "prepare",
    "repack_",
    "separate_",
    "separated_like",
]
