"""A run as Markdown: what PyTorch does faster first, then what was asked for, then every row."""

from __future__ import annotations

from collections.abc import Sequence

from depthwise.bench.rows import TORCH
from depthwise.bench.table import ratio, threads_text
from depthwise.bench.training.rows import KINDS, TrainingResult, TrainingRow, Verdict, verdicts
from depthwise.bench.training.table import asked_text, share_text

from ..report import table
from ..suite import Commit

HOW = (
    "Ours in its faster layout, networks channels-last after `accelerate_`; PyTorch's fastest of channels-last and "
    "contiguous, eager and through torch.compile where that can change something and a compiler is there. Medians in "
    "turn; gradients and first losses were compared before. Weight gradients: the operator alone. A batch norm's "
    "bytes: eight times the input's, which is read and written in four passes; a memcpy moves twice what it copies. "
    "Memory: at most, in a process of its own, beyond what it held with the model."
)


def losses(rows: Sequence[TrainingRow]) -> list[TrainingRow]:
    """Where PyTorch is faster, or takes less; the largest first."""
    return sorted((row for row in rows if row.ratio < 1), key=lambda row: row.ratio)


def document(result: TrainingResult, at: Commit) -> str:
    parts = [
        f"# Training, {result.machine.cpu}, {result.date}, commit {at}",
        HOW,
        _losses(result.rows),
        _asked(verdicts(result.rows)),
        *(_kind(verdict, result.rows) for verdict in verdicts(result.rows)),
        "\n".join(f"Not measured: {sentence}" for sentence in result.absent),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _losses(rows: Sequence[TrainingRow]) -> str:
    lost = losses(rows)
    title = f"## Where PyTorch is faster: {len(lost)} of {len(rows)}"
    if not lost:
        return title
    units = {kind.name: kind.unit for kind in KINDS}
    lines = [
        (row.kind, row.name, str(row.threads), *_numbers(row, units[row.kind]), row.way, ratio(row.ratio))
        for row in lost
    ]
    return f"{title}\n\n{table(('kind', 'what', 'threads', 'ours', TORCH, 'way', 'torch ÷ ours'), lines)}"


def _asked(found: Sequence[Verdict]) -> str:
    lines = [
        (
            verdict.kind.name,
            str(verdict.threads),
            asked_text(verdict),
            ratio(verdict.ratio) + (f"; {share_text(verdict.share, verdict)}" if verdict.kind.share else ""),
            ", ".join(f"{row.name}: {row.ratio:.2f} of {row.least:.1f}" for row in verdict.missed),
            "reached" if verdict.reached else "**missed**",
        )
        for verdict in found
    ]
    headings = ("what", "threads", "asked of the mean", "reached", "each, missed", "")
    return f"## What was asked for\n\n{table(headings, lines)}"


def _kind(verdict: Verdict, rows: Sequence[TrainingRow]) -> str:
    kind = verdict.kind
    own = [row for row in rows if (row.kind, row.threads) == (kind.name, verdict.threads)]
    headings = ("what", "ours", TORCH, "way", "torch ÷ ours", *([kind.share, "torch's"] if kind.share else []))
    lines = []
    for row in sorted(own, key=lambda row: row.ratio):
        shares = [share_text(each, verdict) for each in (row.share, row.torch_share)] if kind.share else []
        lines.append((row.name, *_numbers(row, kind.unit), row.way, ratio(row.ratio), *shares))
    return f"## {kind.name}, {threads_text(verdict.threads)}\n\n{table(headings, lines)}"


def _numbers(row: TrainingRow, unit: str) -> tuple[str, str]:
    return f"{row.ours:.3g} {unit}", f"{row.torch:.3g} {unit}"
