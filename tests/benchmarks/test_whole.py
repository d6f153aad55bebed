"""Whole networks beside other engines: what a row says, and what is not timed."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from benchmarks.whole.alone import Alone, Cost
from benchmarks.whole.alone import cost as cost_of
from benchmarks.whole.engines import ENGINES, OURS, UNTRIED, Engine, present
from benchmarks.whole.rows import NETWORKS, Row, Taken, document, second_mean
from benchmarks.whole.run import measured
from depthwise.measure.turns import Effort

SHORT = Effort(rounds=2, sample_seconds=0, limit_seconds=0)


def row(network: str, ours: float | None, **others: float) -> Row:
    taken = [Taken(OURS, ours, 1e-6), *(Taken(name, value, 1e-6) for name, value in others.items())]
    return Row(network, 1, 224, 1, "all", tuple(taken))


def test_the_fastest_float32_peer_counts() -> None:
    found = row("mobilenetv2_100", 5.0, **{"eager, contiguous": 9.0, "ncnn": 6.0, "OpenVINO, as it comes": 1.0})
    assert (found.peer and found.peer.engine, found.ratio, found.target) == ("ncnn", 1.2, 1.35)


def test_ordinary_networks_are_compared_with_pytorch() -> None:
    assert row("resnet18", 5.0, **{"eager, contiguous": 9.0, "ncnn": 6.0}).ratio == 1.8


def test_the_worst_row_comes_first_and_failures_are_shown() -> None:
    failed = Row("resnet50", 1, 224, 1, "all", (Taken(OURS, None, None, "wrong by 1e+00"),))
    rows = [row("mnasnet_100", 1.0, ncnn=2.0), row("mobilenetv2_100", 2.0, ncnn=1.0), failed]
    lines = [line for line in document(rows, "here", {"zen": "not installed"}).splitlines() if line.startswith("| ")]
    assert [line.split(" ")[1] for line in lines[1:]] == ["resnet50", "mobilenetv2_100", "mnasnet_100"]
    assert "wrong by 1e+00" in lines[1]
    assert second_mean(rows, 1) == pytest.approx(2.0)
    assert second_mean(rows, 2) is None


def test_what_it_takes_to_get_there_is_told() -> None:
    cost = Cost(Alone(7.5, 3 << 20), Alone(0.8, 2 << 20), Alone(0.1, None))
    lines = document([replace(row("mobilenetv2_100", 1.0), cost=cost)], "here", {}).splitlines()
    assert "| mobilenetv2_100 | 1 | 7.5 | 0.8 | 2 | - |" in lines


@pytest.mark.slow
def test_a_process_of_its_own() -> None:
    found = cost_of("mobilenetv3_small_050", 1, 64, 1)
    assert 0 < found.warm.seconds < found.cold.seconds
    if sys.platform == "linux":
        assert found.warm.peak_bytes is not None
        assert found.eager.peak_bytes is not None
        assert 1 << 20 < found.eager.peak_bytes < 1 << 30


def wrong(_: nn.Module, x: Tensor, __: int) -> object:
    return lambda: torch.zeros(len(x), 1000)


def broken(*_: object) -> object:
    raise RuntimeError("no such operator")


def test_an_engine_that_is_wrong_or_fails_is_not_timed() -> None:
    engines = [*ENGINES[:2], Engine("wrong", wrong), Engine("broken", broken)]  # type: ignore[arg-type]
    before = torch.get_num_threads()
    found = measured("mobilenetv3_small_050", 1, 64, 1, engines, SHORT)
    assert torch.get_num_threads() == before
    by_name = {one.engine: one for one in found.taken}
    assert by_name[OURS].milliseconds is not None
    assert by_name["wrong"].failure == "wrong by 1e+00"
    assert by_name["broken"].failure == "RuntimeError: no such operator"
    assert by_name["wrong"].milliseconds is by_name["broken"].milliseconds is None


def test_who_is_left_out_is_told() -> None:
    taking_part, absent = present(["eager"])
    assert absent["eager, contiguous"] == "left out as asked"
    everybody = {engine.name for engine in ENGINES} | UNTRIED.keys()
    assert {engine.name for engine in taking_part} | absent.keys() == everybody
    assert absent["zentorch"] == "no version of it was installable beside the pinned torch"
    assert len(set(NETWORKS)) == len(NETWORKS)
