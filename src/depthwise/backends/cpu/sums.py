"""Means of what a depthwise convolution gives are taken of sums that it leaves beside each row.

y = depthwise(x);  m = mean(y)      becomes      y, s = depthwise(x);  m = mean of the rows whose sums are s
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from math import prod

from ..pixels import Mean
from ..problem import Problem
from ..series import Series, Step
from .lower.separable import layout_of
from .machine import Machine
from .plan.lanes import pixel_lanes
from .plan.mean import total_plan


def with_sums(series: Series, machine: Machine) -> Series:
    """The same series, its means taken of sums where these can be left."""
    written = Counter(dict(step.buffers)["out"] for step in series.steps)
    makers = {dict(step.buffers)["out"]: step.problem for step in series.steps}
    found: dict[str, Problem] = {}
    for step in series.steps:
        name = dict(step.buffers)["x"]
        maker = makers.get(name)
        if not (isinstance(step.problem, Mean) and isinstance(maker, Problem)):
            continue
        if written[name] == 1 and _is_of_all(step.problem, maker):
            found[name] = maker
    elements = {_sums_of(name): _rows(one) * one.batch * _row_elements(one, machine) for name, one in found.items()}
    steps = tuple(_with_sums(step, found, machine) for step in series.steps)
    return replace(series, steps=steps, elements={**series.elements, **elements})


def _sums_of(name: str) -> str:
    return f"{name}.sums of rows"


def _is_of_all(mean: Mean, made: Problem) -> bool:
    """Whether it is the mean or the sum over the images that a depthwise convolution of pixels makes."""
    g = made.geometry
    if made.operation != "depthwise" or g.rank != 2 or mean.result == "norm":
        return False
    layout, sizes = layout_of(made), (made.batch, prod(g.out_spatial), g.depthwise_channels)
    return not (layout.planar_in or layout.planar_out) and (mean.images, mean.pixels, mean.channels) == sizes


def _rows(made: Problem) -> int:
    """Of each image."""
    return made.geometry.out_spatial[0]


def _row_elements(made: Problem, machine: Machine) -> int:
    return total_plan(made.geometry.depthwise_channels, machine, block=pixel_lanes(made.geometry, machine)).row_elements


def _with_sums(step: Step, found: Mapping[str, Problem], machine: Machine) -> Step:
    buffers = dict(step.buffers)
    if buffers["out"] in found and isinstance(step.problem, Problem):
        sums = ("sums", _sums_of(buffers["out"]))
        return replace(step, problem=replace(step.problem, summed=True), buffers=(*step.buffers, sums))
    maker = found.get(buffers["x"])
    if maker is not None and isinstance(step.problem, Mean) and _is_of_all(step.problem, maker):
        problem = replace(step.problem, sums=_rows(maker), block=pixel_lanes(maker.geometry, machine))
        return replace(step, problem=problem, buffers=tuple((buffers | {"x": _sums_of(buffers["x"])}).items()))
    return step
