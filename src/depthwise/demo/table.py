"""The one table of the demo: the same cells for the console and for the page."""

from __future__ import annotations

from dataclasses import dataclass

from rich.table import Table

from .results import DemoResult, NetworkResult, Timing


@dataclass(frozen=True, slots=True)
class Line:
    """A measure of each network, of the separable one on both backends; `verdict`: what the rest leads to."""

    measure: str
    dense: str
    separable: str
    eager: str = ""
    verdict: bool = False

    @property
    def cells(self) -> tuple[str, str, str, str]:
        return self.measure, self.dense, self.separable, self.eager


HEADINGS = ("", "dense", "separable", "separable on PyTorch's operators")


def lines(result: DemoResult) -> list[Line]:
    dense, separable, sizes = result.dense, result.separable, result.batch_sizes
    return [
        Line("convolutions", dense.conv_class, separable.conv_class),
        Line("test accuracy", f"{dense.accuracy:.1%}", f"{separable.accuracy:.1%}"),
        _counted("parameters", dense.parameters, separable.parameters),
        _counted("multiplications per image", dense.multiplications, separable.multiplications),
        *(_timed(result, size) for size in sizes),
        Line("promised speed-up", "", times(result.promised_speedup), times(result.promised_speedup)),
        *(
            Line(
                f"measured speed-up, batch {size}",
                "",
                times(result.measured_speedup(size)),
                times(result.eager_speedup(size)),
            )
            for size in sizes
        ),
        *(
            Line(
                f"promise kept, batch {size}",
                "",
                f"{result.promise_kept(size):.2f}",
                f"{result.eager_promise_kept(size):.2f}",
                verdict=True,
            )
            for size in sizes
        ),
    ]


def console_table(result: DemoResult) -> Table:
    table = Table(
        title=f"One network, two convolution classes; {result.machine.threads} threads",
        caption="promise kept = measured ÷ promised speed-up; 1.00 is all of it\n"
        f"the separable layers ran on: {'; '.join(result.ran_on)}",
    )
    for number, heading in enumerate(HEADINGS):
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


def layouts(network: NetworkResult) -> str:
    """The faster layout at each batch size."""
    return ", ".join(f"{timing.layout} at batch {size}" for size, timing in network.timings.items())


def _counted(measure: str, dense: int, separable: int) -> Line:
    return Line(measure, f"{dense:,}", f"{separable:,}")


def _timed(result: DemoResult, size: int) -> Line:
    dense, separable = result.dense.timings[size], result.separable.timings[size]
    eager = result.eager[size]
    return Line(f"ms per image, batch {size}", milliseconds(dense), milliseconds(separable), milliseconds(eager))
