"""torch.compile with our backend: inference is frozen, weights that change are seen, training is left to torch."""

from __future__ import annotations

import tomllib
import warnings
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from depthwise.optimize import dynamo
from depthwise.optimize.dynamo import MOST_FROZEN, Frozen, backend
from tests.support.networks import Calls
from tests.support.whole import difference, randomised


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def block() -> tuple[nn.Module, nn.Conv2d, nn.Conv2d]:
    """A separable block and its two convolutions."""
    first, last = nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.Conv2d(4, 6, 1)
    return randomised(nn.Sequential(first, nn.BatchNorm2d(4), nn.ReLU(inplace=True), last)), first, last


@pytest.fixture
def frozen(monkeypatch: pytest.MonkeyPatch) -> list[Frozen]:
    """Every graph that was frozen."""
    made: list[Frozen] = []

    class Seen(Frozen):
        def __init__(self, module: Any) -> None:
            super().__init__(module)
            made.append(self)

    monkeypatch.setattr(dynamo, "Frozen", Seen)
    return made


def test_it_is_found_by_its_name() -> None:
    scripts = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]["entry-points"]
    (place,) = scripts["torch_dynamo_backends"].values()
    assert place == f"{backend.__module__}:{backend.__name__}"
    # An installation from before the entry point does not have it yet.
    installed = {entry.name: entry.value for entry in entry_points(group="torch_dynamo_backends")}
    assert installed.get("depthwise", place) == place


def test_inference_is_frozen(frozen: list[Frozen]) -> None:
    model, *_ = block()
    compiled = torch.compile(model, backend=backend)
    with torch.no_grad():
        for sizes in ((2, 4, 9, 9), (5, 4, 9, 9), (2, 4, 12, 7)):
            assert (compiled(torch.ones(sizes)) - model(torch.ones(sizes))).abs().max() < 1e-5
    assert frozen
    reports = [run.report for graph in frozen for run, _ in graph.kept.values()]  # type: ignore[attr-defined]
    assert all(report.convolutions == (2, 2) for report in reports)
    assert difference(model, model, torch.ones(1, 4, 8, 8)) <= 1


def test_weights_that_change_are_seen(frozen: list[Frozen]) -> None:
    model, first, last = block()
    compiled = torch.compile(model, backend=backend)
    x = torch.randn(2, 4, 9, 9)
    with torch.no_grad():
        for factor in range(MOST_FROZEN + 2):
            first.weight.mul_(1 + factor)
            assert torch.allclose(compiled(x), model(x), rtol=1e-4, atol=1e-4)
        last.bias = nn.Parameter(torch.ones(6))
        assert torch.allclose(compiled(x), model(x), rtol=1e-4, atol=1e-4)
    assert max(len(graph.kept) for graph in frozen) == MOST_FROZEN


def test_training_is_left_to_torch_with_a_warning() -> None:
    model, first, _ = block()
    compiled = torch.compile(model, backend=backend)
    with pytest.warns(UserWarning, match="runs a graph that computes gradients by PyTorch's own operators"):
        compiled(torch.ones(2, 4, 9, 9)).sum().backward()
    assert first.weight.grad is not None


def test_what_is_refused_is_told_and_runs() -> None:
    def forward(x: Tensor) -> Tensor:
        return x.relu_() * 2

    compiled = torch.compile(Calls(forward), backend=backend)
    x = -torch.ones(2, 3)
    with (
        torch.no_grad(),
        pytest.warns(UserWarning, match="leaves a graph to PyTorch: aten.relu_.default.* writes into"),
    ):
        result = compiled(x)
    assert torch.equal(result, torch.zeros(2, 3))
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(compiled(x), torch.zeros(2, 3))
