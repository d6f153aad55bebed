"""Whole networks: captured, simplified, and run by this library's kernels where it has them."""

from .file import load_optimized
from .module import Optimized
from .frozen import optimize

__all__ = ["Optimized", "load_optimized", "optimize"]
