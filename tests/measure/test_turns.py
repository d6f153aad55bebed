"""Candidates take turns, for as long as was asked."""

import torch
from torch import Tensor

from depthwise.measure.turns import Effort, take_single_turns, take_turns


def test_the_candidates_take_turns() -> None:
    called: list[str] = []

    def call(name: str) -> Tensor:
        called.append(name)
        return torch.zeros(1)

    calls = {(name, "contiguous"): lambda name=name: call(name) for name in "AB"}
    rounds: list[None] = []
    samples = take_turns(calls, Effort(3, 0, 10), lambda: rounds.append(None))
    # The first of each pair is not timed.
    assert "".join(called[-12:]) == "AABBAABBAABB"
    assert len(rounds) == 3
    assert [len(taken) for taken in samples.values()] == [3, 3]


def test_no_new_round_after_the_limit_but_two_rounds_at_least() -> None:
    samples = take_turns({("A", "contiguous"): lambda: torch.zeros(1)}, Effort(100, 0, 0), lambda: None)
    assert [len(taken) for taken in samples.values()] == [2]


def test_single_turns() -> None:
    called: list[str] = []
    calls = {(name, ""): lambda name=name: called.append(name) for name in "AB"}
    assert [len(taken) for taken in take_single_turns(calls, 3, 10.0).values()] == [3, 3]
    assert "".join(called) == "ABABAB"
    assert [len(taken) for taken in take_single_turns(calls, 9, 0.0).values()] == [2, 2]
