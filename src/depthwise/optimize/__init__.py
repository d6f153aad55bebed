"""Whole networks: captured, simplified, and run by this library's kernels where it has them."""

from .frozen import optimize
from .module import Optimized, load_optimized

__all__ = ["Optimized", "load_optimized", "optimize"]
