"""What a separable convolution costs beside the dense one, in numbers and as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property

from ..cost import SeparableCost, closed_form_ratio, separable_cost
from ..geometry import Geometry, IntOrTuple, Padding, geometry, positive
from . import arithmetic, page, picture

__all__ = ["Explanation", "explain"]


def explain(
    input_size: Sequence[int],
    out_channels: int,
    kernel_size: IntOrTuple,
    stride: IntOrTuple = 1,
    padding: Padding = 0,
    dilation: IntOrTuple = 1,
    *,
    depth_multiplier: int = 1,
) -> Explanation:
    """Explain a separable convolution: its shapes, its arithmetic and its picture, beside the dense convolution.

    input_size: (channels, *spatial), one to three spatial dimensions

    >>> explanation = explain((3, 7, 7), 128, 3)
    >>> explanation.cost.dense.multiplications, explanation.cost.separable.multiplications
    (86400, 10275)
    """
    g = geometry(
        input_size,
        kernel_size,
        stride,
        padding,
        dilation,
        depth_multiplier=depth_multiplier,
        out_channels=positive(out_channels, "out_channels"),
    )
    return Explanation(g)


@dataclass(frozen=True)
class Explanation:
    """A separable convolution explained: print it, show it in a notebook, or write `.svg` or `.html` to a file.

    >>> print(explain((3, 7, 7), 128, 3))
    A 3×3 convolution from 3 to 128 channels, dense and separable
    ...
        10,275 / 86,400 = 11.9 % of the multiplications
    ...
    """

    geometry: Geometry

    @cached_property
    def cost(self) -> SeparableCost:
        """Multiplications, additions, parameters and bytes of the dense convolution and of both steps."""
        return separable_cost(self.geometry)

    @cached_property
    def text(self) -> str:
        """The shapes and the arithmetic, as a person would write them."""
        return arithmetic.text(self.geometry)

    @cached_property
    def svg(self) -> str:
        """The picture: one SVG document."""
        return picture.draw(self.geometry)

    @cached_property
    def html(self) -> str:
        """A page that stands alone: the picture, the table of steps and the arithmetic."""
        return page.document(self.geometry, self.svg)

    def _repr_html_(self) -> str:
        return page.fragment(self.geometry, self.svg)

    def __str__(self) -> str:
        return self.text

    def to_dict(self) -> dict[str, object]:
        """The same as plain numbers, strings, lists and dicts, ready for JSON.

        >>> explain((3, 7, 7), 128, 3).to_dict()["output_size"]
        [128, 5, 5]
        """
        g = self.geometry
        return {
            "input_size": list(g.input_size),
            "kernel_size": list(g.kernel_size),
            "stride": list(g.stride),
            "padding": [list(pair) for pair in g.padding],
            "dilation": list(g.dilation),
            "depth_multiplier": g.depth_multiplier,
            "output_size": list(g.output_size),
            "steps": [
                {
                    "name": step.name,
                    "input_size": list(step.input_size),
                    "kernels": step.kernels,
                    "kernel_size": list(step.kernel_size),
                    "output_size": list(step.output_size),
                    **asdict(step.cost),
                }
                for step in arithmetic.steps(g)
            ],
            "separable": asdict(self.cost.separable),
            "ratio": self.cost.ratio,
            "closed_form_ratio": closed_form_ratio(g),
        }
