"""The registry: order, refusals, asking by name, and what is said when that fails."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from torch import Tensor

import depthwise
from depthwise import DepthwiseError, backends, functional
from depthwise.backends import EAGER, Choice, asked_backend, choose, observed_choices
from depthwise.backends.base import Backend, Weights
from depthwise.backends.problem import Problem
from depthwise.geometry import geometry

PROBLEM = Problem("depthwise", geometry((8, 9, 9), 3), torch.float32, "cpu")
X, WEIGHT = torch.ones(1, 8, 9, 9), torch.ones(8, 1, 3, 3)


class Doubling(Backend):
    """Twice what eager gives, float32 only: a stand-in that shows in the result."""

    name = "doubling"
    summary = "twice the result"

    def refusal(self, problem: Problem) -> str | None:
        return None if problem.dtype == torch.float32 else f"{problem.dtype} is not supported"

    def run(self, x: Tensor, weights: Weights, problem: Problem) -> Tensor:
        return 2 * EAGER.run(x, weights, problem)


@pytest.fixture
def doubling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "BACKENDS", (Doubling(), EAGER))
    depthwise.repack_()


def test_eager_is_last_and_refuses_nothing() -> None:
    assert backends.BACKENDS[-1] is EAGER
    assert EAGER.refusal(PROBLEM) is None


@pytest.mark.usefixtures("doubling")
class TestTwoBackends:
    def test_the_first_that_does_not_refuse_runs(self) -> None:
        assert functional.depthwise_conv2d(X, WEIGHT).max() == 18
        assert functional.depthwise_conv2d(X.double(), WEIGHT.double()).max() == 9

    def test_the_separable_form_goes_through_the_registry_too(self) -> None:
        assert functional.separable_conv2d(X, WEIGHT, torch.ones(4, 8, 1, 1)).max() == 2 * 72

    def test_a_choice_says_why(self) -> None:
        choice = choose(Problem("depthwise", PROBLEM.geometry, torch.float64, "cpu"))
        assert choice.backend is EAGER
        assert choice.refusals == (("doubling", "torch.float64 is not supported"),)
        assert choice.reason == "doubling refuses: torch.float64 is not supported"
        assert choose(PROBLEM).reason == "twice the result"

    def test_asking_by_name(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with depthwise.backend("eager"):
            assert functional.depthwise_conv2d(X, WEIGHT).max() == 9
            with depthwise.backend(None):
                assert functional.depthwise_conv2d(X, WEIGHT).max() == 18
            assert asked_backend() == "eager"
        assert asked_backend() is None
        monkeypatch.setenv("DEPTHWISE_BACKEND", "eager")
        backends.read_environment.cache_clear()
        assert functional.depthwise_conv2d(X, WEIGHT).max() == 9
        with depthwise.backend("doubling"):
            assert functional.depthwise_conv2d(X, WEIGHT).max() == 18
        with depthwise.backend(None):
            assert functional.depthwise_conv2d(X, WEIGHT).max() == 18

    def test_asking_for_what_refuses_raises(self) -> None:
        message = "the backend 'doubling' was asked for and refuses: torch.float64 is not supported; ask for another"
        with depthwise.backend("doubling"), pytest.raises(DepthwiseError, match=message):
            functional.depthwise_conv2d(X.double(), WEIGHT.double())

    def test_exporting_emits_plain_convolutions(self) -> None:
        class Model(torch.nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                return functional.depthwise_conv2d(x, WEIGHT)

        program = torch.export.export(Model(), (X,))
        targets = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
        assert targets == {"aten.conv2d.default"}

    def test_a_compiled_program_runs_the_chosen_backend(self) -> None:
        compiled: Any = torch.compile(functional.depthwise_conv2d, backend="aot_eager", fullgraph=True)
        assert compiled(X, WEIGHT).max() == 18


def test_unknown_names(monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        pytest.raises(DepthwiseError, match=r"backend\(...\) names the backend 'gpu'; here there are: cpu, eager"),
        depthwise.backend("gpu"),
    ):
        pass
    monkeypatch.setenv("DEPTHWISE_BACKEND", "fast")
    backends.read_environment.cache_clear()
    with pytest.raises(DepthwiseError, match="DEPTHWISE_BACKEND names the backend 'fast'; here there are: cpu, eager"):
        functional.depthwise_conv2d(X, WEIGHT)


def test_the_choice_belongs_to_its_thread() -> None:
    seen: list[str | None] = []
    with depthwise.backend("eager"):
        thread = threading.Thread(target=lambda: seen.append(asked_backend()))
        thread.start()
        thread.join()
    assert seen == [None]


def test_choices_are_observed() -> None:
    choices: list[Choice] = []
    with observed_choices(choices.append):
        functional.depthwise_conv2d(X, WEIGHT, stride=2)
    functional.depthwise_conv2d(X, WEIGHT)
    (choice,) = choices
    assert choice.backend is backends.CPU
    sizes = geometry((8, 9, 9), 3, 2)
    assert choice.problem == Problem(
        "depthwise", sizes, torch.float32, "cpu", 1, (648, 81, 9, 1), result=(128, 16, 4, 1)
    )
