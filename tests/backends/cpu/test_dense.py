"""Dense convolutions: small integers give PyTorch's numbers, on every geometry and however the work is cut."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import Any
from weakref import WeakValueDictionary

import pytest
import torch
from torch import Tensor

from depthwise.backends import CPU, EAGER
from depthwise.backends.base import DenseTensors
from depthwise.backends.cpu import machine, pack
from depthwise.backends.cpu.emit import dense, ir, window
from depthwise.backends.cpu.emit import product as product_emitter
from depthwise.backends.cpu.machine import Machine
from depthwise.backends.cpu.run import jit
from depthwise.backends.problem import Problem
from depthwise.geometry import Geometry, geometry
from tests.support.cases import normals, small_integers
from tests.support.convolutions import LAYERS, assert_exact, expected_of, numbers_of, program_of, run, tried
from tests.support.kernels import HERE, Input, Layer, Roomy, geometry_of, outside_calls

LAST = torch.channels_last
AVX512 = Machine("avx512", 16, 32, "x86_64-unknown-linux-gnu", "skylake-avx512", "")
runs_here = pytest.mark.skipif(not HERE, reason="no generator serves this machine")
on_each_machine = pytest.mark.parametrize("target", HERE, ids=lambda target: target.isa)


@on_each_machine
@pytest.mark.parametrize("kinds", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_integers_are_exact(target: Machine, kinds: int) -> None:
    for layer, given in tried(6 * kinds, kinds):
        assert_exact(layer, given, target)


@on_each_machine
def test_random_numbers_stay_within_the_bound_whatever_the_team(target: Machine) -> None:
    layers = [
        Layer(70, (3, 3), out_channels=33),
        Layer(66, (3, 3), out_channels=8, dilation=2),
        Layer(3, (7, 7), out_channels=24, stride=2),
        LAYERS[-3],
    ]
    for layer, small_cache in product(layers, (False, True)):
        given = Input(2, (21, 23), 1, small_cache=small_cache)
        g, numbers = geometry_of(layer, given), numbers_of(layer, given, normals(0))
        one, *others = (run(layer, replace(given, threads=team), target, draw=normals(0)) for team in (1, 2, 3))
        exact, most = expected_of(g, numbers), expected_of(g, numbers.mapped(torch.abs))
        terms = layer.channels // layer.groups * g.kernel_area + 1
        assert bool(((one - exact).abs() <= 2 * terms * torch.finfo().eps * most).all())
        assert all(torch.equal(one, other) for other in others)


@pytest.mark.parametrize("target", [machine.avx2(), AVX512, machine.neon()], ids=lambda target: target.isa)
def test_code_for_every_machine(target: Machine) -> None:
    for layer, layout in ((LAYERS[-4], "last"), (LAYERS[-2], "last"), (Layer(3, (3, 3), out_channels=9), "planar")):
        given = Input(1, (9, 9, 9)[: layer.rank], 1, layout)
        for kernel in program_of(layer, given, target).kernels:
            assert jit.compile_object(kernel.ir(), target)[:4] == b"\x7fELF"
    assert outside_calls(jit.assembly(kernel.ir(), target)) == set()


def another_tap(right: Callable[..., Any]) -> Callable[..., Any]:
    return lambda tap, e, k: right(replace(tap, x=ir.least(tap.x, max(0, k.kernel[2] - 2))), e, k)


def fewer_pixels(right: Callable[..., Any]) -> Callable[..., Any]:
    return lambda heights, pixels, write: right(heights, ir.greatest(pixels - 1, 1), write)


def other_group(right: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *all_: replace(panel := right(*all_), first_input=panel.first_input * 0)


MUTANTS: dict[str, tuple[Any, str, Callable[[Callable[..., Any]], Any]]] = {
    "a tap read in the place of another": (window.Tap, "distance", another_tap),
    "columns outside the image read": (
        ir.Int,
        "is_index_of",
        lambda right: lambda index, length: right(index, length + 1),
    ),
    "a tile at the border taken for one inside": (dense, "_is_inside", lambda _: lambda e, *_: e.whole(0).equals(0)),
    "the first group's input for every group": (product_emitter, "_panel", other_group),
    "the last pixel left out": (dense, "each_tile", fewer_pixels),
    "sums not kept between slabs": (
        dense,
        "_slab",
        lambda right: lambda e, k, *rest: replace(right(e, k, *rest), number=e.whole(k.slabs - 1)),
    ),
    "pixels that stay in their row": (
        window,
        "_counted",
        lambda right: lambda at, size, *rest: (at + 1, right(at, size, *rest)[1]),
    ),
    "the weights of taps in another order": (
        pack,
        "pack_dense",
        lambda right: lambda weight, *rest: right(weight.flip(-1), *rest),
    ),
    "no activation": (product_emitter, "activated", lambda _: lambda x, activation: x),
    "no residual": (dense, "put", lambda right: lambda k, sums, rows, out, _: right(k, sums, rows, out, [])),
}


@runs_here
@pytest.mark.parametrize("name", MUTANTS)
def test_every_mutant_is_seen(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, function, mutant = MUTANTS[name]
    monkeypatch.setenv("DEPTHWISE_CACHE_DIR", "off")
    monkeypatch.setattr(jit, "_loaded", WeakValueDictionary())
    monkeypatch.setattr(owner, function, mutant(getattr(owner, function)))
    with pytest.raises(AssertionError, match="elements differ"):
        check()


# Tails in every dimension, groups, several slabs, and all that a mutant may leave out.
_BLOCK = Layer(18, (3, 2), out_channels=38, groups=2, activations=(None, ("leaky_relu", 0.25)), residual=True)
EXAMPLES = [
    (_BLOCK, Input(2, (5, 6), 1)),
    (_BLOCK, Input(2, (5, 24), 1, threads=2, small_cache=True)),
    (Layer(3, (3, 3), out_channels=9, stride=2), Input(1, (9, 23), 1, "planar")),
]


def check() -> None:
    for layer, given in EXAMPLES:
        assert_exact(layer, given, HERE[-1], Roomy())


@runs_here
def test_without_a_mutant_the_check_passes() -> None:
    check()


def problem_of(x: Tensor, tensors: DenseTensors, g: Geometry, **options: Any) -> Problem:
    result = torch.empty((len(x), *g.output_size), device="meta", memory_format=LAST).stride()
    added = None if tensors.residual is None else tensors.residual.stride()
    given: dict[str, Any] = {"strides": x.stride(), "result": result, "residual": added} | options
    return Problem("dense", g, x.dtype, "cpu", len(x), activations=tensors.activations, **given)


@runs_here
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("layout", [LAST, torch.contiguous_format])
def test_as_a_problem_of_the_backend(layout: torch.memory_format, threads: int) -> None:
    torch.set_num_threads(threads)
    draw = small_integers(0)
    x, weight, bias = draw((2, 3, 20, 31)).contiguous(memory_format=layout), draw((19, 3, 5, 4)), draw((19,))
    g = geometry((3, 20, 31), (5, 4), stride=2, padding=((2, 2), (1, 2)), out_channels=19)
    added = draw((2, *g.output_size)).contiguous(memory_format=LAST)
    tensors = DenseTensors(weight, bias, ("leaky_relu", 0.25), added)
    problem = problem_of(x, tensors, g)
    assert CPU.refusal(problem) is None
    expected = EAGER.run(x, tensors, problem)
    for _ in range(2):
        out = CPU.run(x, tensors, problem)
        assert torch.equal(out, expected)
        assert out.is_contiguous(memory_format=LAST)
    ready = CPU.prepared(x, tensors, problem)
    assert ready is not None
    assert ready.run(x, added) is not None
    assert str(CPU.kernel(problem)).startswith("conv_f32_k5x4_s2x2_d1x1_n19c3g1")


@runs_here
def test_no_sum_is_one_long_chain() -> None:
    """2^24 swallows each 1 that is added to it; sums of 1s that begin anew lose none."""
    x, weight = torch.ones(1, 128, 9, 12).contiguous(memory_format=LAST), torch.ones(40, 128, 3, 3)
    weight[:, 0, 0, 0] = 2.0**24
    g = geometry((128, 9, 12), 3, out_channels=40)
    out = CPU.run(x, tensors := DenseTensors(weight), problem_of(x, tensors, g))
    assert torch.equal(out, torch.full_like(out, 2.0**24 + 128 * 8))


@runs_here
def test_what_is_refused() -> None:
    x, tensors = torch.ones(2, 8, 5, 6), DenseTensors(torch.ones(4, 8, 3, 3))
    g = geometry((8, 5, 6), 3, out_channels=4)
    last = x.contiguous(memory_format=LAST)
    why = "a dense convolution is computed of dense images, channels-last or contiguous, to channels-last ones"
    assert CPU.refusal(problem_of(x, tensors, g)) is None
    assert CPU.refusal(problem_of(last, tensors, g)) is None
    assert CPU.refusal(problem_of(last, tensors, g, result=None)) == why
    assert CPU.refusal(problem_of(last, tensors, g, residual=(48, 12, 4, 1))) == why
    assert CPU.refusal(problem_of(x.transpose(2, 3), tensors, g)) == why
    assert CPU.refusal(problem_of(last, tensors, g, differentiable=True)) == why
