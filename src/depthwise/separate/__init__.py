"""Trained dense networks made depthwise separable, keeping what they learned."""

from .distillation import Distillation, distill
from .report import LayerSeparation, Separation
from .separating import separate_, separated_like

__all__ = ["Distillation", "LayerSeparation", "Separation", "distill", "separate_", "separated_like"]
