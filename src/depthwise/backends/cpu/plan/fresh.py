"""Weights that are packed by the program that reads them: where each goes."""

from __future__ import annotations

from dataclasses import dataclass

from .constants import Plan
from .cut import Cut
from .filters import tap_stride


@dataclass(frozen=True, slots=True)
class FreshPlan(Plan):
    """Weights of `filters` filters of `taps` taps each, as kernels read them.

    turned: the taps of each filter in the opposite order
    bias:   there is one; else zeros stand in its place
    """

    filters: int
    taps: int
    lanes: int
    turned: bool
    bias: bool

    @property
    def name(self) -> str:
        return f"c{self.filters}k{self.taps}v{self.lanes}{'t' * self.turned}{'b' * self.bias}"

    @property
    def tap_stride(self) -> int:
        return tap_stride(self.filters, self.taps)


@dataclass(frozen=True, slots=True, kw_only=True)
class FreshCut(Cut):
    """Blocks of filters are dealt out."""
