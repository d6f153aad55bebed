"""Values that lie from the start where they would be copied to: in their part of the rows of a concatenation.

    y = pointwise(x);  z = depthwise(y);  c = cat(y, z)

y and z are written into the rows of c, and the depthwise convolution reads y there: nothing is copied. A value goes
there where its maker writes rows of any distance, and whoever else reads it is a depthwise convolution.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ..pixels import Copy
from ..problem import Problem
from ..series import Series, Step
from .emit.depthwise import DepthwiseKernel
from .emit.pointwise import PointwiseKernel
from .lower import lower
from .machine import Machine
from .run.program import Program, Stage


@dataclass(frozen=True, slots=True)
class Part:
    """Elements [start, stop) of each row of a value, of `step` elements."""

    whole: str
    start: int
    stop: int
    step: int


def parts_of(series: Series, programs: Sequence[Program]) -> dict[str, Part]:
    """Those values that may lie in parts of others."""
    makers, readers = _uses(series)
    fixed = series.takes | series.gives | series.constants.keys()
    found: dict[str, Part] = {}
    wholes: set[str] = set()
    for step in series.steps:
        copy, buffers = step.problem, dict(step.buffers)
        if not isinstance(copy, Copy) or copy.starts[0] or copy.steps[0] != copy.channels:
            continue
        name, whole = buffers["x"], buffers["out"]
        if name in fixed or name in wholes or whole in found or len(makers[name]) != 1 or copy.channels == 1:
            continue
        others = [reader for reader in readers[name] if reader is not step]
        if _writes_rows(programs[makers[name][0]], copy) and all(_reads_rows(other, name, copy) for other in others):
            found[name] = Part(whole, copy.starts[1], copy.starts[1] + copy.channels, copy.steps[1])
            wholes.add(whole)
    return found


def _uses(series: Series) -> tuple[Mapping[str, list[int]], Mapping[str, list[Step]]]:
    """For each value the numbers of the steps that write it, and the steps that read it, as often as they do."""
    makers: dict[str, list[int]] = defaultdict(list)
    readers: dict[str, list[Step]] = defaultdict(list)
    for number, step in enumerate(series.steps):
        for pointer, name in step.buffers:
            if pointer == "out":
                makers[name].append(number)
            else:
                readers[name].append(step)
    return makers, readers


def _writes_rows(program: Program, copy: Copy) -> bool:
    """Whether a program's one stage can write rows of any distance, of as many numbers as are copied."""
    (*before, stage) = program.stages
    kernel = stage.kernel
    if before or stage.view.numbers["pixels"] != copy.rows:
        return False
    if isinstance(kernel, PointwiseKernel):
        return kernel.plan.out_channels == copy.channels and not kernel.plan.residual
    return isinstance(kernel, DepthwiseKernel) and kernel.out_stride == copy.channels


def _reads_rows(step: Step, name: str, copy: Copy) -> bool:
    """Whether a step reads the value as images of as many channels, and can read them at any distance."""
    problem = step.problem
    if not isinstance(problem, Problem) or problem.operation != "depthwise" or dict(step.buffers)["x"] != name:
        return False
    return problem.geometry.in_channels == copy.channels and problem.strides is not None and problem.strides[1] == 1


def written(stage: Stage, part: Part) -> Stage:
    """The stage whose result lies in a part."""
    kernel = stage.kernel
    if isinstance(kernel, PointwiseKernel):
        kernel = replace(kernel, plan=replace(kernel.plan, result_stride=part.step))
    elif isinstance(kernel, DepthwiseKernel):
        kernel = replace(kernel, out_stride=part.step)
    piece = part.step, part.start, part.stop
    return replace(stage, kernel=kernel, piece=piece, offsets=(*stage.offsets, ("out", part.start)))


def reading(problem: Problem, part: Part, machine: Machine, threads: int) -> Program:
    """The program of a depthwise convolution whose input lies in a part."""
    channels, strides = problem.geometry.in_channels, problem.strides or ()
    apart = tuple(n if axis == 1 else n // channels * part.step for axis, n in enumerate(strides))
    program = lower(replace(problem, strides=apart), machine, threads).program
    stages = tuple(replace(stage, offsets=(*stage.offsets, ("x", part.start))) for stage in program.stages)
    return replace(program, stages=stages)
