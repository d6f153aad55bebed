"""How an input lies and what windows see of it: numbers of a call."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from ....geometry import Geometry
from .sizes import Axes, three


@dataclass(frozen=True, slots=True)
class View:
    """Extents and strides, in elements, of an input, and the result's extents; axes z y x.

    out_channel_stride: of a result in planes; 0 where they follow one another
    """

    batch: int = 1
    image_stride: int = 0
    channel_stride: int = 0
    strides: Axes = (0, 0, 0)
    sizes: Axes = (1, 1, 1)
    padding: Axes = (0, 0, 0)
    outputs: Axes = (1, 1, 1)
    out_channel_stride: int = 0

    @property
    def numbers(self) -> dict[str, int]:
        """By the names of slots."""
        of_axes = {"x": self.strides, "in": self.sizes, "pad": self.padding, "out": self.outputs}
        rows = self.batch * self.outputs[0] * self.outputs[1]
        return {
            **{f"{name}_{axis}": n for name, values in of_axes.items() for axis, n in zip("zyx", values, strict=True)},
            "batch": self.batch,
            "x_n": self.image_stride,
            "x_c": self.channel_stride,
            "out_c": self.out_channel_stride or prod(self.outputs),
            "rows": rows,
            "pixels": self.batch * prod(self.outputs),
        }


def view_of(g: Geometry, batch: int, strides: tuple[int, ...]) -> View:
    """strides: of the input, (batch, channels, *spatial)"""
    return View(
        batch=batch,
        image_stride=strides[0],
        channel_stride=strides[1],
        strides=three(strides[2:], 0),
        sizes=three(g.input_size[1:], 1),
        padding=three(tuple(before for before, _ in g.padding), 0),
        outputs=three(g.out_spatial, 1),
    )
