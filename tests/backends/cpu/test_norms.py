"""Batch norms in training mode on kernels of ours: exact where numbers allow, else near float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import cycle
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from depthwise import accelerate_
from depthwise.activations import ACTIVATIONS
from depthwise.backends.cpu import machine
from depthwise.backends.cpu.lower.norms import NormProblem, backward_program, forward_program
from depthwise.backends.cpu.machine import Machine
from depthwise.backends.cpu.norms import norm_of
from depthwise.backends.cpu.plan.norm import column_plan
from depthwise.backends.cpu.run import jit
from depthwise.backends.eager import activate
from depthwise.backends.problem import Activation
from depthwise.norms import batch_norm
from tests.support.kernels import HERE, Memory, outside_calls
from tests.support.norms import assert_exact, assert_near, given, run

pytestmark = pytest.mark.skipif(not HERE, reason="no generator serves this machine")
LAST = torch.channels_last
# Pixels, and pixels of a plane or 0.
SHAPES = ((64, 0), (64, 32), (1 << 20, 0))
# Below, equal to, a multiple of and above the lanes of every machine; one pixel more than tiles, chunks and teams have.
CHANNELS = (1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 48)
PIXELS = (2, 3, 5, 8, 33, 64, 67, 129)
SLOPES = {"leaky_relu": 0.25, "elu": 1.0}
ALL: list[Activation] = [None, *((name, SLOPES.get(name, 0.0)) for name in ACTIVATIONS)]
EXACT: list[Activation] = [None, ("relu", 0.0), ("relu6", 0.0), ("leaky_relu", 0.25)]


def small_cache(target: Machine) -> Machine:
    """The same, as if no channel's pixels stayed in cache."""
    return replace(target, l2_bytes=0)


@pytest.mark.parametrize("target", [small_cache(target) for target in HERE] + HERE, ids=lambda target: target.isa)
@pytest.mark.parametrize("channels", CHANNELS)
def test_integers_are_exact(channels: int, target: Machine) -> None:
    for pixels in (2, 4, 8, 32, 64, 128):
        for activation in EXACT:
            for residual in (False, True):
                assert_exact(NormProblem(pixels, channels, 3.0, activation, residual), target, 1, Memory())


@pytest.mark.parametrize("target", HERE, ids=lambda target: target.isa)
@pytest.mark.parametrize("activation", EXACT, ids=str)
def test_integers_in_planes_are_exact(activation: Activation, target: Machine) -> None:
    for plane in (1, 2, 4, 8, 16, 32, 64, 128):
        for residual in (False, True):
            assert_exact(NormProblem(128, 3, 3.0, activation, residual, plane), target, 1, Memory())


@pytest.mark.parametrize("activation", ALL, ids=str)
@pytest.mark.parametrize("residual", [False, True])
def test_random_numbers_are_near_float64(activation: Activation, residual: bool) -> None:
    torch.manual_seed(0)
    # Channels, images, pixels of each.
    for channels, images, plane in ((3, 1, 67), (8, 3, 43), (17, 5, 1), (33, 2, 77)):
        problem = NormProblem(images * plane, channels, 1e-3, activation, residual, momentum=0.1)
        numbers = given(problem, torch.randn)
        planes = replace(problem, plane=plane)
        for each, target in ((problem, HERE[0]), (problem, small_cache(HERE[0])), (planes, HERE[0])):
            assert_near(each, numbers, run(each, numbers, target, 1, Memory()))


def test_any_number_of_pixels_and_threads_gives_the_same_bits() -> None:
    for pixels in PIXELS:
        for channels in (3, 40):
            problem = NormProblem(pixels, channels, 1e-5, ("silu", 0.0), residual=True, momentum=0.1)
            numbers = given(problem, torch.randn)
            for each, target in (
                (problem, HERE[0]),
                (problem, small_cache(HERE[0])),
                (replace(problem, plane=pixels), HERE[0]),
            ):
                # As little work as this is one thread's, unless it is told otherwise.
                alone = run(each, numbers, target, 1, Memory())
                for threads in (2, 3):
                    with pytest.MonkeyPatch.context() as patch:
                        patch.setattr("depthwise.backends.cpu.plan.norm._SERIAL_ELEMENTS", 0)
                        team = run(each, numbers, target, threads, Memory())
                    assert forward_program(each, target, threads).team == 1
                    assert all(torch.equal(team[name], alone[name]) for name in alone)


def test_channels_that_do_not_fit_in_cache_are_done_by_chunks_of_pixels() -> None:
    small, large = NormProblem(128, 40, 1e-5), NormProblem(1 << 20, 40, 1e-5)
    assert [len(forward_program(each, HERE[0], 2).stages) for each in (small, large)] == [1, 3]
    assert [len(backward_program(each, HERE[0], 2, input_gradient=True).stages) for each in (small, large)] == [1, 3]
    planes = replace(large, plane=1 << 10)
    assert len(forward_program(planes, HERE[0], 2).stages) == 1


@pytest.mark.parametrize(("channels", "pixels", "fits"), [(256, 6272, False), (240, 6272, True), (72, 6272, False)])
def test_columns_whose_lines_share_sets_of_l2_are_not_taken(channels: int, pixels: int, *, fits: bool) -> None:
    wide = replace(machine.avx2(), isa="avx512", vector_lanes=16, vector_registers=32, l2_bytes=2 << 20)
    for threads in (1, 2, 3):
        own, halves = (
            column_plan((pixels, channels), None, each, threads, residual=False, read_again=1)
            for each in (wide, replace(wide, in_halves=True))
        )
        assert (own is not None) == fits
        assert halves is not None


def computed(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    eps: float,
    activation: Activation,
    *others: Any,
) -> tuple[Tensor, Tensor]:
    norm = norm_of(x, eps, activation, residual=residual is not None)
    assert norm is not None
    return norm.run(x, weight, bias, residual, *others)


def test_a_mean_a_thousand_times_the_deviation_over_ten_million_numbers() -> None:
    torch.manual_seed(0)
    planes = torch.randn(10, 2, 500, 1000).mul_(0.01).add_(10.0)
    var, mean = torch.var_mean(planes.double(), (0, 2, 3))
    for x in (planes, planes.contiguous(memory_format=LAST)):
        _, statistics = computed(x, None, None, None, 0.0, None)
        torch.testing.assert_close(statistics[0].double(), mean, rtol=1e-6, atol=0)
        torch.testing.assert_close(statistics[3].double(), var, rtol=1e-6, atol=0)


def test_a_constant_channel_has_no_variance() -> None:
    x = torch.full((2, 8, 3, 3), 1234.567).contiguous(memory_format=LAST)
    out, statistics = computed(x, None, None, None, 1e-5, None)
    assert statistics[3].max() < 1e-6
    assert out.abs().max() < 1e-2


@pytest.mark.parametrize("target", [machine.neon(), machine.avx2()], ids=lambda target: target.isa)
def test_code_for_every_machine_calls_nothing(target: Machine) -> None:
    wide = replace(target, isa="avx512", vector_lanes=16, vector_registers=32)
    # By columns, by planes and by chunks in turn: the activation's code is the same.
    for activation, (pixels, plane) in zip(ALL, cycle(SHAPES), strict=False):
        problem = NormProblem(pixels, 48, 1e-5, activation, residual=True, plane=plane)
        for each in (target, *([wide] if target.isa == "avx2" else [])):
            programs = [forward_program(problem, each, 2), backward_program(problem, each, 2, input_gradient=True)]
            for kernel in (kernel for program in programs for kernel in program.kernels):
                assert not outside_calls(jit.assembly(kernel.ir(), target))


# Autograd


def leaves(*sizes: tuple[int, ...]) -> list[Tensor]:
    made = [torch.randn(size) for size in sizes]
    return [(each.contiguous(memory_format=LAST) if each.dim() == 4 else each).requires_grad_() for each in made]


def theirs(x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor) -> Tensor:
    return F.silu(F.batch_norm(x, None, None, weight, bias, training=True, eps=1e-5) + residual)


def ours(x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor) -> Tensor:
    return computed(x, weight, bias, residual, 1e-5, ("silu", 0.0))[0]


def test_only_gradients_that_are_asked_for_come() -> None:
    sizes = ((2, 8, 3, 3), (8,), (8,), (2, 8, 3, 3))
    for wanted in range(1, 16):
        tensors = leaves(*sizes)
        for index, tensor in enumerate(tensors):
            tensor.requires_grad_(bool(wanted >> index & 1))
        others = [tensor.detach().clone().requires_grad_(tensor.requires_grad) for tensor in tensors]
        dy = torch.randn(2, 8, 3, 3).contiguous(memory_format=LAST)
        ours(*tensors).backward(dy)
        theirs(*others).backward(dy)
        for mine, other in zip(tensors, others, strict=True):
            assert (mine.grad is None) == (other.grad is None)
            if mine.grad is not None:
                torch.testing.assert_close(mine.grad, other.grad, atol=2e-6, rtol=2e-5)


def test_a_gradient_that_lies_otherwise_is_laid_as_the_input(monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = leaves((2, 8, 3, 3), (8,), (8,), (2, 8, 3, 3))
    monkeypatch.delattr("depthwise.backends.cpu.norms._by_torch")
    for dy in (torch.randn(2, 8, 3, 3), torch.ones(1).expand(2, 8, 3, 3), torch.randn(2, 8, 1, 1).expand(2, 8, 3, 3)):
        mine = torch.autograd.grad(ours(*tensors), tensors, dy)
        other = torch.autograd.grad(theirs(*tensors), tensors, dy)
        torch.testing.assert_close(mine, other, atol=2e-6, rtol=2e-5)


def test_contiguous_images_go_by_their_planes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("depthwise.backends.cpu.norms._by_torch", None)
    for size in ((2, 8, 3, 7), (2, 3, 2, 3, 5)):
        channels = (size[1],)
        tensors = [torch.randn(each).requires_grad_() for each in (size, channels, channels, size)]
        out, expected = ours(*tensors), theirs(*tensors)
        assert out.stride() == expected.stride()
        torch.testing.assert_close(out, expected, atol=2e-6, rtol=2e-5)
        for dy in (torch.randn(size), torch.ones(1).expand(size)):
            mine = torch.autograd.grad(out, tensors, dy, retain_graph=True)
            other = torch.autograd.grad(expected, tensors, dy, retain_graph=True)
            assert mine[0].is_contiguous()
            torch.testing.assert_close(mine, other, atol=2e-6, rtol=2e-5)


def test_gradients_of_gradients() -> None:
    tensors = leaves((2, 3, 2, 2), (3,), (3,), (2, 3, 2, 2))
    dy = torch.randn(2, 3, 2, 2).contiguous(memory_format=LAST)
    seconds = []
    for function in (ours, theirs):
        first = torch.autograd.grad(function(*tensors), tensors, dy, create_graph=True)
        total = sum((each.square().sum() for each in first), torch.zeros(()))
        seconds.append(torch.autograd.grad(total, tensors))
    torch.testing.assert_close(*seconds, atol=1e-4, rtol=1e-4)


def test_nothing_is_kept_where_no_gradient_is_asked_for() -> None:
    with torch.no_grad():
        out = ours(*leaves((2, 8, 3, 3), (8,), (8,), (2, 8, 3, 3)))
    assert out.grad_fn is None


HOOKS: dict[str, Callable[[Tensor], Tensor]] = {
    "another layout": lambda t: t.clone(memory_format=torch.contiguous_format),
    "another dtype": lambda t: t.double(),
    "strides": lambda t: torch.stack([t, t], -1)[..., 0],
    "a copy": lambda t: t.clone(),
    "a negated view": lambda t: (-t)._neg_view(),
}


@pytest.mark.parametrize("hook", HOOKS)
def test_tensors_that_hooks_give_back(hook: str) -> None:
    tensors = leaves((2, 8, 3, 3), (8,), (8,), (2, 8, 3, 3))
    dy = torch.randn(2, 8, 3, 3).contiguous(memory_format=LAST)
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor, HOOKS[hook]):
        out = ours(*tensors)
    mine = torch.autograd.grad(out, tensors, dy)
    torch.testing.assert_close(mine, torch.autograd.grad(theirs(*tensors), tensors, dy), atol=2e-6, rtol=2e-5)


def test_many_gradients_at_once() -> None:
    tensors = leaves((2, 8, 3, 3), (8,), (8,), (2, 8, 3, 3))
    many = torch.randn(3, 2, 8, 3, 3)
    found = [
        torch.autograd.grad(function(*tensors), tensors, many, is_grads_batched=True) for function in (ours, theirs)
    ]
    torch.testing.assert_close(*found, atol=2e-6, rtol=2e-5)


def test_gradients_of_gradients_where_one_input_leads_to_another() -> None:
    found = []
    for function in (ours, theirs):
        torch.manual_seed(0)
        x, dy = (torch.randn(4, 3, 2, 2).contiguous(memory_format=LAST) for _ in range(2))
        x.requires_grad_()
        weight, bias = x.mean((0, 2, 3)) + 2.0, x.square().sum((0, 2, 3))
        (first,) = torch.autograd.grad(function(x, weight, bias, x * 0.5), x, dy, create_graph=True)
        found.append((first, *torch.autograd.grad(first.square().sum(), x)))
    torch.testing.assert_close(*found, atol=1e-4, rtol=1e-4)


def test_versions_move_as_torchs_do() -> None:
    x = torch.randn(2, 8, 3, 3).contiguous(memory_format=LAST)
    mine, theirs = nn.BatchNorm2d(8, momentum=0.5), nn.BatchNorm2d(8, momentum=0.5)
    accelerate_(mine)
    for norm in (mine, theirs):
        out = norm.eval()(x)
        norm.train()(x)
        out.sum().backward()
    versions = [[tensor._version for tensor in norm.buffers()] for norm in (mine, theirs)]
    assert versions[0] == versions[1]
    torch.testing.assert_close(mine.running_mean, theirs.running_mean, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(mine.weight.grad, theirs.weight.grad)


@pytest.mark.parametrize("layout", [torch.contiguous_format, LAST])
def test_running_statistics_of_infinities_are_torchs(layout: torch.memory_format) -> None:
    mine, theirs = nn.BatchNorm2d(19, momentum=0.7), nn.BatchNorm2d(19, momentum=0.7)
    accelerate_(mine)
    torch.manual_seed(0)
    for value in (float("inf"), 0.0):
        x = torch.randn(2, 19, 3, 3)
        x[0, ::3, 1, 1] = value
        for norm in (mine, theirs):
            norm(x.contiguous(memory_format=layout))
        for name, moved in theirs.named_buffers():
            torch.testing.assert_close(getattr(mine, name), moved, equal_nan=True, atol=1e-6, rtol=1e-5)
        assert mine.get_buffer("running_mean")[0].isinf()


def test_nothing_moves_where_there_is_no_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("depthwise.backends.cpu.norms.compiles", lambda _: False)
    running, counted = (torch.zeros(13), torch.ones(13)), torch.tensor(0)
    x = torch.randn(2, 13, 3, 3).contiguous(memory_format=LAST)
    assert batch_norm(x, running, None, None, 0.1, 1e-5, counted=counted) is None
    assert [tensor._version for tensor in (*running, counted)] == [0, 0, 0]


def test_gradients_are_torchs_where_there_is_no_code(monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = leaves((2, 14, 3, 3), (14,), (14,), (2, 14, 3, 3))
    dy = torch.randn(2, 14, 3, 3).contiguous(memory_format=LAST)
    out = ours(*tensors)
    monkeypatch.setattr("depthwise.backends.cpu.norms.compiles", lambda _: False)
    mine = torch.autograd.grad(out, tensors, dy)
    torch.testing.assert_close(mine, torch.autograd.grad(theirs(*tensors), tensors, dy), atol=2e-6, rtol=2e-5)


@pytest.mark.parametrize("activation", ALL[1:], ids=str)
def test_derivatives_at_infinities(activation: Activation) -> None:
    problem = NormProblem(16, 1, 1e-3, activation, residual=True)
    numbers = given(problem, torch.randn)
    numbers.residual[:8], numbers.residual[8:] = float("inf"), float("-inf")
    found = run(problem, numbers, HERE[0], 1, Memory())["dresidual"]
    z = numbers.residual.clone().requires_grad_()
    (expected,) = torch.autograd.grad(activate(z, activation), z, numbers.dy)
    torch.testing.assert_close(found, expected, equal_nan=True, atol=1e-30, rtol=1e-6)
