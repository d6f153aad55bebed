"""How a box of numbers that goes to other places is cut."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from ...pixels import MOST_AXES
from .constants import Plan
from .cut import Cut


@dataclass(frozen=True, slots=True)
class RearrangePlan(Plan):
    """Numbers side by side in both places, in vectors of `lanes`; with 1 lane, at any distance.

    fill: the number for all places; None: those of x
    """

    lanes: int
    fill: float | None

    @property
    def name(self) -> str:
        return f"v{self.lanes}{'' if self.fill is None else f'_fill{self.fill!r}'}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Box(Cut):
    """Rows, all axes but the last, are dealt out.

    sizes, steps: of MOST_AXES axes, as in the problem
    """

    starts: tuple[int, int]
    sizes: tuple[int, ...]
    steps: tuple[tuple[int, int], ...]

    @property
    def numbers(self) -> dict[str, int]:
        axes = range(MOST_AXES)
        return {
            "threads": self.threads,
            "scratch_elements": self.scratch_elements,
            "x_start": self.starts[0],
            "out_start": self.starts[1],
            "all_rows": prod(self.sizes[:-1]),
            **{f"size_{axis}": self.sizes[axis] for axis in axes},
            **{f"{name}_{axis}": self.steps[axis][n] for n, name in enumerate(("x", "out")) for axis in axes},
        }


def merged(
    sizes: tuple[int, ...], steps: tuple[tuple[int, int], ...]
) -> tuple[tuple[int, ...], tuple[tuple[int, int], ...]]:
    """The same box with as few axes as it has: neighbours are one where both places go through them in one stride."""
    axes: list[tuple[int, tuple[int, int]]] = []
    for size, (x, out) in zip(sizes, steps, strict=True):
        if size == 1:
            continue
        if axes and axes[-1][1] == (x * size, out * size):
            axes[-1] = axes[-1][0] * size, (x, out)
        else:
            axes.append((size, (x, out)))
    return tuple(size for size, _ in axes), tuple(step for _, step in axes)
