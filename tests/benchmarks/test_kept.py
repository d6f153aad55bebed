"""Figures that are kept: what is taken of a run, and that tables with figures show what their files hold."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from benchmarks.cases import ODD
from benchmarks.kept import main
from depthwise.bench.training.rows import NORMS, STEPS

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
PAGES = [ROOT / "README.md", *(ROOT / "docs" / name for name in ("networks.md", "training.md"))]
MARK = re.compile(r"<!-- figures: ([^>]+) -->\n\n((?:\|.*\n)+)")


def wrong_cells(table: str, figures: list[dict[str, Any]]) -> list[str]:
    """Rows of a Markdown table that no figure of the same name has, or has other numbers for.

    What the names of all rows begin with may stand in the table's first cell, alone.
    """
    head, _, *rows = [[cell.strip() for cell in line.strip()[1:-1].split("|")] for line in table.splitlines()]
    found, begin = [], f"{head[0]}, " if "threads" in head[0] else ""
    for what, *cells in rows:
        shown = {heading: [float(number) for number in cell.split(" / ")] for heading, cell in zip(head[1:], cells)}  # noqa: B905
        kept = [figure["values"] for figure in figures if figure["what"] == begin + what]
        if not any(all(values.get(heading) == numbers for heading, numbers in shown.items()) for values in kept):
            found.append(what)
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_tables_show_what_was_measured(page: Path) -> None:
    tables = MARK.findall(page.read_text(encoding="utf-8"))
    assert tables
    for files, table in tables:
        contents = [json.loads((ROOT / name).read_text(encoding="utf-8")) for name in files.split()]
        assert not wrong_cells(table, [figure for content in contents for figure in content["figures"]])


def test_every_table_of_numbers_in_the_readme_names_its_file() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    tables = re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE)
    marked = {table for _, table in MARK.findall(text)}
    assert {table for table in tables if re.search(r"\| \d+\.\d", table)} == marked


def test_every_kept_file_is_shown() -> None:
    """By a table; what is measured for those who change kernels stands in benchmarks/tuning.md."""
    shown = "".join(page.read_text(encoding="utf-8") for page in [*PAGES, ROOT / "benchmarks" / "tuning.md"])
    assert not [path.name for path in RESULTS.glob("[a-z]*-20*.json") if path.name not in shown]


@pytest.mark.parametrize("path", sorted(RESULTS.glob("[a-z]*-20*.json")), ids=lambda path: path.name)
def test_a_kept_file_says_where_and_when(path: Path) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content["machine"]
    assert content["torch"]
    assert path.stat().st_size < 30_000
    for figure in content["figures"]:
        assert re.fullmatch(r"20\d\d-\d\d-\d\d", figure["date"])
        assert re.fullmatch(r"[0-9a-f]{7}", figure["commit"])
        assert all(isinstance(number, float) for numbers in figure["values"].values() for number in numbers)


def test_a_wrong_number_is_seen() -> None:
    figures = [{"what": "a", "values": {"ours": [1.0, 2.0]}}]
    table = "| | ours |\n|---|---|\n| a | {} |\n"
    assert not wrong_cells(table.format("1.00 / 2.0"), figures)
    assert wrong_cells(table.format("1.00 / 2.1"), figures) == ["a"]
    assert wrong_cells(table.replace("| a |", "| b |").format("1 / 2"), figures) == ["b"]
    assert wrong_cells(table.replace("| | ours", "| | mine").format("1 / 2"), figures) == ["a"]
    longer = [{"what": "2 threads, a", "values": {"ours": [1.0, 2.0], "theirs": [3.0]}}]
    assert not wrong_cells(table.replace("| | ours", "| 2 threads | ours").format("1 / 2"), longer)
    assert wrong_cells(table.replace("| | ours", "| 1 threads | ours").format("1 / 2"), longer) == ["a"]


MACHINE = {"cpu": "a CPU", "threads": 2, "torch": "2.13.0"}


def layer(name: str, threads: int, promise: float, speedup: float) -> dict[str, Any]:
    return {
        "case": {"network": "Net"},
        "name": name,
        "threads": threads,
        "timings": [{"candidate": candidate} for candidate in ("depthwise", "torch", "dense")],
        "ratios": {"channels_last": {"promise_kept": promise, "speedup": speedup}},
    }


def test_of_odd_blocks_the_bound_is_kept(tmp_path: Path) -> None:
    rows = [
        {
            "case": {"network": ODD},
            "name": "block",
            "threads": threads,
            "timings": [
                {"candidate": candidate, "layout": layout, "seconds": {"median": 1e-5 / threads}}
                for candidate, layout in (("depthwise", "channels_last"), ("depthwise", "contiguous"), ("torch", "any"))
            ],
            "ratios": {},
            "least_seconds": 8e-6 / threads,
        }
        for threads in (1, 2)
    ]
    run = {"date": "2026-11-30 10:00", "commit": {"sha": "0123456789"}, "machine": MACHINE, "rows": rows}
    path = tmp_path / "run.json"
    path.write_text(json.dumps(run))
    (figure,) = json.loads(main("zen4", [str(path)], tmp_path).read_text())["figures"]
    assert figure["what"] == "odd blocks, block, 1 / 2 threads, microseconds"
    assert figure["values"] == {"ours": [10.0, 5.0], "bound": [8.0, 4.0]}


def test_what_is_kept_of_runs(tmp_path: Path) -> None:
    rows = [layer(name, threads, promise, 2.0) for name, promise in (("x", 1.0), ("y", 4.0)) for threads in (1, 2)]
    layers = {"date": "2026-11-30 10:00", "commit": {"sha": "0123456789"}, "machine": MACHINE, "rows": rows}
    times = {
        "depthwise": 8.3456,
        "a": 10.0,
        "b, as it comes": 2.0,
        "eager, contiguous": 30.0,
        "eager, last": 20.0,
        "c": None,
    }
    taken = [{"engine": engine, "milliseconds": time} for engine, time in times.items()]
    halved = [{"engine": engine, "milliseconds": time and time / 2} for engine, time in times.items() if engine != "a"]
    row = {"network": "net", "size": 224, "batch": 1}
    networks = [{**row, "threads": 2, "taken": halved}, {**row, "threads": 1, "taken": taken}]
    whole = {"date": "2026-11-30 11:00", "commit": "0123456 with changes", "machine": MACHINE, "rows": networks}
    promises = {"ours": {"1": {"promise_kept": 0.4}, "64": {"promise_kept": 0.5}}}
    demo = {
        "date": "2026-11-30 12:00",
        "machine": MACHINE,
        "dense": {"multiplications": 100},
        "separable": [{"multiplications": 29, "promises": promises}],
    }
    steps = [
        {"kind": STEPS.name, "name": name, "threads": threads, "ours": 1.0, "torch": times * threads, "share": None}
        for name, times in (("small", 1.0), ("large", 4.0))
        for threads in (1, 2)
    ]
    shares = {"ours": 2.0, "torch": 4.0, "share": 0.5, "torch_share": 0.25}
    steps.append({"kind": NORMS.name, "name": "norm", "threads": 1, **shares})
    training = {"date": "2026-11-30 11:30", "commit": {"sha": "0123456789"}, "machine": MACHINE, "training": steps}
    paths = []
    for number, run in enumerate((layers, whole, training, demo)):
        paths.append(tmp_path / f"{number}.json")
        paths[-1].write_text(json.dumps(run))
    written = main("zen4", [str(path) for path in paths], tmp_path)
    assert written.name == "zen4-2026-11-30.json"
    found = {figure["what"]: figure["values"] for figure in json.loads(written.read_text())["figures"]}
    both = {"ours": [2.0, 2.0], "PyTorch's operators": [1.0, 1.0]}
    assert found == {
        "Net, promise kept, 1 / 2 threads, geometric mean of 2": both,
        "Net, promise kept, 1 / 2 threads, x": {"ours": [1.0, 1.0], "PyTorch's operators": [0.5, 0.5]},
        "Net, promise kept, 1 / 2 threads, y": {"ours": [4.0, 4.0], "PyTorch's operators": [2.0, 2.0]},
        "whole networks, milliseconds, 1 / 2 threads, net, batch 1, 224x224": {
            "ours": [8.35, 4.17],
            "b, as it comes": [2.0, 1.0],
            "PyTorch": [20.0, 10.0],
            "fastest ÷ ours": [1.2, 2.4],
        },
        "a training step, 1 / 2 threads, geometric mean of 2": {"PyTorch ÷ ours": [2.0, 4.0]},
        "a training step, 1 / 2 threads, small": {"PyTorch ÷ ours": [1.0, 2.0]},
        "a training step, 1 / 2 threads, large": {"PyTorch ÷ ours": [4.0, 8.0]},
        "batch norm and activation, batch 8, 1 threads, norm": {
            "PyTorch ÷ ours": [2.0],
            "of memcpy": [0.5],
            "PyTorch's of memcpy": [0.25],
        },
        "make demo, promise kept at 29%, ours, batch 1 / 64": {"promise kept": [0.4, 0.5]},
    }
