"""The report of made-up runs: losses first, failures shown, targets reached, missed or incomplete; and a real one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks.cases import ALONE, CASES
from benchmarks.peers import Absent
from benchmarks.report import document, losses
from benchmarks.run import FULL, app
from benchmarks.suite import Commit, Suite, commit
from benchmarks.targets import TARGETS, Verdict, verdicts
from depthwise.bench.cases import MOBILENET_V1, Case
from depthwise.bench.rows import DENSE, OURS, TORCH, Failure, Row
from depthwise.doctor import MachineReport
from tests.test_bench import PEAKS, row

MACHINE = MachineReport("0.1.0", "2.13", "3.11", "Linux", "a | cpu", 2, None, ())
FIRST, SECOND = MOBILENET_V1[:2]


def timed(case: Case, ours: float, torch: float, dense: float = 1.0) -> Row:
    """A made-up row; seconds in channels last, twice as long on contiguous input."""
    times = {OURS: ours, TORCH: torch, DENSE: dense}
    return row(
        case, {(name, layout): s * (1 + (layout == "contiguous")) for name, s in times.items() for layout in BOTH}
    )


BOTH = ("channels_last", "contiguous")


def suite(*rows: Row) -> Suite:
    absent = (Absent("openvino", "not installed: openvino"),)
    return Suite(
        rows, (PEAKS,), absent, MACHINE, {"torch": "2.13"}, Commit("a" * 40, dirty=True), "2026-11-22 12:00", FULL
    )


def at_peak(case: Case, share: float) -> Row:
    """On one thread, at this share of the FMA peak."""
    seconds = timed(case, 1.0, 1.0).work.flops / (share * 100e9)
    return timed(case, seconds, 3 * seconds, 100 * seconds)


def verdict(rows: list[Row], what: str) -> Verdict:
    return next(found for found in verdicts(rows) if what in found.target.what)


# Losses


def test_losses_come_first_and_the_worst_is_first_among_them() -> None:
    # In channels last the second is lost; on contiguous input, twice as slow, both.
    rows = [timed(FIRST, ours=1.0, torch=1.5), timed(SECOND, ours=3.0, torch=2.0)]
    found = losses(rows)
    assert [(loss.row.case, loss.layout) for loss in found] == [
        (SECOND, "contiguous"),
        (SECOND, "channels_last"),
        (FIRST, "contiguous"),
    ]
    assert [loss.ratio for loss in found] == pytest.approx([1 / 3, 2 / 3, 3 / 4])
    page = document(suite(*rows))
    titles = [line for line in page.splitlines() if line.startswith("## ")]
    assert titles[0] == "## Where a peer is faster: 3 of 4"
    assert titles[1] == "## Not timed: nothing"
    assert titles[2] == "## What was asked for"
    assert titles[-1] == "## How it was measured"
    assert "| 0.33 |" in page


def test_the_dense_convolution_is_no_peer() -> None:
    assert losses([timed(FIRST, ours=1.0, torch=4.0, dense=0.1)]) == []


def test_without_losses_the_title_stays() -> None:
    assert "## Where a peer is faster: 0 of 2\n" in document(suite(timed(FIRST, 1.0, 4.0)))


def test_a_failing_row_is_in_the_report_with_its_reason() -> None:
    failure = Failure(OURS, "contiguous", "3 of 9 outputs | wrong")
    page = document(suite(row(FIRST, {(TORCH, "contiguous"): 1.0, (OURS, "channels_last"): 0.5}, (failure,))))
    assert "## Not timed: 1\n" in page
    assert f"| MobileNetV1 | {FIRST.name} | 1 | depthwise | contiguous | 3 of 9 outputs \\| wrong |" in page
    assert "| failed |" in page


def test_every_line_of_a_table_has_as_many_cells() -> None:
    page = document(suite(*(timed(case, 1.0, 1.5) for case in MOBILENET_V1)))
    tables = [part.splitlines() for part in page.split("\n\n") if part.startswith("| ")]
    assert len(tables) == 3
    for lines in tables:
        assert len({line.replace("\\|", "").count("|") for line in lines}) == 1


def test_the_report_says_on_what_it_was_measured() -> None:
    page = document(suite(timed(FIRST, 1.0, 2.0)))
    for fact in (
        "2026-11-22 12:00",
        "aaaaaaa with changes",
        "torch 2.13",
        "FMA peak 100 GFLOP/s",
        "openvino is absent",
    ):
        assert fact in page


def test_times_of_a_network_count_each_layer_as_often_as_it_occurs() -> None:
    page = document(suite(timed(FIRST, 0.001, 0.002), timed(replace(SECOND, count=5), 0.002, 0.003)))
    assert "depthwise 11.00 ms, torch 17.00 ms" in page


# Targets


def test_a_target_is_reached_where_the_mean_and_each_are() -> None:
    found = verdict([at_peak(case, 0.95) for case in MOBILENET_V1], "share of the FMA peak")
    assert (found.status, found.measured, found.asked) == ("reached", 9, 9)
    assert found.reached == pytest.approx(0.95)


@pytest.mark.parametrize(("last", "status"), [(0.89, "reached"), (0.87, "missed")])
def test_one_block_has_its_own_least(last: float, status: str) -> None:
    rows = [at_peak(case, 0.95) for case in MOBILENET_V1[:-1]] + [at_peak(MOBILENET_V1[-1], last)]
    found = verdict(rows, "share of the FMA peak")
    assert found.status == status
    assert found.worst is not None
    assert found.worst[0] == MOBILENET_V1[-1].name
    assert found.worst[1] == pytest.approx(last)


def test_a_target_is_missed_where_one_case_is_below_its_least() -> None:
    rows = [at_peak(FIRST, 0.80)] + [at_peak(case, 0.99) for case in MOBILENET_V1[1:]]
    assert verdict(rows, "share of the FMA peak").status == "missed"


def test_a_target_is_missed_where_the_mean_is_below() -> None:
    assert verdict([at_peak(case, 0.91) for case in MOBILENET_V1], "share of the FMA peak").status == "missed"


def test_a_target_with_a_failing_case_is_missed() -> None:
    failing = row(FIRST, {(TORCH, "contiguous"): 1.0}, (Failure(OURS, "channels_last", "wrong"),))
    found = verdict([failing, *(at_peak(case, 0.99) for case in MOBILENET_V1[1:])], "share of the FMA peak")
    assert (found.status, found.measured) == ("missed", 8)


def test_a_target_with_cases_left_out_is_incomplete() -> None:
    assert verdict([at_peak(case, 0.99) for case in MOBILENET_V1[1:]], "share of the FMA peak").status == "incomplete"
    assert verdict([at_peak(FIRST, 0.99)], "depthwise alone").status == "not measured"


def test_contiguous_input_has_its_own_target() -> None:
    rows = [timed(case, ours=1.0, torch=3.0) for case in CASES[ALONE]]
    # In channels last 3 times as fast; on contiguous input half of that.
    assert verdict(rows, "depthwise alone against").status == "reached"
    assert verdict(rows, "contiguous").status == "missed"


def test_the_targets_name_layers_that_are_measured() -> None:
    for target in TARGETS:
        assert set(target.networks) <= set(CASES)
        names = {case.name for network in target.networks for case in CASES[network]}
        assert {name for name, _ in target.exceptions} <= names


# The file and the command


def test_a_run_is_written_by_day_and_commit(tmp_path: Path) -> None:
    path = suite(timed(FIRST, 1.0, 2.0)).write(tmp_path / "results")
    assert path.name == "2026-11-22-aaaaaaa.json"
    read = json.loads(path.read_text(encoding="utf-8"))
    assert read["commit"] == {"sha": "a" * 40, "dirty": True}
    assert read["rows"][0]["ratios"]["channels_last"]["speedup"] == 2
    assert read["rows"][0]["case"]["geometry"]["out_channels"] == 64


def test_outside_a_repository_the_commit_is_unknown(tmp_path: Path) -> None:
    assert commit(tmp_path) == Commit("unknown", dirty=False)
    assert str(Commit("0123456789", dirty=False)) == "0123456"


def test_a_quick_run_writes_its_files(tmp_path: Path) -> None:
    arguments = ["--quick", "--only", "smallest", "--threads", "1", "--results", str(tmp_path)]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    (path,) = tmp_path.glob("*.json")
    read = json.loads(path.read_text(encoding="utf-8"))
    assert [found["case"]["network"] for found in read["rows"]] == ["smallest call", "smallest call"]
    assert not any(failure["candidate"] == OURS for found in read["rows"] for failure in found["failures"])
    assert "## smallest call, 1 thread" in (tmp_path / "report.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "alexnet"], "no network or list is called 'alexnet'"),
        (["--threads", "1;2"], "is not numbers joined"),
    ],
)
def test_a_misused_command_says_what_it_takes(arguments: list[str], message: str) -> None:
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 2
    assert message in " ".join(done.output.replace("│", " ").split())
