"""What is kept of runs, small enough for the repository: `python -m benchmarks.kept KIND RUN.json...`.

A file of `benchmarks/results/`, one for a kind of machine and a day, holds figures: what was measured, when, at which
commit, and a list of numbers for each heading of the tables that show them. Runs are the JSON files that `python -m
benchmarks`, `python -m benchmarks.whole`, `python -m benchmarks.training` and `depthwise demo --json` write. Files with
a note are older than this: their figures were copied from what runs printed.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import geometric_mean
from typing import Any

from depthwise.bench.rows import DENSE, OURS, TORCH
from depthwise.bench.training.rows import KINDS, Kind
from depthwise.errors import DepthwiseError

from .cases import ODD
from .run import RESULTS
from .whole.rows import FREE

HEADINGS = ("ours", "PyTorch's operators")
RATIO = "PyTorch ÷ ours"
EAGER, FASTEST = "PyTorch", "fastest ÷ ours"


@dataclass(frozen=True, slots=True)
class Figure:
    """A row of a table; `values`: by its headings, one number for each number of threads, or each batch."""

    what: str
    date: str
    commit: str
    values: Mapping[str, Sequence[float]]


def figures_of(run: Mapping[str, Any]) -> Iterator[Figure]:
    """What is kept of one run, whichever of the four it is."""
    date, commit = str(run["date"])[:10], run.get("commit", "unknown")
    at = date, (commit["sha"] if isinstance(commit, dict) else commit)[:7]
    if "separable" in run:
        yield from _demo(run, *at)
    elif "training" in run:
        yield from _training(run["training"], *at)
    elif any("engine" in taken for row in run["rows"] for taken in row.get("taken", ())):
        yield from _networks(run["rows"], *at)
    else:
        yield from _layers(run["rows"], *at)
        yield from _bounds([row for row in run["rows"] if row["case"]["network"] == ODD], *at)


def _networks(rows: Sequence[Mapping[str, Any]], date: str, commit: str) -> Iterator[Figure]:
    """Milliseconds of every engine, PyTorch in its faster layout; the time of the fastest float32 peer over ours."""
    found: dict[tuple[str, int, int], dict[int, dict[str, float]]] = {}
    for row in rows:
        times = {one["engine"]: one["milliseconds"] for one in row["taken"] if one["milliseconds"] is not None}
        eager = [times.pop(engine) for engine in list(times) if engine.startswith("eager")]
        if eager:
            times[EAGER] = min(eager)
        key = row["network"], row["batch"], row["size"]
        found.setdefault(key, {})[row["threads"]] = {HEADINGS[0]: times.pop(OURS), **times}
    for (network, batch, size), by_threads in found.items():
        threads = sorted(by_threads)
        each = [by_threads[count] for count in threads]
        values = {engine: [times[engine] for times in each] for engine in each[0] if all(engine in one for one in each)}
        peers = [[time for engine, time in one.items() if engine != HEADINGS[0] and FREE not in engine] for one in each]
        if all(peers):
            values[FASTEST] = [min(own) / one[HEADINGS[0]] for own, one in zip(peers, each, strict=True)]
        kind = f"whole networks, milliseconds, {' / '.join(map(str, threads))} threads"
        yield Figure(f"{kind}, {network}, batch {batch}, {size}x{size}", date, commit, values)


def _layers(rows: Sequence[Mapping[str, Any]], date: str, commit: str) -> Iterator[Figure]:
    """Promise kept of each layer, channels-last, and in geometric mean over a network's."""
    threads = sorted({row["threads"] for row in rows})
    for network in dict.fromkeys(row["case"]["network"] for row in rows):
        found: dict[str, list[tuple[float, float]]] = {}
        for row in rows:
            promises = _promises(row) if row["case"]["network"] == network else None
            if promises is not None:
                found.setdefault(row["name"], []).append(promises)
        whole = {name: each for name, each in found.items() if len(each) == len(threads)}
        if not whole:
            continue
        heading = f"{network}, promise kept, {' / '.join(map(str, threads))} threads"
        means = [
            [geometric_mean(each[at][who] for each in whole.values()) for at in range(len(threads))] for who in (0, 1)
        ]
        yield Figure(
            f"{heading}, geometric mean of {len(whole)}", date, commit, dict(zip(HEADINGS, means, strict=True))
        )
        for name, each in whole.items():
            pairs = zip(HEADINGS, zip(*each, strict=True), strict=True)
            yield Figure(f"{heading}, {name}", date, commit, {key: list(values) for key, values in pairs})


def _bounds(rows: Sequence[Mapping[str, Any]], date: str, commit: str) -> Iterator[Figure]:
    """Channels-last layers beside the least time that the machine needs for each."""
    threads = sorted({row["threads"] for row in rows})
    for name in dict.fromkeys(row["name"] for row in rows):
        own = [row for count in threads for row in rows if (row["name"], row["threads"]) == (name, count)]
        ours = [
            1e6 * timing["seconds"]["median"]
            for row in own
            for timing in row["timings"]
            if (timing["candidate"], timing["layout"]) == (OURS, "channels_last")
        ]
        what = f"{ODD}, {name}, {' / '.join(map(str, threads))} threads, microseconds"
        yield Figure(what, date, commit, {HEADINGS[0]: ours, "bound": [1e6 * row["least_seconds"] for row in own]})


def _promises(row: Mapping[str, Any]) -> tuple[float, float] | None:
    """Ours and that of PyTorch's separable operators, in the better layout; None where one was not timed."""
    ours = row["ratios"].get("channels_last", {})
    if ours.get("promise_kept") is None or ours.get("speedup") is None:
        return None
    assert {OURS, TORCH, DENSE} <= {timing["candidate"] for timing in row["timings"]}
    return ours["promise_kept"], ours["promise_kept"] / ours["speedup"]


def _training(rows: Sequence[Mapping[str, Any]], date: str, commit: str) -> Iterator[Figure]:
    """Of each thing, and in geometric mean over a kind: PyTorch's time, or memory, over ours, and shares of a bound."""
    for kind in KINDS:
        found: dict[str, dict[int, Mapping[str, Any]]] = {}
        for row in rows:
            if row["kind"] == kind.name:
                found.setdefault(row["name"], {})[row["threads"]] = row
        threads = sorted({count for own in found.values() for count in own})
        whole = {
            name: _by_threads(kind, [own[count] for count in threads])
            for name, own in found.items()
            if len(own) == len(threads)
        }
        heading = f"{kind.name}, {' / '.join(map(str, threads))} threads"
        if len(whole) > 1:
            columns = {key: [own[key] for own in whole.values()] for key in next(iter(whole.values()))}
            means = {key: [geometric_mean(each) for each in zip(*own, strict=True)] for key, own in columns.items()}
            yield Figure(f"{heading}, geometric mean of {len(whole)}", date, commit, means)
        for name, values in whole.items():
            yield Figure(f"{heading}, {name}", date, commit, values)


def _by_threads(kind: Kind, rows: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    found = {RATIO: [row["torch"] / row["ours"] for row in rows]}
    if kind.share and all(row["share"] is not None for row in rows):
        found[kind.share] = [row["share"] for row in rows]
        found[f"PyTorch's {kind.share}"] = [row["torch_share"] for row in rows]
    return found


def _demo(run: Mapping[str, Any], date: str, commit: str) -> Iterator[Figure]:
    for each in run["separable"]:
        share = each["multiplications"] / run["dense"]["multiplications"]
        for operators, promises in each["promises"].items():
            what = f"make demo, promise kept at {share:.0%}, {operators}, batch {' / '.join(promises)}"
            kept = [promise["promise_kept"] for promise in promises.values()]
            yield Figure(what, date, commit, {"promise kept": kept})


def rounded(figure: Figure) -> dict[str, Any]:
    values = {heading: [float(f"{number:.3g}") for number in numbers] for heading, numbers in figure.values.items()}
    return asdict(figure) | {"values": values}


def main(kind: str, paths: Sequence[str], folder: Path = RESULTS) -> Path:
    """Write what is kept of runs on one kind of machine; the name is the kind's and the last run's day."""
    runs = [json.loads(Path(path).read_text(encoding="utf-8")) for path in paths]
    if not runs:
        raise DepthwiseError("give the JSON files of the runs")
    machine = runs[-1]["machine"]
    content = {
        "machine": f"{machine['cpu']}, {machine['threads']} threads; {kind}",
        "torch": machine["torch"],
        "figures": [rounded(figure) for run in runs for figure in figures_of(run)],
    }
    path = folder / f"{kind}-{str(runs[-1]['date'])[:10]}.json"
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


if __name__ == "__main__":
    print(main(sys.argv[1], sys.argv[2:]))  # noqa: T201
