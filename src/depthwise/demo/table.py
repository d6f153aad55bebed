"""The one table of the demo: the same cells for the console and for the page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from rich.table import Table

from .results import EAGER, OPTIMIZED, OURS, DemoResult, Epoch, Timing

SUFFIXES = {OPTIMIZED: "", OURS: ", layer by layer", EAGER: ", PyTorch's"}


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


def answer(result: DemoResult) -> list[Line]:
    """Multiplications, time, accuracy and promise kept: what the demo is for, one line each."""
    dense, separable = result.dense, result.separable
    found = [
        Line(
            "multiplications",
            f"{dense.multiplications:,}",
            tuple(f"{each.multiplications:,} = {percent(result.share(each))}" for each in separable),
        )
    ]
    for size in result.batch_sizes:
        cells = tuple(
            f"{each.optimized[size].milliseconds:.3f} = {1 / result.measured_speedup(each, size):.0%}"
            for each in separable
        )
        found.append(Line(f"ms an image, batch {size}", f"{dense.timings[size].milliseconds:.3f}", cells))
    accuracies = tuple(percent(each.accuracies.distilled) for each in separable)
    found.append(Line("test accuracy", percent(dense.accuracy), accuracies))
    for size in result.batch_sizes:
        kept = tuple(f"{result.promise_kept(each, size):.2f}" for each in separable)
        found.append(Line(f"promise kept, batch {size}", "", kept, verdict=True))
    for operators, whose in ((OURS, "layer by layer"), (EAGER, "by PyTorch's")):
        for size in result.batch_sizes:
            kept = tuple(f"{result.promise_kept(each, size, operators):.2f}" for each in separable)
            found.append(Line(f"kept {whose}, batch {size}", "", kept))
    trained, distilled = (each.training for each in separable), (each.distilling for each in separable)
    found.append(Line("s an epoch, ours / torch's", seconds(dense.training), tuple(map(seconds, trained))))
    found.append(Line("s to distill, ours / torch's", "", tuple(map(seconds, distilled))))
    return found


def details(result: DemoResult) -> list[Line]:
    """What the answer was made from."""
    dense, others = f"{result.dense.parameters:,}", tuple(f"{each.parameters:,}" for each in result.separable)
    return [Line("parameters", dense, others), *_accuracies(result), *_times(result), *_speedups(result)]


def console_table(result: DemoResult) -> Table:
    """The answer, which fits a terminal of 80 columns."""
    table = Table(
        box=None,
        pad_edge=False,
        title=f"One network, dense and made separable; {result.machine.threads} threads",
        caption="dense on PyTorch, separable through optimize; budget: the most that the convolutions may keep of\n"
        "their multiplications; shares are the whole network's; epochs: after accelerate_, from a few steps\n"
        f"layer by layer they ran on: {'; '.join(result.ran_on)}",
        title_justify="left",
        caption_justify="left",
    )
    for number, heading in enumerate(headings(result)):
        table.add_column(heading, justify="right" if number else "left", no_wrap=True)
    for line in answer(result):
        table.add_row(*line.cells, style="bold" if line.verdict else None)
    return table


def percent(share: float) -> str:
    """A share with one decimal.

    >>> percent(0.1416)
    '14.2%'
    """
    return f"{share:.1%}"


def times(ratio: float) -> str:
    """A ratio as a person would write it.

    >>> times(7.7468)
    '7.75×'
    """
    return f"{ratio:.2f}×"


def milliseconds(timing: Timing) -> str:
    """The median and, in parentheses, the quartiles."""
    return f"{timing.milliseconds:.3f} ({timing.lower:.3f}–{timing.upper:.3f})"


def seconds(epoch: Epoch) -> str:
    """Of an epoch, and what PyTorch's operators take.

    >>> seconds(Epoch(1.25, 2.5))
    '1.2 / 2.5'
    """
    return f"{epoch.accelerated:.1f} / {epoch.torch:.1f}"


def layouts(timings: Mapping[int, Timing]) -> str:
    """The faster layout at each batch size."""
    return ", ".join(f"{timing.layout} at batch {size}" for size, timing in timings.items())


def _accuracies(result: DemoResult) -> Iterator[Line]:
    for measure, name in (
        ("accuracy, plain SVD of the same cost", "svd"),
        ("accuracy, fitted, norms as they were", "fitted"),
        ("accuracy after separate_", "norms"),
    ):
        yield Line(measure, "", tuple(percent(getattr(each.accuracies, name)) for each in result.separable))


def _times(result: DemoResult) -> Iterator[Line]:
    for size, operators, suffix in _cases(result):
        own = {OPTIMIZED: result.dense.optimized, EAGER: result.dense.timings}.get(operators)
        dense = "" if own is None else milliseconds(own[size])
        cells = tuple(milliseconds(each.on(operators)[size]) for each in result.separable)
        yield Line(f"ms per image, batch {size}{suffix}", dense, cells)


def _speedups(result: DemoResult) -> Iterator[Line]:
    separable = result.separable
    yield Line("promised speed-up", "", tuple(times(result.promised_speedup(each)) for each in separable))
    for size, operators, suffix in _cases(result):
        cells = tuple(times(result.measured_speedup(each, size, operators)) for each in separable)
        yield Line(f"measured speed-up, batch {size}{suffix}", "", cells)


def _cases(result: DemoResult) -> Iterator[tuple[int, str, str]]:
    """Every batch size on every operators, with what the line's name ends in."""
    for size in result.batch_sizes:
        for operators, suffix in SUFFIXES.items():
            yield size, operators, suffix
