"""Segments in one program: any batch, many threads at once, nothing kept that grows, results as torch lays them out."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from depthwise import DepthwiseError, backend
from depthwise.backends import CPU
from depthwise.backends.packs import Packs
from depthwise.optimize import whole
from depthwise.optimize.frozen import optimized
from depthwise.optimize.module import MOST_PLANS, Optimized
from depthwise.optimize.planning import plan
from depthwise.optimize.whole import MOST_KEPT, Whole
from tests.support.networks import Calls, InvertedResidual
from tests.support.whole import difference, randomised

Pair = tuple[nn.Module, Optimized]


@pytest.fixture(scope="module")
def pair() -> Pair:
    torch.manual_seed(0)
    layers = [
        *(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU(), InvertedResidual(8, 24, squeeze=4)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)),
    ]
    model = randomised(nn.Sequential(*layers))
    return model, optimized(model, torch.zeros(1, 3, 12, 12))


@pytest.fixture(autouse=True)
def _two_threads() -> None:
    torch.set_num_threads(2)


def program_of(found: Optimized, x: Tensor) -> Whole:
    (program,) = found._plan((x,), len(x)).programs
    assert isinstance(program, Whole)
    return program


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows with each run of a program of ours."""
    ran: list[int] = []
    right = whole.Call.computed

    def computed(self: whole.Call, given: Any) -> Any:
        ran.append(1)
        return right(self, given)

    monkeypatch.setattr(whole.Call, "computed", computed)
    return ran


def test_one_segment_is_one_program(pair: Pair, calls: list[int]) -> None:
    model, found = pair
    for batch in (1, 2, 5, 1):
        assert difference(found, model, torch.randn(batch, 3, 20, 17)) <= 1
    assert len(calls) == 4
    assert found.report.segments == (("cpu", len(found.report.layers)),)
    (figures,) = found.report.programs
    assert figures.stages > 5
    assert 0 <= figures.barriers < figures.stages
    assert figures.arena_bytes > 0


def test_a_batch_of_none_is_torchs(pair: Pair, calls: list[int]) -> None:
    model, found = pair
    assert difference(found, model, torch.randn(0, 3, 20, 17)) <= 1
    assert not calls


@pytest.mark.parametrize("how", ["backend", "grad mode", "dispatch mode"])
def test_where_something_sees_operators_torch_runs(how: str, pair: Pair, calls: list[int]) -> None:
    model, found = pair
    x = torch.randn(2, 3, 12, 12)
    if how == "backend":
        with backend("eager"):
            found(x)
        assert not calls
    elif how == "dispatch mode":
        with FlopCounterMode(display=False) as counted:
            found(x)
        with FlopCounterMode(display=False) as expected:
            model(x)
        assert counted.get_total_flops() == expected.get_total_flops()
        assert not calls
    else:
        with torch.enable_grad():
            assert not found(x).requires_grad
        assert calls


@pytest.mark.parametrize("kind", ["sliced", "transposed", "channels_last", "negated", "expanded"])
def test_inputs_that_lie_otherwise(kind: str, pair: Pair) -> None:
    model, found = pair
    x = torch.randn(2, 3, 12, 12)
    given = {
        "sliced": torch.randn(4, 6, 24, 24)[::2, ::2, ::2, ::2],
        "transposed": x.transpose(2, 3),
        "channels_last": x.contiguous(memory_format=torch.channels_last),
        "negated": x._neg_view(),
        "expanded": x[:1].expand(2, 3, 12, 12),
    }[kind]
    assert difference(found, model, given) <= 1


def test_many_threads_at_once(pair: Pair) -> None:
    model, found = pair
    inputs = [torch.randn(1 + n % 3, 3, 14, 15) for n in range(6)]
    with torch.no_grad():
        expected = [model(x) for x in inputs]
    wrong: list[int] = []
    barrier = threading.Barrier(len(inputs))

    def work(n: int) -> None:
        torch.set_num_threads(1 + n % 2)
        barrier.wait()
        results = [found(inputs[n]) for _ in range(20)]
        wrong.extend(n for y in results if not torch.allclose(y, expected[n], rtol=1e-3, atol=1e-4))

    workers = [threading.Thread(target=work, args=(n,)) for n in range(len(inputs))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


def test_threads_do_not_change_a_bit(pair: Pair) -> None:
    _, found = pair
    x = torch.randn(3, 3, 40, 41)
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        results.append(found(x))
    assert all(torch.equal(results[0], other) for other in results)


def test_what_is_kept_is_bounded(pair: Pair) -> None:
    model, found = pair
    x = torch.randn(1, 3, 10, 11)
    for batch in range(1, 2 * MOST_KEPT + 1):
        found(x.expand(batch, 3, 10, 11))
    program = program_of(found, x)
    assert len(program._kept) == MOST_KEPT
    packs = len(found._packs._packs)
    assert difference(found, model, x) <= 1
    assert len(found._packs._packs) == packs


def test_calls_keep_no_memory(pair: Pair) -> None:
    _, found = pair
    x = torch.randn(2, 3, 64, 64)

    def tensors() -> int:
        gc.collect()
        return sum(type(one) is Tensor for one in gc.get_objects())

    found(x)
    before = tensors()
    for _ in range(50):
        found(x)
    assert tensors() <= before


def test_a_result_is_nobody_elses(pair: Pair) -> None:
    _, found = pair
    x = torch.randn(2, 3, 12, 12)
    first = found(x)
    kept = first.clone()
    found(x + 1)
    assert torch.equal(first, kept)


class Weighted(nn.Module):
    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function
        self.weight = nn.Parameter(torch.randn(8, 5, 6))

    def forward(self, x: Tensor) -> Any:
        return self.function(x, self.weight)


@pytest.mark.parametrize("name", ["copies", "views", "the input", "weights", "torch's"])
def test_results_share_no_memory(name: str) -> None:
    forward: Callable[..., Any] = {
        "copies": lambda x, w: [x.clone(), x.contiguous(), x + 0, x.relu(), x.relu().clone()],
        "views": lambda x, w: (lambda y: [y, y.permute(0, 2, 3, 1), y.flatten(1), y])(x.relu()),
        "the input": lambda x, w: [x, x.flatten(1), x[:1]],
        "weights": lambda x, w: [w, w.flatten(), w.clone(), x + w],
        "torch's": lambda x, w: (lambda y: [y, y.t(), y[:1]])(x.flatten(1).tanh()),
    }[name]
    model = Weighted(forward)
    found = optimized(model, torch.zeros(1, 8, 5, 6))
    for x in (torch.randn(1, 8, 5, 6), torch.randn(2, 8, 5, 6).contiguous(memory_format=torch.channels_last)):
        given, results, expected = x.clone(), found(x), model(x)
        for n, one in enumerate(results):
            torch.testing.assert_close(one, expected[n].detach())
            one.fill_(torch.nan)
            assert all(not other.isnan().any() for other in results[n + 1 :])
        assert torch.equal(x, given)
        torch.testing.assert_close(found(x), [one.detach() for one in expected])


def test_weights_are_packed_once_for_all_sizes(pair: Pair) -> None:
    model, _ = pair
    found = optimized(model, torch.zeros(1, 3, 32, 32))
    for batch, size in ((1, 32), (1, 48), (3, 32)):
        assert difference(found, model, torch.randn(batch, 3, size, size)) <= 1
    kept = dict(found._packs._packs)
    assert len(found._plans) == 2
    assert all(program_of(found, torch.zeros(1, 3, n, n))._packs is found._packs for n in (32, 48))
    found(torch.randn(2, 3, 48, 48))
    found.profile(torch.randn(2, 3, 48, 48), seconds=0.0)
    assert all(found._packs.find(key) is pack for key, pack in kept.items())


def test_the_examples_plan_is_kept(pair: Pair) -> None:
    model, _ = pair
    found = optimized(model, torch.zeros(1, 3, 12, 12))
    assert [*found._plans.values()] == [found._first]
    assert found._plan((torch.zeros(3, 3, 12, 12),), 3) is found._first
    for size in range(13, 13 + MOST_PLANS):
        found._plan((torch.zeros(1, 3, size, 12),), 1)
    assert len(found._plans) == MOST_PLANS
    assert found._plan((torch.zeros(1, 3, 12, 12),), 1) is found._first


def test_inputs_are_left_alone() -> None:
    found = optimized(Calls(lambda x: F.relu(F.relu(x) - 1)), torch.zeros(1, 8, 5, 5))
    x = torch.randn(2, 8, 5, 5).contiguous(memory_format=torch.channels_last)
    before = x.clone()
    found(x)
    assert torch.equal(x, before)


def test_several_results_lie_as_torch_gives_them() -> None:
    def forward(x: Tensor) -> list[Tensor]:
        y = x.relu()
        return [y, y.flatten(1), y.mean((2, 3)), y.permute(0, 2, 3, 1), y * 2, x]

    found = optimized(Calls(forward), torch.zeros(1, 8, 5, 6))
    for given in (torch.randn(2, 8, 5, 6), torch.randn(2, 8, 5, 6).contiguous(memory_format=torch.channels_last)):
        for ours, expected in zip(found(given), forward(given), strict=True):
            torch.testing.assert_close(ours, expected)
            if ours.dim() < 4 or ours.shape[1] == 8:
                assert ours.stride() == expected.stride()


def test_what_cannot_be_compiled_is_torchs(pair: Pair, monkeypatch: pytest.MonkeyPatch, calls: list[int]) -> None:
    model, _ = pair
    found = optimized(model, torch.zeros(1, 3, 12, 12))
    monkeypatch.setattr(CPU, "compiled", lambda *_: None)
    assert difference(found, model, torch.randn(2, 3, 12, 12)) <= 1
    assert not calls


def test_shapes_that_are_not_as_planned_are_torchs(pair: Pair) -> None:
    _, found = pair
    x = torch.randn(2, 3, 12, 12)
    call = program_of(found, x).call(2)
    assert call is not None
    assert call.reads([x])
    assert not call.reads([x[:1]])
    assert not call.reads([x.double()])
    assert not call.reads([x.to_mkldnn()])


def test_an_input_without_memory_is_told(pair: Pair) -> None:
    _, found = pair
    x = torch.randn(2, 3, 12, 12)
    found(x)
    x.untyped_storage().resize_(0)
    with pytest.raises(DepthwiseError, match="input_0 has no memory behind it"):
        found(x)


def test_where_no_code_can_be_generated_all_is_torchs(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = pair
    monkeypatch.setattr("depthwise.backends.cpu.machine_refusal", lambda: "this CPU is too old")
    found = optimized(model, torch.zeros(1, 3, 12, 12))
    assert difference(found, model, torch.randn(2, 3, 12, 12)) <= 1
    assert found.report.convolutions[0] == 0
    assert found.report.programs == ()
    assert "this CPU is too old" in str(found.report)


def test_a_node_without_work_gives_what_it_reads_where_it_lies() -> None:
    """Node by node too, as a profile runs them: the order in which the stem reads an image is nobody's work."""
    found, x = optimized(nn.Conv2d(3, 8, 3), torch.zeros(1, 3, 9, 9)), torch.randn(1, 3, 9, 9)
    alone = plan(found._network, {"input_0": (1, 3, 9, 9)}, 1, Packs(), node_by_node=True)
    assert [segment.nodes[0].operator for segment in alone.segments] == ["layout", "conv"]
    (laid_out,) = alone.programs[0].run([x], 1)
    assert laid_out.data_ptr() == x.data_ptr()
    (ours,) = alone.run([x], 1).values()
    assert torch.equal(ours, found(x))
