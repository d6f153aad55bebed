"""Trained dense networks made depthwise separable, keeping what they learned."""

from .distillation import Distillation, distill
from .losses import divergence, relative_squares
from .report import Evaluated, FrontierPoint, LayerSeparation, Separation
from .separating import separate_, separated_like

__all__ = [
    "Distillation",
    "Evaluated",
    "FrontierPoint",
    "LayerSeparation",
    "Separation",
    "distill",
    "divergence",
    "relative_squares",
    "separate_",
    "separated_like",
]
