"""The report of a separation as text: the totals, one row a layer, then what stays and why."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .report import LayerSeparation, Separation

COLUMNS = ("layer", "form", "multiplications", "before", "share", "error", "cumulative", "plain SVD")


def rows(report: Separation) -> list[tuple[str, ...]]:
    """The cells of every separated layer."""
    return [
        (
            layer.name,
            form(layer),
            f"{layer.multiplications_after:,}",
            f"{layer.multiplications_before:,}",
            f"{layer.multiplications_after / layer.multiplications_before:.1%}",
            error(layer.relative_error),
            error(layer.cumulative_error),
            error(layer.svd_error),
        )
        for layer in report.separated
    ]


def form(layer: LayerSeparation) -> str:
    return str(layer.form)


def error(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def totals(report: Separation) -> list[str]:
    """Sentences on the whole."""
    found = []
    if report.whole_share is not None:
        found.append(
            f"{_of_100(report.whole_share)} multiplications of the network stay; of the layers with a choice, "
            f"{_of_100(report.share)}"
        )
        found.append(f"the rest of the network: {_rest(report)}")
    found.append(
        f"{len(report.separated)} of {len(report.layers)} convolutions separated: {report.multiplications_after:,} of "
        f"{report.multiplications_before:,} multiplications per {report.per}, {report.share:.1%}, in the layers with a "
        f"choice"
    )
    if report.output_error is not None:
        found.append(
            f"relative error of the network's output on {report.samples:,} samples: {report.output_error:.4f}; "
            f"predicted when the forms were chosen: {report.predicted_error:.4f}"
        )
    if report.value_before is not None and report.value_after is not None:
        found.append(f"evaluate: {report.value_before:.6g} before, {report.value_after:.6g} after")
    for each in report.evaluated:
        share = each.multiplications / max(1, report.multiplications_before)
        found.append(
            f"evaluate at {share:.1%} of the layers with a choice: {each.value:.6g}"
            + ("" if each.output_error is None else f", relative error of the output {each.output_error:.4f}")
        )
    return found + list(report.remarks)


def _of_100(share: float) -> str:
    return f"{100 * share:.0f} of 100"


def _rest(report: Separation) -> str:
    """The kinds of the other operators, with the share of the dense network's multiplications of the largest."""
    whole = max(1, report.whole_before or 0)
    kinds = [f"{_of_100(rest.multiplications / whole)} {rest.kind}" for rest in report.elsewhere or ()]
    return ", ".join([*kinds[:4], *(["..."] if len(kinds) > 4 else [])]) or "nothing"


def notes(report: Separation) -> list[str]:
    """A sentence for each reason why layers stay, and for each that the calibration data did not show wholly."""
    reasons: dict[str, list[str]] = {}
    for layer in report.layers:
        if layer.reason:
            reasons.setdefault(layer.reason, []).append(layer.name)
    stay = [
        f"{len(names)} {'stays' if len(names) == 1 else 'stay'} dense, {reason}: {', '.join(names)}"
        for reason, names in reasons.items()
    ]
    unseen = [
        f"{layer.name}: the calibration data leave {layer.unseen} directions of its inputs unseen; there it keeps the "
        f"SVD's weights"
        for layer in report.separated
        if layer.unseen
    ]
    return stay + unseen


def text_table(report: Separation) -> str:
    table = [COLUMNS, *rows(report)]
    widths = [max(len(cells[column]) for cells in table) for column in range(len(COLUMNS))]
    lines = ["  ".join(_aligned(cells, widths)).rstrip() for cells in table]
    rule = "-" * max(map(len, lines))
    shown = [rule, lines[0], rule, *lines[1:], rule] if len(lines) > 1 else []
    return "\n".join([*totals(report), *shown, *notes(report)])


def _aligned(cells: tuple[str, ...], widths: list[int]) -> list[str]:
    words = [cell.ljust(width) for cell, width in zip(cells[:2], widths[:2], strict=True)]
    return words + [cell.rjust(width) for cell, width in zip(cells[2:], widths[2:], strict=True)]
