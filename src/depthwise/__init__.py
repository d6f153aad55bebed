"""Depthwise separable convolutions for PyTorch that run as fast as their arithmetic promises."""

from . import blocks, functional
from . import keras as keras
from .accelerate import Acceleration as Acceleration
from .accelerate import accelerate_, restore_
from .backends import backend
from .backends.weights import repack_
from .count import count
from .errors import DepthwiseError
from .explain import explain
from .layers import (
    DepthwiseConv1d,
    DepthwiseConv2d,
    DepthwiseConv3d,
    LazyDepthwiseConv1d,
    LazyDepthwiseConv2d,
    LazyDepthwiseConv3d,
    LazySeparableConv1d,
    LazySeparableConv2d,
    LazySeparableConv3d,
    SeparableConv1d,
    SeparableConv2d,
    SeparableConv3d,
    SeparableConvTranspose1d,
    SeparableConvTranspose2d,
    SeparableConvTranspose3d,
)
from .optimize import load_optimized, optimize
from .preparing import prepare
from .separate import Distillation as Distillation
from .separate import Separation as Separation
from .separate import distill, separate_, separated_like
from .version import __version__ as __version__

__all__ = [
    "DepthwiseConv1d",
    "DepthwiseConv2d",
    "DepthwiseConv3d",
    "DepthwiseError",
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
    "accelerate_",
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
    "restore_",
    "separate_",
    "separated_like",
]
