"""Elementwise steps that follow one another become one: what is between is never written.

    y = x · a;  z = relu(y + b)      becomes      z = relu(x · a + b)

where nothing else reads y.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Literal

from ...backends.pixels import MOST_OPERANDS, OF_ROWS, Elementwise, Term
from ...backends.series import Step

# What y operation x is, seen from x.
_TURNED: dict[str, Literal["add", "mul", "sub", "from"]] = {"add": "add", "mul": "mul", "sub": "from"}


def fused(steps: Sequence[Step], gives: Collection[str]) -> tuple[Step, ...]:
    """The same steps, each elementwise one joined with that before it which it alone reads."""
    uses = Counter(name for step in steps for pointer, name in step.buffers if pointer != "out")
    uses.update(gives)
    kept: list[Step | None] = []
    makers: dict[str, int] = {}
    for step in steps:
        joined = step
        for pointer, name in step.buffers:
            maker = makers.get(name)
            before = None if maker is None else kept[maker]
            if pointer != "out" and uses[name] == 1 and maker is not None and before is not None:
                found = _joined(before, joined, pointer)
                if found is not None:
                    kept[maker], joined = None, found
                    break
        makers[dict(joined.buffers)["out"]] = len(kept)
        kept.append(joined)
    return tuple(step for step in kept if step is not None)


def _joined(first: Step, last: Step, pointer: str) -> Step | None:
    """Both in one, where the last reads at `pointer` what the first gives."""
    one, other = first.problem, last.problem
    if not (isinstance(one, Elementwise) and isinstance(other, Elementwise)):
        return None
    problem = _common(one, other)
    terms, read, later = other.terms, _operands(first), _operands(last)
    if problem is None or len(read) + len(later) > MOST_OPERANDS:
        return None
    if pointer == "operand_0":
        start = terms[0]
        if start.operand != "each" or start.operation not in _TURNED:
            return None
        terms = (replace(start, operation=_TURNED[start.operation]), *terms[1:])
        later = [dict(last.buffers)["x"], *later[1:]]
    elif pointer != "x":
        return None
    buffers = {"x": dict(first.buffers)["x"]}
    buffers |= {f"operand_{index}": name for index, name in enumerate([*read, *later])}
    joined = replace(problem, terms=(*one.terms, *terms))
    return Step(joined, (*buffers.items(), ("out", dict(last.buffers)["out"])))


def _operands(step: Step) -> list[str]:
    return [name for pointer, name in step.buffers if pointer.startswith("operand_")]


def _common(one: Elementwise, other: Elementwise) -> Elementwise | None:
    """The one whose rows matter, where those of both do not differ."""
    sizes = [(problem.images, problem.pixels, problem.channels) for problem in (one, other)]
    if sizes[0] == sizes[1] or not _by_rows(other.terms):
        return one
    return other if not _by_rows(one.terms) else None


def _by_rows(terms: tuple[Term, ...]) -> bool:
    return any(term.operand in OF_ROWS for term in terms)
