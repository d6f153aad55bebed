"""Gradients of depthwise convolutions: the bits of torch's float64 on small integers, and what they fall back to."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import depthwise
from depthwise import SeparableConv2d, functional
from depthwise.backends import calls
from depthwise.backends.cpu import gradients, launch, machine
from depthwise.backends.cpu.run import memory
from depthwise.backends.eager import CONVOLUTIONS
from depthwise.geometry import Geometry, geometry
from tests.support.cases import normals, small_integers
from tests.support.kernels import SMALL_CACHE

pytestmark = pytest.mark.skipif(machine.host() is None, reason="no generator serves this machine")

ROOT = Path(__file__).parents[3]


@dataclass(frozen=True)
class Case:
    """A depthwise convolution, and how its input and the gradient of its result lie."""

    batch: int
    channels: int
    multiplier: int
    spatial: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: Any = 1
    padding: Any = 0
    dilation: Any = 1
    layout: str = "last"
    gradient_layout: str = "last"
    threads: int = 1
    small_cache: bool = False

    @property
    def geometry(self) -> Geometry:
        window = self.kernel, self.stride, self.padding, self.dilation
        return geometry((self.channels, *self.spatial), *window, depth_multiplier=self.multiplier)


LAYOUTS = ("last", "planar", "last", "planar", "last_sliced", "planar_sliced", "expanded")


def laid_out(x: Tensor, layout: str) -> Tensor:
    if layout == "expanded":
        return x[:1, :1, ..., :1].expand_as(x)
    wide = F.pad(x, (1, 2)) if layout.endswith("sliced") else x
    if layout.startswith("last"):
        wide = wide.movedim(1, -1).contiguous().movedim(-1, 1)
    return wide[..., 1:-2] if layout.endswith("sliced") else wide


def tensors_of(case: Case, draw: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Gradient of the result, input, weight."""
    g = case.geometry
    x = laid_out(draw((case.batch, *g.input_size)), case.layout)
    gradient = laid_out(draw((case.batch, *g.output_size)), case.gradient_layout)
    return gradient, x, draw((g.depthwise_channels, 1, *case.kernel))


def expected_of(g: Geometry, gradient: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
    """Those of input, weight and bias, by torch in float64."""
    x, weight = (tensor.double().requires_grad_() for tensor in (x, weight))
    bias = torch.zeros(len(weight), dtype=torch.float64, requires_grad=True)
    padded = F.pad(x, [amount for pair in reversed(g.padding) for amount in pair])
    with torch.enable_grad():
        y = CONVOLUTIONS[g.rank](padded, weight, bias, g.stride, 0, g.dilation, g.in_channels)
    return torch.autograd.grad(y, (x, weight, bias), gradient.double())


def found_of(case: Case, gradient: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
    torch.set_num_threads(case.threads)
    seen = launch.machine()
    seen = replace(seen, l2_bytes=SMALL_CACHE if case.small_cache else seen.l2_bytes)
    with (
        torch.no_grad(),
        patch.object(gradients, "machine", lambda: seen),
        patch.object(calls, "_bound", OrderedDict()),
    ):
        found = gradients.plain_gradients(gradient, x, weight, case.geometry, (True, True, True))
    assert found is not None
    return tuple(tensor for tensor in found if tensor is not None)


def check(case: Case) -> None:
    tensors = tensors_of(case, small_integers(0))
    expected = expected_of(case.geometry, *tensors)
    for name, one, other in zip(("input", "weight", "bias"), found_of(case, *tensors), expected, strict=True):
        assert one.shape == other.shape
        assert torch.equal(one.double(), other), f"{name}: {int((one != other).sum())} elements differ, {case}"


def drawn(seed: int) -> Case:
    random = Random(seed)
    rank = random.choice((1, 2, 2, 2, 3))
    kernel = tuple(random.choice((1, 2, 3, 3, 4, 5, 7) if rank < 3 else (1, 2, 3)) for _ in range(rank))
    stride, dilation = (tuple(random.choice((1, 1, 1, 2, 3)) for _ in kernel) for _ in range(2))
    padding = tuple((random.randrange(5), random.randrange(5)) for _ in kernel)
    windows = zip(kernel, dilation, padding, strict=True)
    spatial = tuple(max(1, (k - 1) * d + 1 - sum(p) + random.randrange(14)) for k, d, p in windows)
    return Case(
        batch=random.randint(1, 5),
        channels=random.choice((1, 2, 3, 7, 8, 9, 15, 16, 17, 33)),
        multiplier=random.choice((1, 1, 1, 2, 3, 5)),
        spatial=spatial,
        kernel=kernel,
        stride=stride,
        padding=random.choice((padding, padding, "same")),
        dilation=dilation,
        layout=random.choice(LAYOUTS),
        gradient_layout=random.choice(LAYOUTS),
        threads=random.choice((1, 2, 3)),
        small_cache=random.random() < 0.5,
    )


NAMED = {
    "3x3": Case(2, 17, 1, (9, 11), (3, 3), 1, 1),
    "3x3 of planes": Case(2, 17, 1, (9, 11), (3, 3), 1, 1, layout="planar", gradient_layout="planar"),
    "3x3, stride 2": Case(2, 17, 1, (14, 15), (3, 3), 2, 1),
    "5x5": Case(1, 8, 1, (14, 14), (5, 5), 1, 2, threads=2),
    "7x7": Case(1, 8, 1, (14, 14), (7, 7), 1, 3),
    "31x31": Case(1, 9, 1, (28, 28), (31, 31), 1, 15),
    "31x31, stride 2": Case(1, 9, 1, (28, 28), (31, 31), 2, 15, layout="planar"),
    "31, sequence": Case(2, 9, 1, (200,), (31,), 1, "same", layout="planar", gradient_layout="planar"),
    "causal": Case(2, 9, 1, (200,), (4,), 1, ((3, 0),), layout="planar", gradient_layout="planar", threads=2),
    "atrous": Case(1, 9, 1, (30, 33), (3, 3), 1, 6, 6),
    "stride beyond the kernel": Case(1, 9, 1, (33, 44), (3, 2), 7, 1),
    "stride and dilation with a common divisor": Case(1, 9, 1, (33, 44), (3, 5), (2, 4), 1, (2, 6)),
    "5 filters a channel, stride 2": Case(1, 9, 5, (13, 13), (3, 3), 2, 1, layout="planar"),
    "volume": Case(1, 9, 1, (5, 6, 7), (3, 3, 3), 1, 1),
    "strided volume": Case(1, 9, 2, (5, 6, 7), (3, 3, 3), (1, 2, 2), 1, layout="planar"),
}


@pytest.mark.parametrize("name", NAMED)
def test_integers_give_torchs_bits(name: str) -> None:
    check(NAMED[name])


@pytest.mark.parametrize("seed", [*range(12), *(pytest.param(n, marks=pytest.mark.slow) for n in range(12, 300))])
def test_integers_give_torchs_bits_whatever_the_geometry(seed: int) -> None:
    check(drawn(seed))


@pytest.mark.parametrize("name", ["3x3", "31x31", "strided volume", "causal"])
def test_random_numbers_stay_within_the_bound(name: str) -> None:
    case = NAMED[name]
    gradient, x, weight = tensors_of(case, normals(0))
    exact = expected_of(case.geometry, gradient, x, weight)
    most = expected_of(case.geometry, gradient.abs(), x.abs(), weight.abs())
    for one, other, bound in zip(found_of(case, gradient, x, weight), exact, most, strict=True):
        terms = gradient.numel() // len(weight) + case.geometry.kernel_area
        assert bool(((one - other).abs() <= 2 * terms * torch.finfo().eps * bound).all())


@pytest.mark.parametrize("name", ["3x3", "3x3 of planes", "3x3, stride 2", "causal", "volume"])
def test_bits_do_not_depend_on_threads(name: str) -> None:
    tensors = tensors_of(NAMED[name], normals(0))
    alone, *others = (found_of(replace(NAMED[name], threads=n, small_cache=True), *tensors) for n in (1, 2, 3))
    for found in others:
        assert all(torch.equal(one, other) for one, other in zip(alone, found, strict=True))


def test_only_what_is_wanted_is_computed() -> None:
    gradient, x, weight = tensors_of(NAMED["3x3"], normals(0))
    g = NAMED["3x3"].geometry
    with torch.no_grad():
        for wanted in ((True, False, False), (False, True, False), (False, False, True), (False, True, True)):
            found = gradients.plain_gradients(gradient, x, weight, g, wanted)
            assert found is not None
            assert tuple(tensor is not None for tensor in found) == wanted


def test_what_is_recorded_or_no_memory_goes_to_torch() -> None:
    gradient, x, weight = tensors_of(NAMED["3x3"], normals(0))
    wanted = NAMED["3x3"].geometry, (True, True, True)
    assert gradients.plain_gradients(gradient, x, weight, *wanted) is None
    with torch.no_grad():
        assert gradients.plain_gradients(gradient.double(), x, weight, *wanted) is None
        zeros = torch._efficientzerotensor(gradient.shape)
        assert gradients.plain_gradients(zeros, x, weight, *wanted) is None


@pytest.mark.parametrize("multiplier", [1, 2])
def test_a_gradient_that_is_expanded(multiplier: int) -> None:
    x, weight = small_integers(0)((2, 9, 8, 8)), small_integers(1)((9 * multiplier, 1, 3, 3))
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    weight.requires_grad_()
    functional.depthwise_conv2d(x, weight, padding=1).sum().backward()
    expected = torch.autograd.grad(F.conv2d(x, weight, padding=1, groups=9).sum(), (x, weight))
    for one, other in zip((x.grad, weight.grad), expected, strict=True):
        assert one is not None
        assert torch.equal(one, other)


class TestAutograd:
    """Through the door, against torch's operators; what is on its way there has float64's second derivatives."""

    X = normals(0)((2, 9, 8, 7)).contiguous(memory_format=torch.channels_last)

    def layer(self) -> SeparableConv2d:
        torch.manual_seed(0)
        return SeparableConv2d(9, 12, 3, padding=1, depthwise_activation=torch.nn.SiLU)

    def gradients(self, layer: SeparableConv2d, x: Tensor, backend: str) -> list[Tensor]:
        wanted = [tensor for tensor in (x, *layer.parameters()) if tensor.requires_grad]
        with depthwise.backend(backend):
            return list(torch.autograd.grad(layer(x).square().sum(), wanted))

    @pytest.mark.parametrize("frozen", ["nothing", "input", "depthwise.weight", "pointwise.weight", "pointwise.bias"])
    def test_whatever_is_frozen(self, frozen: str) -> None:
        layer, x = self.layer(), self.X.clone(memory_format=torch.preserve_format).requires_grad_(frozen != "input")
        for name, parameter in layer.named_parameters():
            parameter.requires_grad_(name != frozen)
        for one, other in zip(self.gradients(layer, x, "cpu"), self.gradients(layer, x, "eager"), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)

    def test_a_gradient_that_nobody_asked_for_is_not_computed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        asked: list[tuple[bool, ...]] = []
        right = gradients.plain_steps

        def seen(*arguments: Any) -> Any:
            asked.append(tuple(arguments[-1]))
            return right(*arguments)

        monkeypatch.setattr(gradients, "plain_steps", seen)
        monkeypatch.setattr(calls, "_bound", OrderedDict())
        monkeypatch.setattr(calls, "_recorded", {})
        layer = self.layer().requires_grad_(False)
        layer.pointwise.weight.requires_grad_()
        layer(self.X).sum().backward()
        assert asked == [(False, True, False)]
        layer.depthwise.weight.requires_grad_()
        layer(self.X).sum().backward()
        assert asked[1:] == [(True, True, False), (False, True, False)]

    def test_second_derivatives(self) -> None:
        found = []
        for backend in ("cpu", "eager"):
            x, weight = self.X.clone(memory_format=torch.preserve_format), normals(1)((9, 1, 3, 3))
            x.requires_grad_()
            weight.requires_grad_()
            with depthwise.backend(backend):
                out = functional.depthwise_conv2d(x, weight, padding=1)
                (first,) = torch.autograd.grad(out.square().sum(), x, create_graph=True)
                found.append(torch.autograd.grad(first.square().sum(), (x, weight)))
        for one, other in zip(*found, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-2)

    @pytest.mark.parametrize(
        "hook",
        [
            lambda t: t.clone(memory_format=torch.contiguous_format),
            lambda t: torch.stack([t, t], -1)[..., 0],
            lambda t: (-t)._neg_view(),
            lambda t: torch.cat([t, t])[: len(t)],
        ],
        ids=["contiguous", "strides", "negated", "part of another"],
    )
    def test_tensors_that_hooks_give_back(self, hook: Callable[[Tensor], Tensor]) -> None:
        layer, x = self.layer(), self.X.clone(memory_format=torch.preserve_format).requires_grad_()
        with torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor, hook):
            mine = self.gradients(layer, x, "cpu")
        for one, other in zip(mine, self.gradients(layer, x, "eager"), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)

    def test_saved_tensors_of_another_size_are_not_read(self) -> None:
        layer, x = self.layer(), self.X.clone(memory_format=torch.preserve_format).requires_grad_()
        with torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor, lambda t: t[:, :, :1]):
            out = layer.depthwise(x)
        with pytest.raises(RuntimeError):
            out.sum().backward()

    def test_many_gradients_at_once(self) -> None:
        layer, x = self.layer(), self.X.clone(memory_format=torch.preserve_format).requires_grad_()
        found = []
        for backend in ("cpu", "eager"):
            with depthwise.backend(backend):
                out = layer(x)
                many = normals(3)((2, *out.shape))
                found.append(torch.autograd.grad(out, [x, *layer.parameters()], many, is_grads_batched=True))
        for one, other in zip(*found, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("window", [(1, 1, 1), (2, 1, 1), (1, 2, 2)])
    def test_numerically(self, window: tuple[int, int, int]) -> None:
        x, weight = normals(0, torch.float64)((1, 2, 6, 5)), normals(1, torch.float64)((4, 1, 3, 3))
        inputs = x.requires_grad_(), weight.requires_grad_(), torch.zeros(4, dtype=torch.float64, requires_grad=True)

        def convolve(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
            return functional.depthwise_conv2d(x, weight, bias, *window)

        assert torch.autograd.gradcheck(convolve, inputs)
        assert torch.autograd.gradgradcheck(convolve, inputs)

    def test_transforms(self) -> None:
        weight = normals(1)((9, 1, 3, 3))

        def loss(weight: Tensor, x: Tensor) -> Tensor:
            return functional.depthwise_conv2d(x[None], weight, padding=1).square().sum()

        per_sample = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(weight, self.X)
        for x, gradient in zip(self.X, per_sample, strict=True):
            leaf = weight.clone().requires_grad_()
            loss(leaf, x).backward()
            torch.testing.assert_close(gradient, leaf.grad, rtol=1e-4, atol=1e-4)

    def test_no_element_is_left_unwritten(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def filled(size: tuple[int, ...], stride: tuple[int, ...], dtype: torch.dtype) -> Tensor:
            return torch.empty_strided(size, stride, dtype=dtype).fill_(torch.nan)

        monkeypatch.setattr(memory, "new_result", filled)
        for name in ("3x3", "3x3, stride 2", "stride beyond the kernel", "5 filters a channel, stride 2", "31x31"):
            assert not any(
                tensor.isnan().any() for tensor in found_of(NAMED[name], *tensors_of(NAMED[name], normals(0)))
            )


def run_guarded(what: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-X", "faulthandler", "-m", "tests.support.guarded_gradients", what]
    return subprocess.run(command, cwd=ROOT, env=os.environ, timeout=1200, check=False, capture_output=True, text=True)


@pytest.mark.skipif(sys.platform != "linux", reason="mprotect, and what a fault does, as under Linux")
@pytest.mark.parametrize("what", ["some", pytest.param("all", marks=pytest.mark.slow)])
def test_gradients_stay_inside_their_buffers(what: str) -> None:
    result = run_guarded(what)
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.skipif(sys.platform != "linux", reason="mprotect, and what a fault does, as under Linux")
def test_a_gradient_told_wrong_numbers_dies() -> None:
    assert run_guarded("planted").returncode == -signal.SIGSEGV
