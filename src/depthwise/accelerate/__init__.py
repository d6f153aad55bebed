"""Models of torch's own modules on kernels of ours, in place: training and all."""

from .accelerating import accelerate_, restore_, survey
from .report import AcceleratedModule, Acceleration

__all__ = ["AcceleratedModule", "Acceleration", "accelerate_", "restore_", "survey"]
