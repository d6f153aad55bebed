"""What a separable convolution costs beside the dense one, in numbers, as a picture and as a page to try it on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property

from ..cost import SeparableCost, closed_form_ratio, separable_cost
from ..geometry import Geometry, IntOrTuple, Padding, geometry, positive
from . import arithmetic, page
from .reading import as_read
from .snippets import snippets
from .times import Times

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

    input_size: (channels, *spatial), one to three spatial dimensions; where that is impossible and the last number
        looks like the channels, it is turned, and the explanation says so

    >>> explanation = explain((3, 7, 7), 128, 3)
    >>> explanation.cost.dense.multiplications, explanation.cost.separable.multiplications
    (86400, 10275)
    """
    filters = positive(out_channels, "out_channels")

    def read(size: Sequence[int]) -> Geometry:
        return geometry(
            size, kernel_size, stride, padding, dilation, depth_multiplier=depth_multiplier, out_channels=filters
        )

    return Explanation(*as_read(input_size, read))


@dataclass(frozen=True)
class Explanation:
    """A separable convolution explained: print it, show it in a notebook, or write `.svg` or `.html` to a file.

    note:  how the input's size was read, where that could be meant otherwise
    times: what was measured of it, where anything was

    >>> print(explain((3, 7, 7), 128, 3))
    A 3×3 convolution from 3 to 128 channels, dense and separable
    ...
        10,275 / 86,400 = 11.9 % of the multiplications
    ...
    """

    geometry: Geometry
    note: str = ""
    times: Times | None = None

    @cached_property
    def cost(self) -> SeparableCost:
        """Multiplications, additions, parameters and bytes of the dense convolution and of both steps."""
        return separable_cost(self.geometry)

    @cached_property
    def text(self) -> str:
        """The shapes and the arithmetic, as a person would write them, and the layer as code."""
        code = snippets(self.geometry)
        more = [("in code", "\n".join(code[kind] for kind in ("dense", "separable", "ours")).split("\n"))]
        if self.times is not None:
            more.append(("measured here", self.times.lines()))
        return arithmetic.text(self.geometry, self.note, more)

    @cached_property
    def svg(self) -> str:
        """The picture: one SVG document."""
        return page.svg(self.geometry)

    @cached_property
    def html(self) -> str:
        """A page that stands alone, complete without its script and interactive with it."""
        return page.html(self.geometry, self.note, self.times)

    def _repr_html_(self) -> str:
        return page.notebook(self.geometry, self.html, self.svg)

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
            "note": self.note,
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
            "code": snippets(g),
            "times": None if self.times is None else self.times.to_dict(),
        }
