"""The tables of `depthwise bench --training`: one for each kind, the rows that gain least first."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..table import percent, ratio, threads_text
from .rows import BLOCKS, TrainingResult, TrainingRow, Verdict, verdicts


def print_tables(console: Console, result: TrainingResult) -> None:
    console.print(
        f"Training, float32, forward and backward: {escape(result.machine.cpu)}. Ours in its faster layout, PyTorch's "
        "fastest of both layouts, through torch.compile too where that is said; medians in turn.",
        highlight=False,
    )
    for verdict in verdicts(result.rows):
        own = [row for row in result.rows if (row.kind, row.threads) == (verdict.kind.name, verdict.threads)]
        console.print(_table(verdict, own))
    for sentence in result.absent:
        console.print(sentence, highlight=False, markup=False)


def share_text(row_share: float | None, verdict: Verdict) -> str:
    """A share, as a number where it may be more than all."""
    return ratio(row_share) if verdict.kind is BLOCKS else percent(row_share)


def _table(verdict: Verdict, rows: Sequence[TrainingRow]) -> Table:
    kind = verdict.kind
    title = f"{kind.name}: {threads_text(verdict.threads)}"
    table = Table(title=title, title_justify="left", box=None, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("", no_wrap=True)
    for heading in (kind.unit, "torch", "ratio", *([kind.share, "torch's"] if kind.share else []), "asked"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("torch's way", no_wrap=True)
    for row in sorted(rows, key=lambda row: row.ratio):
        shares = [share_text(each, verdict) for each in (row.share, row.torch_share)] if kind.share else []
        asked = "" if row.least is None else f"{row.least:.1f}"
        table.add_row(row.name, f"{row.ours:.2f}", f"{row.torch:.2f}", ratio(row.ratio), *shares, asked, row.way)
    table.add_section()
    means = [share_text(verdict.share, verdict), ""] if kind.share else []
    table.add_row("geometric mean", "", "", ratio(verdict.ratio), *means, asked_text(verdict), style="bold")
    return table


def asked_text(verdict: Verdict) -> str:
    """What is asked of the means."""
    kind = verdict.kind
    share = "" if kind.least_share is None else f"{share_text(kind.least_share, verdict)} {kind.share}"
    return ", ".join(part for part in ("" if kind.least_mean is None else f"{kind.least_mean:.1f}", share) if part)
