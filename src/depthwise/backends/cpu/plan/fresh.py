"""Weights that are packed by the program that reads them: where each goes."""

from __future__ import annotations

from dataclasses import dataclass

from .constants import Plan
from .cut import Cut
from .filters import tap_stride
from .product import Product


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


@dataclass(frozen=True, slots=True)
class FreshPanelsPlan(Plan):
    """Pointwise weights, in the panels that a product reads.

    turned: those of the convolution whose input's gradient the product is: (terms, outputs) in each group
    bias:   there is one; else zeros stand in its place
    """

    groups: int
    terms: int
    group_outputs: int
    lanes: int
    vectors: int
    turned: bool
    bias: bool

    @property
    def name(self) -> str:
        size = f"n{self.group_outputs}k{self.terms}g{self.groups}x{self.vectors}v{self.lanes}"
        return f"{size}{'t' * self.turned}{'b' * self.bias}"

    @property
    def group_vectors(self) -> int:
        """Vectors of a group; the last overlaps the one before it where channels do not fill it."""
        return -(-self.group_outputs // self.lanes)

    @property
    def elements(self) -> tuple[int, int]:
        """Of all panels, and of the bias."""
        outputs = self.groups * self.group_vectors * self.lanes
        return outputs * self.terms, outputs


def fresh_panels_plan(product: Product, *, turned: bool, bias: bool) -> FreshPanelsPlan:
    size = product.groups, product.terms, product.group_outputs
    return FreshPanelsPlan(*size, product.lanes, product.vectors, turned, bias)


@dataclass(frozen=True, slots=True, kw_only=True)
class FreshCut(Cut):
    """Blocks of filters, or vectors of output channels, are dealt out."""
