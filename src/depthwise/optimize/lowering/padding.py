"""Values with numbers around them: boxes of a larger one, each filled or copied from a part of the smaller."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

from ...backends.series import Step
from ..graph import Node
from .context import Lowering, RefusedError, boxed, step


@dataclass(frozen=True, slots=True)
class Stretch:
    """Places [out, out + size) along a dimension, and where their numbers come from: x, then every so many on.

    step: 0 where all are one number; None where they are filled
    """

    out: int
    size: int
    x: int = 0
    step: int | None = 1


def lower_pad(node: Node, into: Lowering) -> tuple[Step, ...]:
    x, shape = into.value(node["self"]), into.shape(node.name)
    amounts, rank, mode = node["pad"], len(shape), node["mode"]
    # torch counts from the last dimension.
    pairs = {rank - 1 - n // 2: (amounts[n], amounts[n + 1]) for n in range(0, len(amounts), 2)}
    if pairs.get(0, (0, 0)) != (0, 0):
        raise RefusedError("images are put beside images")
    stretches = [[*_stretches(x.shape[n], *pairs.get(n, (0, 0)), mode)] for n in range(rank)]
    out = into.made(node, x.order)
    steps = []
    for box in product(*stretches):
        if not all(stretch.size for stretch in box):
            continue
        is_filled = any(stretch.step is None for stretch in box)
        starts = (
            0 if is_filled else sum(one.x * stride for one, stride in zip(box, x.strides, strict=True)),
            sum(one.out * stride for one, stride in zip(box, out.strides, strict=True)),
        )
        sizes = tuple(box[n].size for n in x.order)
        distances = tuple((x.strides[n] * (box[n].step or 0), out.strides[n]) for n in x.order)
        fill = float(node["value"] or 0) if is_filled else None
        steps.append(step(boxed(sizes, starts, distances, fill), x=x.buffer, out=out.buffer))
    return tuple(steps)


def _stretches(size: int, before: int, after: int, mode: str) -> Iterator[Stretch]:
    """What lies along a dimension of the result."""
    first, stop = max(-before, 0), size - max(-after, 0)
    if stop < first or (mode == "circular" and max(before, after) > stop - first):
        raise RefusedError("more is cut off than there is")
    yield Stretch(max(before, 0), stop - first, first)
    # The numbers next to the edges, and which way they go; those cut off come back in all modes but the circular.
    sources = {"constant": (0, 0, None), "reflect": (before, size - 2, -1), "replicate": (0, size - 1, 0)}
    left, right, distance = sources.get(mode, (stop - before, first, 1))
    if before > 0:
        yield Stretch(0, before, left, distance)
    if after > 0:
        yield Stretch(max(before, 0) + stop - first, after, right, distance)
