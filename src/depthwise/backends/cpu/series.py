"""Problems one after another become one program: their stages in a row, on buffers of one arena.

Each problem is lowered alone, an expansion together with the depthwise convolution after it. Its stages then name the
series' values instead of x and out, and packs and memory of its own by its number. A value that an elementwise step is
the last to read is written over by its result.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from math import prod

from ..packs import Packs
from ..pixels import AveragePool, Bilinear, Copy, Elementwise, GroupNorm, MaxPool, Mean, Nearest, Rearrange
from ..problem import Problem
from ..series import Compiled, Figures, Series, Step
from .emit.expanded import EXPAND
from .emit.product import WEIGHTS
from .launch import compiles, machine, most_seconds
from .lower import lower
from .lower.expanded import lower_expanded
from .machine import FLOAT_BYTES, Machine
from .pack import NAMES, Pack, Shelf, pack_of, weights_in
from .parts import Part, parts_of, reading, written
from .plan.sizes import LINE_ELEMENTS
from .run import threads
from .run.bound import Bound
from .run.program import Program, Stage
from .sums import with_sums


@dataclass(frozen=True)
class Plan:
    """A program, and what it wants beside the caller's memory.

    packings: for each step with weights, by its number, the program that they are packed for
    """

    program: Program
    packings: Mapping[int, Program]


def plan(series: Series, target: Machine, team: int) -> Plan:
    """The program of a series, for so many threads."""
    series = with_sums(series, target)
    programs = [lower(step.problem, target, team).program for step in series.steps]
    parts = parts_of(series, programs)
    names = _in_place(series, parts)
    expanded = _expanded(series, parts, target, team)

    def place(name: str) -> str:
        """The buffer that a value lies in."""
        name = parts[name].whole if name in parts else name
        return names.get(name, name)

    stages: list[Stage] = []
    between: dict[str, int] = {}
    packings: dict[int, Program] = {}
    for number, step in enumerate(series.steps):
        buffers = dict(step.buffers)
        if isinstance(step.problem, Copy) and buffers["x"] in parts:
            continue
        program = programs[number]
        if step.weights is not None:
            packings[number] = program
        if number in expanded:
            continue
        if isinstance(step.problem, Problem) and buffers["x"] in parts:
            program = reading(step.problem, parts[buffers["x"]], target, team)
        if buffers["out"] in parts:
            program = replace(program, stages=tuple(written(stage, parts[buffers["out"]]) for stage in program.stages))
        own = {name: f"#{number}.{name}" for name in (*NAMES, *(name for name, _ in program.between))}
        values = {pointer: place(name) for pointer, name in step.buffers}
        if number - 1 in expanded:
            program = expanded[number - 1]
            values["x"] = place(dict(series.steps[number - 1].buffers)["x"])
            own |= {pointer: f"#{number - 1}.{name}" for pointer, name in zip(EXPAND, WEIGHTS, strict=True)}
        between |= {own[name]: elements for name, elements in program.between}
        stages += [stage.renamed(own | values) for stage in program.stages]
    outside = series.takes | series.gives | series.constants.keys()
    used = {buffer for stage in stages for buffer in stage.pointers.values()}
    between |= {name: n for name, n in series.elements.items() if name in used and name not in outside}
    return Plan(Program(tuple(stages), tuple(between.items())), packings)


def _expanded(series: Series, parts: Mapping[str, Part], target: Machine, team: int) -> dict[int, Program]:
    """By their numbers, the steps that run together with the one after them, which alone reads their result."""
    readers = Counter(name for step in series.steps for pointer, name in step.buffers if pointer != "out")
    found: dict[int, Program] = {}
    for number, (step, after) in enumerate(pairwise(series.steps)):
        if not (isinstance(step.problem, Problem) and isinstance(after.problem, Problem)):
            continue
        made = dict(step.buffers)["out"]
        reading_it = dict(after.buffers)
        if made in series.gives or readers[made] != 1 or reading_it["x"] != made or reading_it["out"] in parts:
            continue
        program = lower_expanded(step.problem, after.problem, target, team)
        if program is not None:
            found[number] = program
    return found


def _in_place(series: Series, parts: Mapping[str, Part]) -> dict[str, str]:
    """Other names of values: one memory for what a step reads last and what it writes."""
    last = _last_uses(series, parts)
    fixed = series.takes | series.gives | series.constants.keys()
    names: dict[str, str] = {}
    for number, step in enumerate(series.steps):
        buffers = dict(step.buffers)
        out = buffers["out"]
        for pointer in step.problem.in_place:
            read = buffers.get(pointer)
            if read is None or read in fixed or last[read] != number:
                continue
            if series.elements.get(read) != series.elements[out]:
                continue
            root = names.get(read, read)
            if out in fixed and root in fixed:
                continue
            # Where the result is the caller's, what it is made of lies there before.
            kept, gone = (out, root) if out in fixed else (root, out)
            names = {name: kept if place == gone else place for name, place in names.items()} | {gone: kept}
            break
    return names


def _last_uses(series: Series, parts: Mapping[str, Part]) -> dict[str, int]:
    """For each value, the number of the last step that reads or writes it, or a part of it."""
    last: dict[str, int] = {}
    for number, step in enumerate(series.steps):
        for _, name in step.buffers:
            last[name] = number
            if name in parts:
                last[parts[name].whole] = number
    return last


def ready(series: Series, packs: Packs) -> Ready | None:
    """What runs a series; None where there is no code for it."""
    found = plan(series, machine(), threads.team_size())
    return Ready(series, found, packs) if compiles(found.program) else None


def figures(series: Series) -> Figures:
    """What the program of a series is, without its code."""
    return _figures(plan(series, machine(), threads.team_size()).program)


def _figures(program: Program) -> Figures:
    return Figures(len(program.stages), sum(program.waits), FLOAT_BYTES * program.arena[1])


class Ready(Compiled):
    """A series bound to the memory of its weights."""

    def __init__(self, series: Series, found: Plan, packs: Packs) -> None:
        self.program = found.program
        fixed = {name: tensor.data_ptr() for name, tensor in series.constants.items()}
        shelf = Shelf(sum(map(_most_packed, series.steps)))
        for number, program in found.packings.items():
            pack = _packed(series.steps[number], program, packs, shelf)
            fixed |= {f"#{number}.{name}": address for name, address in pack.addresses.items()}
        seconds = sum(_most_seconds(step) for step in series.steps)
        # What stays is held by the packs, and by the series.
        self._held = series, packs
        self._bound = Bound(self.program, seconds, fixed)

    def run(self, addresses: Mapping[str, int]) -> None:
        self._bound.run(addresses)


def _most_packed(step: Step) -> int:
    """Elements that a step's weights are packed into at most: the last vector may hold as much twice."""
    weights = step.weights.weights if step.weights is not None else ()
    return sum(2 * tensor.numel() + LINE_ELEMENTS for tensor in weights if tensor is not None)


def _packed(step: Step, program: Program, packs: Packs, shelf: Shelf) -> Pack:
    weights = step.weights
    if weights is None:
        raise RuntimeError("only weights are packed")
    # Programs of several batches share what is made of the same in the same order.
    key = (*(None if tensor is None else id(tensor) for tensor in weights.weights), program.packing)
    found: Pack | None = packs.find(key)
    if found is None:
        pack = shelf.moved(pack_of(weights, program.pointwise))
        found = packs.add(key, pack, weights_in(pack, weights, program.pointwise))
    return found


# An activation of one number, on a slow machine.
_SECONDS_A_NUMBER = 2e-8


def _most_seconds(step: Step) -> float:
    problem = step.problem
    if isinstance(problem, Problem):
        return most_seconds(problem)
    if isinstance(problem, MaxPool | AveragePool):
        g = problem.geometry
        return 1e-5 + problem.images * prod(g.output_size) * g.kernel_area * _SECONDS_A_NUMBER
    if isinstance(problem, Bilinear):
        return 1e-5 + problem.images * prod(problem.out_size) * problem.channels * 4 * _SECONDS_A_NUMBER
    if isinstance(problem, Nearest):
        numbers = problem.rows * problem.down * problem.columns * problem.across * problem.channels
        return 1e-5 + numbers * _SECONDS_A_NUMBER
    if isinstance(problem, Rearrange):
        return 1e-5 + prod(problem.sizes) * _SECONDS_A_NUMBER
    rows = problem.images * problem.pixels if isinstance(problem, Elementwise | Mean | GroupNorm) else problem.rows
    return 1e-5 + rows * problem.channels * _SECONDS_A_NUMBER
