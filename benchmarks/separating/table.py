"""The rows as the table of docs/separate.md: means and spreads, what was not run, and which aims were missed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import mean

from .measuring import BUDGETS, Cell, Row
from .methods import BALF, BLUEPRINT, CP, GSVD, OURS, RANDOM, SVD
from .networks import NETWORKS

BEGIN, END = "<!-- the table of benchmarks/separating -->", "<!-- its end -->"

# Points of accuracy that may be lost without training, and after an epoch of distilling, by budget.
AIMS = {0.5: (0.3, 0.1), 0.35: (1.0, 0.2), 0.2: (3.0, 0.5)}
UNTRAINED = (OURS, SVD, CP, BALF, GSVD)
COLUMNS = [(method, 0) for method in UNTRAINED] + [(method, 1) for method in (*UNTRAINED, RANDOM, BLUEPRINT)]
NOT_RUN = "not run"
ERRORS = "Relative error of the logits on the test images, without training, and shares spent"


def rows_of(rows: Mapping[Cell, Row], network: str, budget: float, method: str, epochs: int) -> list[Row]:
    """Those of every seed."""
    return [
        row
        for cell, row in rows.items()
        if (cell.network, cell.budget, cell.method, cell.epochs) == (network, budget, method, epochs)
    ]


def document(rows: Mapping[Cell, Row]) -> str:
    """Everything between the two marks."""
    lost, errors = _markdown(_table(rows)), _markdown(_errors(rows))
    return "\n\n".join([lost, f"{ERRORS}:\n\n{errors}", _aims(rows), _measured(rows)])


def written(page: str, rows: Mapping[Cell, Row]) -> str:
    """The page with its table made anew."""
    before, rest = page.split(BEGIN)
    return f"{before}{BEGIN}\n\n{document(rows)}\n\n{END}{rest.split(END)[1]}"


def write(path: Path, rows: Mapping[Cell, Row]) -> None:
    path.write_text(written(path.read_text(encoding="utf-8"), rows), encoding="utf-8")


def spread(values: list[float]) -> str:
    """The mean, half the range and the number of values; points of accuracy.

    >>> spread([0.25, 0.75, 0.5]), spread([-0.1]), spread([])
    ('0.50 ± 0.25 (3)', '-0.10', 'not run')
    """
    if not values:
        return NOT_RUN
    around = f" ± {(max(values) - min(values)) / 2:.2f} ({len(values)})" if len(values) > 1 else ""
    return f"{mean(values):.2f}{around}"


def _places() -> Iterator[tuple[str, float]]:
    for network in NETWORKS:
        for budget in BUDGETS:
            yield network, budget


def _table(rows: Mapping[Cell, Row]) -> list[list[str]]:
    heads = ["network", "budget", *(f"{method}, 1 epoch" if epochs else method for method, epochs in COLUMNS)]
    lines = [heads, ["---"] * len(heads)]
    for network, budget in _places():
        found = [[row.lost for row in rows_of(rows, network, budget, *column)] for column in COLUMNS]
        lines.append([network, f"{budget:.2f}", *map(spread, found)])
    return lines


def _errors(rows: Mapping[Cell, Row]) -> list[list[str]]:
    methods = UNTRAINED
    heads = ["network", "budget", *(f"error, {method}" for method in methods), *(f"share, {name}" for name in methods)]
    lines = [[*heads, f"share, {BLUEPRINT}"], ["---"] * (len(heads) + 1)]
    for network, budget in _places():
        untrained = [rows_of(rows, network, budget, method, 0) for method in methods]
        shares = [*untrained, rows_of(rows, network, budget, BLUEPRINT, 1)]
        errors = [f"{mean(row.output_error for row in each):.3f}" if each else NOT_RUN for each in untrained]
        spent = [f"{mean(row.share for row in each):.3f}" if each else NOT_RUN for each in shares]
        lines.append([network, f"{budget:.2f}", *errors, *spent])
    return lines


def verdicts(rows: Mapping[Cell, Row]) -> Iterator[tuple[bool, str]]:
    """Every aim that was measured: reached or not, and in words."""
    for network, budget in _places():
        for epochs, aim in enumerate(AIMS[budget]):
            found = rows_of(rows, network, budget, OURS, epochs)
            if found:
                lost = mean(row.lost for row in found)
                words = f"{network} at {budget:.2f} {'after an epoch' if epochs else 'without training'}"
                yield lost <= aim, f"{words} lost {lost:.2f}, aim {aim}"
        ours, svd = (rows_of(rows, network, budget, method, 0) for method in (OURS, SVD))
        if ours and svd:
            ratio = mean(row.output_error for row in svd) / mean(row.output_error for row in ours)
            yield ratio >= 2, f"{network} at {budget:.2f} has {ratio:.1f} times less error than plain SVD, aim 2"


def _aims(rows: Mapping[Cell, Row]) -> str:
    found = list(verdicts(rows))
    missed = [words for reached, words in found if not reached]
    asked = len(list(_places())) * 3
    head = f"Of {asked} aims {len(found)} were measured and {len(found) - len(missed)} reached."
    return head + (f" Missed: {'; '.join(missed)}." if missed else "")


def _measured(rows: Mapping[Cell, Row]) -> str:
    """Where and when, and what the dense networks reached that were trained there."""
    places: dict[tuple[str, ...], list[Row]] = {}
    for row in rows.values():
        key = (row.machine, f"{row.threads} threads", f"torch {row.torch}", row.date)
        places.setdefault(key, []).append(row)
    texts = []
    for place, found in places.items():
        commits = ", ".join(sorted({row.commit for row in found}))
        dense = {row.cell.network: row.dense_accuracy for row in found}
        reached = ", ".join(f"{network} {accuracy:.2f} %" for network, accuracy in dense.items())
        texts.append(f"{len(found)} rows on {', '.join(place)}, commits {commits}; dense: {reached}.")
    return " ".join(texts) or f"{NOT_RUN}."


def _markdown(lines: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
