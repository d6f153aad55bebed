"""Layouts decided, scratch and results, threads, and what the way from the public door to the kernel costs."""

from __future__ import annotations

import sys
import threading
import timeit
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import depthwise
from depthwise import SeparableConv1d, SeparableConv2d, backend, functional
from depthwise.backends import weights
from depthwise.backends.cpu import launch, machine
from depthwise.backends.cpu.lower import separable
from depthwise.backends.cpu.lower.decision import Layout
from depthwise.backends.cpu.run import memory, threads
from depthwise.backends.formats import suggested_format
from depthwise.backends.problem import Problem
from depthwise.geometry import geometry
from tests.support.kernels import plan_of, problem_of

pytestmark = pytest.mark.skipif(machine.host() is None, reason="no generator serves this machine")

NHWC, NCHW = Layout(planar_in=False, planar_out=False), Layout(planar_in=True, planar_out=True)
PACKED = Layout(planar_in=False, planar_out=True)


def ones(*size: int) -> Tensor:
    return torch.ones(size)


def layout_of(x: Tensor, memory_format: torch.memory_format, width: int) -> Layout:
    """Of a problem without a kernel's extent, whose result has so many columns."""
    wide = (*x.shape[2:-1], x.shape[-1] + width - 1)
    g = geometry((x.shape[1], *wide), (*x.shape[2:-1], x.shape[-1]))
    result = torch.empty((x.shape[0], *g.output_size), device="meta").contiguous(memory_format=memory_format).stride()
    return separable.layout_of(Problem("depthwise", g, x.dtype, "cpu", x.shape[0], x.stride(), result))


def last(*size: int) -> Tensor:
    return torch.ones(size).movedim(1, -1).contiguous().movedim(-1, 1)


@pytest.mark.parametrize(
    ("x", "layout"),
    [
        (ones(2, 8, 9, 9), NCHW),
        (last(2, 8, 9, 9), NHWC),
        (last(2, 8, 9, 9, 9), NHWC),
        (ones(2, 8, 9), NCHW),
        # A sequence with its channels side by side: torch's own result is contiguous.
        (last(2, 8, 9), PACKED),
        (last(2, 16, 9, 9)[:, :8], PACKED),
        (ones(2, 16, 9, 9)[:, :8], NCHW),
        (ones(2, 8, 9, 1), NCHW),
        (last(2, 1, 9, 9), NCHW),
        (last(2, 8, 9, 18)[..., ::2], PACKED),
    ],
    ids=lambda value: str(tuple(value.stride())) if isinstance(value, Tensor) else "",
)
def test_what_lies_side_by_side_is_read_as_it_lies(x: Tensor, layout: Layout) -> None:
    found = layout_of(x, suggested_format(x), 81)
    assert found.copied is None
    assert found.planar_in == layout.planar_in or x.shape[1] == 1
    last_format = {4: torch.channels_last, 5: torch.channels_last_3d}.get(x.dim())
    assert found.planar_out == (suggested_format(x) != last_format)


@pytest.mark.parametrize("size", [(2, 8, 1, 1), (2, 8, 1)])
def test_one_pixel_lies_alike_in_all_formats(size: tuple[int, ...]) -> None:
    x = ones(*size)
    found = layout_of(x, suggested_format(x), 1)
    assert (found.planar_in, found.planar_out) == (False, False)
    assert layout_of(x, suggested_format(x), 9).planar_out
    run, convolve = (
        (SeparableConv2d, functional.depthwise_conv2d)
        if x.dim() == 4
        else (SeparableConv1d, functional.depthwise_conv1d)
    )
    with torch.no_grad():
        assert run(8, 24, 3, padding=1).eval()(x).stride() == (24, *(1,) * (x.dim() - 1))
        assert convolve(x, ones(8, *(1,) * (x.dim() - 1))).stride() == x.stride()


def test_what_does_not_is_copied_and_told() -> None:
    found = layout_of(ones(2, 8, 9, 18)[..., ::2], torch.contiguous_format, 36)
    assert found.copied == "neither channels nor columns lie side by side in strides (1296, 162, 18, 2)"
    assert (found.planar_in, found.planar_out) == (True, True)


@pytest.mark.parametrize("channels", [1, 2, 8, 17])
@pytest.mark.parametrize("separable", [False, True])
def test_channels_last_weights_make_the_result_channels_last(channels: int, separable: bool) -> None:
    layer = SeparableConv2d(channels, 24, 3, padding=1).eval()
    model: Any = layer if separable else layer.depthwise
    model.to(memory_format=torch.channels_last)
    x = torch.randn(2, channels, 9, 9)
    with torch.no_grad(), backend("eager"):
        expected = model(x)
    with torch.no_grad(), backend("cpu"):
        for found in (model(x), model(x)):
            assert found.stride() == expected.stride()
            torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("offset", range(1, 5))
def test_any_offset_of_the_data(offset: int) -> None:
    x = torch.randn(2 * 8 * 9 * 9 + 16)[offset : offset + 2 * 8 * 9 * 9].view(2, 8, 9, 9)
    weight = torch.randn(8 * 9 + 16)[offset : offset + 72].view(8, 1, 3, 3)
    torch.testing.assert_close(functional.depthwise_conv2d(x, weight), F.conv2d(x, weight, groups=8))


def test_an_expanded_input() -> None:
    x, weight = torch.randn(1, 8, 1, 9).expand(3, 8, 9, 9), torch.randn(8, 1, 3, 3)
    expected = F.conv2d(x.contiguous(), weight, groups=8)
    torch.testing.assert_close(functional.depthwise_conv2d(x, weight), expected)
    torch.testing.assert_close(functional.depthwise_conv2d(x[:, :1].expand(3, 8, 9, 9), weight).shape, expected.shape)


def test_a_flipped_kernel_and_a_transposed_pointwise() -> None:
    x, weight = torch.randn(2, 8, 9, 9), torch.randn(16, 1, 3, 3)[::2]
    pointwise = torch.randn(8, 6, 1, 1).transpose(0, 1)
    expected = F.conv2d(F.conv2d(x, weight, groups=8), pointwise)
    torch.testing.assert_close(functional.separable_conv2d(x, weight, pointwise), expected, rtol=1e-4, atol=1e-4)


class Layer:
    """One separable convolution that the threads split, of a size of its own."""

    def __init__(self, channels: int, size: int, memory_format: torch.memory_format) -> None:
        self.x = torch.randn(2, channels, size, size).contiguous(memory_format=memory_format)
        self.weights = torch.randn(channels, 1, 3, 3), torch.randn(40, channels, 1, 1)
        self.biases = torch.randn(channels), torch.randn(40)

    def __call__(self) -> Tensor:
        options: dict[str, Any] = {"padding": 1, "depthwise_activation": "silu", "pointwise_activation": "relu"}
        return functional.separable_conv2d(self.x, *self.weights, *self.biases, **options)

    def depthwise(self) -> Tensor:
        return functional.depthwise_conv2d(self.x, self.weights[0], padding=1)


FORMATS = [torch.contiguous_format, torch.channels_last]
SIZES = [(16, 8), (24, 20), (72, 14), (130, 7)]


@pytest.fixture
def layers() -> list[Layer]:
    return [Layer(*size, memory_format) for size in SIZES for memory_format in FORMATS]


def test_two_threads_give_the_bits_of_one(layers: list[Layer]) -> None:
    for layer in layers:
        torch.set_num_threads(1)
        expected = layer(), layer.depthwise()
        for team in (2, 3):
            torch.set_num_threads(team)
            assert torch.equal(layer(), expected[0])
            assert torch.equal(layer.depthwise(), expected[1])


@pytest.mark.skipif(threads.reason() is not None, reason="no OpenMP runtime")
def test_the_number_of_threads_is_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = Layer(130, 28, torch.channels_last)
    asked: list[int] = []
    original = threads.launch

    def recording(serial: Any, parallel: Any, slots: int, prints: int, team: int, *_: Any) -> int:
        asked.append(team)
        return original(serial, parallel, slots, prints, team)

    monkeypatch.setattr(threads, "launch", recording)
    for team in (1, 2, 3, 1):
        torch.set_num_threads(team)
        layer()
        layer()
    assert asked == [1, 1, 2, 2, 3, 3, 1, 1]


@pytest.mark.skipif(threads.reason() is not None, reason="no OpenMP runtime")
def test_little_work_stays_on_one_thread() -> None:
    torch.set_num_threads(2)
    g = geometry((16, 4, 4), 3, padding=1, out_channels=16)
    assert launch.decide(problem_of(g, last(1, 16, 4, 4))).program.team == 1
    g = geometry((64, 56, 56), 3, padding=1, out_channels=64)
    assert launch.decide(problem_of(g, last(1, 64, 56, 56))).program.team == 2


# Shorter than a vector, a result passes through memory on its way to the planes.
@pytest.mark.parametrize(("length", "from_registers"), [(2, False), (64, True)])
def test_what_goes_to_planes_from_registers_has_no_scratch(length: int, from_registers: bool) -> None:
    x = torch.ones(1, length, 64).transpose(1, 2)
    found = launch.decide(problem_of(geometry((64, length), 3, padding=1), x))
    (stage,) = found.program.stages
    assert plan_of(found.program).to_planes is from_registers
    assert (stage.cut.scratch_elements == 0) is from_registers


@pytest.mark.parametrize("team", [1, 2])
def test_many_callers_get_the_bits_of_one(layers: list[Layer], team: int) -> None:
    expected = [(layer(), layer.depthwise()) for layer in layers]
    depthwise.repack_()
    start = threading.Barrier(6)

    def work(index: int) -> bool:
        torch.set_num_threads(team)
        start.wait(30)
        order = list(range(index, len(layers))) + list(range(index))
        return all(
            torch.equal(layers[i](), expected[i][0]) and torch.equal(layers[i].depthwise(), expected[i][1])
            for _ in range(15)
            for i in order
        )

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(work, range(6)))


class TestMemory:
    def test_scratch_is_kept_and_grows(self) -> None:
        first = memory.scratch(1000)
        assert memory.scratch(10) is first
        grown = memory.scratch(first.size + 1)
        assert grown.size == first.size + 1
        assert memory.scratch(1000) is grown
        assert grown.tensor is not None
        assert (grown.tensor.data_ptr(), grown.tensor.nbytes) == (grown.address, grown.size)

    def test_scratch_belongs_to_its_thread(self) -> None:
        barrier = threading.Barrier(4)

        def work(_: int) -> int:
            address = memory.scratch(5000).address
            barrier.wait(30)
            return address

        with ThreadPoolExecutor(4) as pool:
            addresses = set(pool.map(work, range(4)))
        assert len(addresses | {memory.scratch(5000).address}) == 5

    def test_a_very_large_scratch_is_not_kept(self) -> None:
        small = memory.scratch(100)
        assert memory.scratch(memory.MOST_KEPT_BYTES + 1).size == memory.MOST_KEPT_BYTES + 1
        assert memory.scratch(100) is small

    @pytest.mark.skipif(sys.platform != "linux", reason="madvise is Linux's")
    def test_a_large_result_is_on_huge_pages(self, monkeypatch: pytest.MonkeyPatch) -> None:
        advised: list[tuple[int, int, int]] = []

        def advise(start: int, size: int, advice: int) -> None:
            advised.append((start, size, advice))

        monkeypatch.setattr(memory, "_advise", lambda: advise)
        elements = memory.LEAST_HUGE_BYTES // 4
        weight = torch.ones(1, 1, 1)
        functional.depthwise_conv1d(torch.zeros(1, 1, elements - 1), weight)
        assert advised == []
        out = functional.depthwise_conv1d(torch.zeros(1, 1, elements), weight)
        ((start, size, advice),) = advised
        assert advice == 14
        assert start % 4096 == size % 4096 == 0
        assert out.data_ptr() <= start < out.data_ptr() + 4096
        assert out.data_ptr() + 4 * elements - 4096 < start + size <= out.data_ptr() + 4 * elements

    @pytest.mark.parametrize("advises", [True, False])
    def test_a_large_result_is_right(self, advises: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        if not advises:
            monkeypatch.setattr(memory, "_advise", lambda: None)
        x = torch.randint(-3, 4, (1, 32, 513, 520)).float()
        weight = torch.randint(-3, 4, (32, 1, 3, 3)).float()
        out = functional.depthwise_conv2d(x, weight, padding=1)
        assert out.numel() * 4 > memory.LEAST_HUGE_BYTES
        assert torch.equal(out, F.conv2d(x, weight, padding=1, groups=32))


# Python's own work at each call, in microseconds, where the machine is idle; a busy one is given more attempts. Zen 4
# took 3.3, 4.6, 8.0 and 15 in November 2026, before what weights hold was looked at in every call; a machine whose
# Python is 1.4 times as slow takes 5.0, 7.3, 14 and 22 with it; Zen 3 takes 5, 7, 16 and 28 at its best.
MOST_OVERHEAD_MICROSECONDS = {"depthwise": 6, "separable": 8, "layer": 18, "layer with batch norms": 32}
# There a call of these in a row takes so long: what else runs on a shared machine slows both alike.
MICROSECONDS_OF_EIGHT_IDENTITIES = 10.3


def best_microseconds(function: Callable[[], object], calls: int = 2000) -> float:
    return min(timeit.repeat(function, number=calls, repeat=5)) / calls * 1e6


def slowness() -> float:
    """How many times as long Python takes now as where the limits were set: 1 where it takes no longer."""
    modules = nn.Sequential(*(nn.Identity() for _ in range(8)))
    return max(1.0, best_microseconds(lambda: modules(None)) / MICROSECONDS_OF_EIGHT_IDENTITIES)


def raw_kernel(x: Tensor) -> Callable[[], object]:
    """The generated code alone, at the only call that is kept."""
    (own,) = weights.sets.values()
    (kept,) = {kept for settings in own.calls.values() for kept in settings.kept}
    run: launch.Launch = kept.bound
    out, scratch = run.run(x, None, kept.pack, own.prints.address), memory.scratch(max(4 * run._elements, 64))
    assert out is not None
    cells, at = run._table.copy()
    cells[run._x], cells[run._out] = x.data_ptr(), out.data_ptr()
    run._scratch(cells)
    for name, place in run._weights:
        cells[place] = kept.pack.addresses[name]
    # The addresses are good as long as what they are of is held.
    held = cells, out, scratch
    serial, none = run._serial, weights.NO_PRINTS.address

    def call() -> object:
        return serial(at, none), held

    return call


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.parametrize("form", MOST_OVERHEAD_MICROSECONDS)
def test_what_the_door_costs(form: str) -> None:
    x, weight, pointwise, bias = last(1, 16, 4, 4), torch.randn(16, 1, 3, 3), torch.randn(16, 16, 1, 1), ones(16)
    parts: dict[str, Any] = {"depthwise_activation": nn.ReLU6, "pointwise_activation": nn.ReLU6}
    if form == "layer with batch norms":
        parts |= {"depthwise_norm": nn.BatchNorm2d, "pointwise_norm": nn.BatchNorm2d}
    layer = SeparableConv2d(16, 16, 3, padding=1, **parts).eval()

    def layer_call() -> object:
        return layer(x)

    def depthwise_call() -> Tensor:
        return functional.depthwise_conv2d(x, weight, bias, 1, 1)

    def separable_call() -> Tensor:
        activations: dict[str, Any] = {"depthwise_activation": "relu6", "pointwise_activation": "relu6"}
        return functional.separable_conv2d(x, weight, pointwise, bias, bias, 1, 1, **activations)

    doors: dict[str, Callable[[], object]] = {"depthwise": depthwise_call, "separable": separable_call}
    door = doors.get(form, layer_call)
    depthwise.repack_()
    with torch.no_grad():
        door()
        kernel = raw_kernel(x)
        overheads: list[float] = []
        for _ in range(20):
            overheads.append((best_microseconds(door) - best_microseconds(kernel)) / slowness())
            if overheads[-1] <= MOST_OVERHEAD_MICROSECONDS[form]:
                return
    raise AssertionError(f"the door costs {min(overheads):.1f} us; at most {MOST_OVERHEAD_MICROSECONDS} are allowed")


def test_views_that_negate() -> None:
    def negated(*size: int) -> Tensor:
        return torch.randn(*size, dtype=torch.complex64).conj().imag

    x, weight, pointwise = negated(1, 16, 9, 9), negated(16, 1, 3, 3), negated(24, 16, 1, 1)
    bias, residual = negated(16), negated(1, 24, 9, 9)
    assert all(tensor.is_neg() for tensor in (x, weight, pointwise, bias, residual))
    for given in (x, x.clone()):
        arguments = (given, weight, pointwise, bias)
        with backend("eager"):
            expected = functional.separable_conv2d(*arguments, padding=1, residual=residual)
        torch.testing.assert_close(functional.separable_conv2d(*arguments, padding=1, residual=residual), expected)


def test_views_that_negate_may_lie_otherwise_than_their_copies() -> None:
    # Of one column, their pixels need not be copied.
    x, residual = (torch.randn(2, 17, 7, 1, dtype=torch.complex64).conj().imag for _ in range(2))
    weight, pointwise = torch.randn(17, 1, 3, 1), torch.randn(17, 17, 1, 1)
    for needs_gradient in (False, True):
        found = []
        for name in ("eager", "cpu"):
            with backend(name):
                given = weight.clone().requires_grad_(needs_gradient)
                one = functional.depthwise_conv2d(x, given, padding=(1, 0))
                other = functional.separable_conv2d(x, given, pointwise, padding=(1, 0), residual=residual)
                gradients = torch.autograd.grad((one.square() + other).sum(), given) if needs_gradient else ()
            found.append((one, other, *gradients))
        torch.testing.assert_close(*found, atol=2e-4, rtol=1e-4)
