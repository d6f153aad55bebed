"""The one table of the demo: the same cells for the console and for the page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from rich.table import Table

from .results import EAGER, OURS, DemoResult, Timing

SUFFIXES = {OURS: "", EAGER: ", PyTorch's"}


@dataclass(frozen=True, slots=True)
class Line:
    """A measure of the dense network and of each separable one; `verdict`: what the rest leads to."""

    measure: str
    dense: str
    separable: tuple[str, ...]
    verdict: bool = False

    @property
    def cells(self) -> tuple[str, ...]:
        return self.measure, self.dense, *self.separable


def headings(result: DemoResult) -> tuple[str, ...]:
    return "", "dense", *(each.name for each in result.separable)


def lines(result: DemoResult) -> list[Line]:
    return [*_costs(result), *_accuracies(result), *_times(result), *_promises(result)]


def console_table(result: DemoResult) -> Table:
    table = Table(
        title=f"One network, dense and made separable; {result.machine.threads} threads",
        caption="budget: share of the convolutions' multiplications; promise kept = measured ÷ promised speed-up\n"
        f"the separable layers ran on: {'; '.join(result.ran_on)}",
    )
    for number, heading in enumerate(headings(result)):
        table.add_column(heading, justify="right" if number else "left")
    for line in lines(result):
        table.add_row(*line.cells, style="bold" if line.verdict else None)
    return table


def times(ratio: float) -> str:
    """A ratio as a person would write it.

    >>> times(7.7468)
    '7.75×'
    """
    return f"{ratio:.2f}×"


def milliseconds(timing: Timing) -> str:
    """The median and, in parentheses, the quartiles."""
    return f"{timing.milliseconds:.3f} ({timing.lower:.3f}–{timing.upper:.3f})"


def layouts(timings: Mapping[int, Timing]) -> str:
    """The faster layout at each batch size."""
    return ", ".join(f"{timing.layout} at batch {size}" for size, timing in timings.items())


def _costs(result: DemoResult) -> Iterator[Line]:
    for measure, name in (("multiplications per image", "multiplications"), ("parameters", "parameters")):
        dense, *others = (f"{getattr(each, name):,}" for each in (result.dense, *result.separable))
        yield Line(measure, dense, tuple(others))


def _accuracies(result: DemoResult) -> Iterator[Line]:
    def cells(name: str) -> tuple[str, ...]:
        return tuple(f"{getattr(each.accuracies, name):.1%}" for each in result.separable)

    yield Line("accuracy, plain SVD of the same cost", "", cells("svd"))
    yield Line("accuracy, fitted, norms as they were", "", cells("fitted"))
    yield Line("accuracy after separate_", "", cells("norms"))
    yield Line("accuracy after one epoch of distill", f"{result.dense.accuracy:.1%}", cells("distilled"), verdict=True)


def _times(result: DemoResult) -> Iterator[Line]:
    for size, operators, suffix in _cases(result):
        dense = milliseconds(result.dense.timings[size]) if operators == OURS else ""
        cells = tuple(milliseconds(each.on(operators)[size]) for each in result.separable)
        yield Line(f"ms per image, batch {size}{suffix}", dense, cells)


def _promises(result: DemoResult) -> Iterator[Line]:
    separable = result.separable
    yield Line("promised speed-up", "", tuple(times(result.promised_speedup(each)) for each in separable))
    for size, operators, suffix in _cases(result):
        cells = tuple(times(result.measured_speedup(each, size, operators)) for each in separable)
        yield Line(f"measured speed-up, batch {size}{suffix}", "", cells)
    for size, operators, suffix in _cases(result):
        cells = tuple(f"{result.promise_kept(each, size, operators):.2f}" for each in separable)
        yield Line(f"promise kept, batch {size}{suffix}", "", cells, verdict=operators == OURS)


def _cases(result: DemoResult) -> Iterator[tuple[int, str, str]]:
    """Every batch size on every operators, with what the line's name ends in."""
    for size in result.batch_sizes:
        for operators, suffix in SUFFIXES.items():
            yield size, operators, suffix
