"""Random calls: what the seed says, of every kind, short; their report by cluster, and a wrong value in it."""

from __future__ import annotations

import json
from math import prod
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor
from typer.testing import CliRunner

from benchmarks import run as commands
from benchmarks.clusters import CLUSTERS, MOST, calls, document, loses
from benchmarks.draws import MOST_BYTES, MOST_MACS, drawn
from benchmarks.run import RANDOM_CANDIDATES, app
from depthwise.bench.calls import Call
from depthwise.bench.candidates import Candidate
from depthwise.bench.cases import Case, Tensors
from depthwise.bench.roofline import work_of
from depthwise.bench.rows import OURS, TORCH, Failure
from tests.benchmarks.test_report import suite
from tests.test_bench import row, spoiled

EVERY = drawn(300, seed=0)


def test_the_list_is_what_the_seed_says() -> None:
    assert [(case.name, case.geometry.padding) for case in EVERY[:4]] == [
        ("1x1 d3 11 @24x21", ((0, 0), (0, 0))),
        ("4x4 s4x1 1088 multiplier 6 @17x29", ((0, 0), (0, 0))),
        ("5x3x3 s2 8→7 @31x33x21 batch 16", ((2, 2), (1, 1), (1, 1))),
        ("7 94→6 @101 batch 2 +residual", ((3, 3),)),
    ]
    assert drawn(20, seed=0) == EVERY[:20]
    assert drawn(20, seed=1) != EVERY[:20]
    assert {case.network for case in drawn(2, seed=7)} == {"random calls, seed 7"}


def test_the_list_has_calls_of_every_kind() -> None:
    for name, fits in CLUSTERS.items():
        assert sum(map(fits, EVERY)) >= 8, name
    assert {case.depthwise_activation for case in EVERY} == {None, "relu"}
    assert {case.residual for case in EVERY} == {False, True}
    assert {case.batch for case in EVERY} == {1, 2, 4, 16}


def test_every_call_is_short_and_has_something_to_compute() -> None:
    for case in EVERY:
        work = work_of(case, 1)
        assert 0 < work.flops <= 2 * (MOST_MACS + case.batch * prod(case.geometry.output_size)), case.name
        assert case.geometry.out_channels is not None or work.bytes_moved <= 1.2 * MOST_BYTES
        # As the gate and torch's way without a padded copy need it.
        assert all(before == after for before, after in case.geometry.padding)


def timed(case: Case, ratio: float) -> dict[tuple[str, str], float]:
    """Ours takes `ratio` times as long as PyTorch on contiguous input, half of that on channels-last."""
    return {
        (OURS, "contiguous"): ratio,
        (OURS, "channels_last"): ratio / 2,
        (TORCH, "contiguous"): 1.0,
        (TORCH, "channels_last"): 3.0,
    }


def test_losses_come_first_and_a_call_belongs_to_each_cluster_that_it_fits() -> None:
    sequence = next(case for case in EVERY if case.geometry.rank == 1)
    image = next(case for case in EVERY if case.geometry.rank == 2)
    rows = [row(case, timed(case, ratio)) for case, ratio in ((sequence, 1.0), (image, 1.5))]
    assert [(call.number, call.layout, call.ratio) for call in calls(rows)] == [
        (0, "channels_last", 0.5),
        (0, "contiguous", 1.0),
        (1, "channels_last", 0.75),
        (1, "contiguous", 1.5),
    ]
    assert [loses(one) for one in rows] == [False, True]
    page = document(suite(*rows))
    assert f"1 of 4 calls over {MOST}, ours ÷ torch 0.88 in the median" in page
    kinds = [line.split(" | ")[0].strip("| ") for line in page.splitlines() if " | contiguous | " in line]
    assert kinds.index("images") < kinds.index("sequences")
    assert f"| 1 | {image.name} | " in page
    assert f"| 0 | {sequence.name} | " not in page


def test_a_call_that_failed_is_in_the_report() -> None:
    case = EVERY[0]
    failure = Failure(OURS, "contiguous", "3 of 9 outputs are wrong")
    times = {key: seconds for key, seconds in timed(case, 1.0).items() if key != (OURS, "contiguous")}
    page = document(suite(row(case, times, (failure,))))
    assert "## Not timed: 1\n" in page
    assert "3 of 9 outputs are wrong" in page
    assert "0 of 1 calls over" in page


def _quick(folder: Path, *arguments: str) -> tuple[list[dict[str, Any]], str]:
    words = ["--quick", "--random", "2", "--seed", "3", "--threads", "1", "--results", str(folder), *arguments]
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    (path,) = folder.glob("random-*.json")
    rows: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["rows"]
    return rows, done.output


def test_a_run_measures_the_calls_of_its_seed_in_both_layouts(tmp_path: Path) -> None:
    rows, output = _quick(tmp_path)
    assert [found["name"] for found in rows] == [case.name for case in drawn(2, seed=3)]
    assert all(len(found["timings"]) == 4 and not found["failures"] for found in rows)
    assert "of 4 calls over 1.1" in output
    assert "Random calls, seed 3" in (tmp_path / "random.md").read_text(encoding="utf-8")


def test_a_wrong_value_is_noticed_and_its_time_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, torch = RANDOM_CANDIDATES

    def build(case: Case, tensors: Tensors, layout: str, threads: int) -> Call:
        call = ours.build(case, tensors, layout, threads)

        def wrong() -> Tensor:
            return spoiled(call())

        return wrong if layout == "contiguous" else call

    monkeypatch.setattr(commands, "RANDOM_CANDIDATES", (Candidate(OURS, build), torch))
    rows, output = _quick(tmp_path)
    for found in rows:
        (failure,) = found["failures"]
        assert (failure["candidate"], failure["layout"]) == (OURS, "contiguous")
        assert "1 of" in failure["reason"]
    assert "of 2 calls over 1.1" in output
    assert "2 not timed" in output


def test_random_calls_take_the_place_of_lists() -> None:
    done = CliRunner().invoke(app, ["--random", "3", "--only", "v1"])
    assert done.exit_code == 2
    assert "exclude each other" in " ".join(done.output.replace("│", " ").split())
