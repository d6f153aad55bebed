"""A run as Markdown: what was lost first, then what was asked for, then every layer by network."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from depthwise.bench.rows import DENSE, OURS, TORCH, Row, Timing, mean
from depthwise.bench.table import milliseconds, percent, ratio, threads_text

from .cases import CASES
from .suite import Suite
from .targets import Verdict, verdicts

HOW = """\
Every output is checked against float64 before anything is timed. Then ours on both layouts, torch on both, the other
peers and the dense convolution take turns in one process, in float32, with biases, activations and the residual, on
random numbers; each turn begins with a call that is not timed, for the caches hold what the one before left there.
Times are medians, quartiles in parentheses; of torch and of the dense convolution the faster layout. GFLOP/s count
padding as data; the FMA peak is measured around each layer's turns; the bound is that of depthwise/bench/roofline.py,
and says which of its limits is the longest."""
LAYOUT_NAMES = {"channels_last": "channels last", "contiguous": "contiguous"}


@dataclass(frozen=True, slots=True)
class Loss:
    """A layer in a layout on which a peer, in its faster layout, takes less time than ours."""

    row: Row
    layout: str
    ours: Timing
    peer: Timing

    @property
    def ratio(self) -> float:
        """The peer's time over ours: below 1."""
        return self.peer.seconds.median / self.ours.seconds.median


def losses(rows: Iterable[Row]) -> list[Loss]:
    """The largest first; for each layer and layout the fastest peer."""
    found = []
    for row in rows:
        others = [timing for timing in row.timings if timing.candidate not in (OURS, DENSE)]
        best = min(others, key=lambda timing: timing.seconds.median, default=None)
        for layout in LAYOUT_NAMES:
            ours = row.timing(OURS, layout)
            if ours is not None and best is not None and best.seconds.median < ours.seconds.median:
                found.append(Loss(row, layout, ours, best))
    return sorted(found, key=lambda loss: loss.ratio)


def document(suite: Suite) -> str:
    """The whole page."""
    threads = sorted({row.threads for row in suite.rows})
    networks = [name for name in CASES if any(row.case.network == name for row in suite.rows)]
    parts = [
        f"# Benchmarks, {suite.date}, commit {suite.commit}",
        _losses(suite.rows),
        failures(suite.rows),
        _targets(verdicts(suite.rows)),
        *(_network(suite, name, count) for name in networks for count in threads),
        how(suite, HOW),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _losses(rows: Sequence[Row]) -> str:
    lost = losses(rows)
    pairs = sum(row.timing(OURS, layout) is not None for row in rows for layout in LAYOUT_NAMES)
    title = f"## Where a peer is faster: {len(lost)} of {pairs}"
    text = f"{title}\n\nEach layer on each input layout, against the fastest peer in its own."
    if not lost:
        return text
    lines = (
        (
            loss.row.case.network,
            loss.row.case.name,
            str(loss.row.threads),
            LAYOUT_NAMES[loss.layout],
            milliseconds(loss.ours),
            loss.peer.candidate,
            milliseconds(loss.peer),
            ratio(loss.ratio),
        )
        for loss in lost
    )
    headings = ("network", "layer", "threads", "input", "ours, ms", "peer", "peer, ms", "peer ÷ ours")
    return f"{text}\n\n{table(headings, lines)}"


def failures(rows: Sequence[Row]) -> str:
    lines = [
        (row.case.network, row.case.name, str(row.threads), failure.candidate, failure.layout, failure.reason)
        for row in rows
        for failure in row.failures
    ]
    if not lines:
        return "## Not timed: nothing\n\nEvery output lay within the rounding bound of float64."
    headings = ("network", "layer", "threads", "candidate", "input", "reason")
    return f"## Not timed: {len(lines)}\n\n{table(headings, lines)}"


def _targets(found: Sequence[Verdict]) -> str:
    headings = ("what", "threads", "geometric mean asked", "reached", "each asked", "worst", "layers", "")
    note = "EfficientNet-B0 has no block without squeeze-excite, so none of its layers is asked for."
    return f"## What was asked for\n\n{table(headings, map(target_cells, found))}\n\n{note}"


def target_cells(verdict: Verdict) -> tuple[str, ...]:
    """A verdict as a line of the table."""
    target, threads = verdict.target, verdict.threads
    each = target.least_each.get(threads)
    other = "".join(f"; {name}: {least}" for (name, count), least in target.exceptions.items() if count == threads)
    return (
        target.what,
        str(threads),
        ratio(target.least_mean[threads]),
        ratio(verdict.reached),
        "" if each is None else f"{each}{other}",
        "" if verdict.worst is None else f"{verdict.worst[1]:.2f} ({verdict.worst[0]})",
        f"{verdict.measured} of {verdict.asked}",
        f"**{verdict.status}**" if verdict.status == "missed" else verdict.status,
    )


def _network(suite: Suite, name: str, threads: int) -> str:
    rows = [row for row in suite.rows if row.case.network == name and row.threads == threads]
    if not rows:
        return ""
    peers = [peer for peer in _peers(rows) if peer != TORCH]
    headings = (
        *("layer", "times", "channels last, ms", "contiguous, ms", "torch, ms", *(f"{peer}, ms" for peer in peers)),
        *("× torch", "contiguous × torch", "GFLOP/s", "of peak", "of bound", "bound", "dense, ms", "promise kept"),
    )
    lines = [_layer_cells(row, peers) for row in rows]
    return f"## {name}, {threads_text(threads)}\n\n{table(headings, lines)}\n\n{_summary(rows)}"


def _layer_cells(row: Row, peers: Sequence[str]) -> tuple[str, ...]:
    reached = row.gflops("channels_last")
    return (
        row.case.name,
        str(row.case.count),
        *(_ours(row, layout) for layout in LAYOUT_NAMES),
        *(milliseconds(row.best(peer)) for peer in (TORCH, *peers)),
        *(ratio(row.speedup(layout)) for layout in LAYOUT_NAMES),
        "–" if reached is None else f"{reached:.1f}",
        percent(row.peak_fraction("channels_last")),
        percent(row.bound_fraction("channels_last")),
        row.limit or "–",
        milliseconds(row.best(DENSE)),
        ratio(row.promise_kept("channels_last")),
    )


def _ours(row: Row, layout: str) -> str:
    return "failed" if row.failure_of_ours(layout) else milliseconds(row.timing(OURS, layout))


def _summary(rows: Sequence[Row]) -> str:
    """Geometric means over the layers, and the time of all of them as often as the network has them."""
    faster = {text: mean(row.speedup(layout) for row in rows) for layout, text in LAYOUT_NAMES.items()}
    parts = [f"{text} {ratio(value)}× torch" for text, value in faster.items()]
    parts += [f"{percent(mean(row.bound_fraction('channels_last') for row in rows))} of the bound"]
    promises = [row.promise_kept("channels_last") for row in rows if row.best(DENSE) is not None]
    if promises:
        parts.append(f"promise kept {ratio(mean(promises))} over {len(promises)} layers")
    totals = {who: _total(rows, who) for who in (OURS, *_peers(rows))}
    sums = ", ".join(f"{who} {1000 * total:.2f} ms" for who, total in totals.items() if total is not None)
    return f"Geometric means: {', '.join(parts)}. All layers, each as often as it occurs: {sums}."


def _total(rows: Sequence[Row], who: str) -> float | None:
    timings = [row.timing(OURS, "channels_last") if who == OURS else row.best(who) for row in rows]
    known = [timing.seconds.median * row.case.count for row, timing in zip(rows, timings, strict=True) if timing]
    return sum(known) if len(known) == len(rows) else None


def _peers(rows: Iterable[Row]) -> list[str]:
    names = dict.fromkeys(timing.candidate for row in rows for timing in row.timings)
    return [name for name in names if name not in (OURS, DENSE)]


def how(suite: Suite, text: str) -> str:
    """How it was measured, in words, and on what."""
    machine = suite.machine
    facts = [
        f"{machine.cpu}, {machine.platform}; " + ", ".join(f"{name} {text}" for name, text in suite.versions.items()),
        *_peaks(suite),
        "ours ran on: " + "; ".join(dict.fromkeys(row.ran_on for row in suite.rows if row.ran_on)),
        *(f"{peer.name} is absent: {peer.reason}" for peer in suite.absent),
        f"at most {suite.effort.rounds} rounds of samples of {1000 * suite.effort.sample_seconds:g} ms, "
        f"none begun after {suite.effort.limit_seconds:g} s",
    ]
    return f"## How it was measured\n\n{text}\n\n" + "\n".join(f"- {fact}" for fact in facts)


def _peaks(suite: Suite) -> Iterator[str]:
    for peaks in suite.peaks:
        beyond = "" if peaks.beyond_gbytes is None else f", just beyond L2 {peaks.beyond_gbytes:.0f}"
        memory = f"copying memory {peaks.memory_gbytes:.0f} GB/s{beyond}"
        if peaks.fma_gflops is None:
            yield f"{threads_text(peaks.threads)}: {memory}; {peaks.reason}"
        else:
            rates = f"loads {peaks.load_gbytes:.0f}, stores {peaks.store_gbytes:.0f} GB/s in the first-level cache"
            yield f"{threads_text(peaks.threads)}: FMA peak {peaks.fma_gflops:.0f} GFLOP/s, {rates}, {memory}"


def table(headings: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A Markdown table.

    >>> print(table(("layer", "ms"), [("3x3 64", "1.2")]))
    | layer | ms |
    |---|---|
    | 3x3 64 | 1.2 |
    """
    head, *body = ("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in (headings, *lines))
    return "\n".join([head, "|" + "---|" * len(headings), *body])
