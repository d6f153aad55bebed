"""Every activation against its definition in float64: within its bound, the same on every machine, calling nothing."""

from __future__ import annotations

import ctypes
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

import pytest
import torch
from torch import Tensor

from depthwise.activations import ACTIVATIONS
from depthwise.backends.base import Activation
from depthwise.backends.cpu import machine
from depthwise.backends.cpu.emit import activations
from depthwise.backends.cpu.emit.activations import EPS, ERROR_BOUNDS, ErrorBound, activated
from depthwise.backends.cpu.emit.ir import Block, Int, Vec
from depthwise.backends.cpu.emit.kernel import SYMBOL, Kernel
from depthwise.backends.cpu.machine import Machine
from depthwise.backends.cpu.run import jit
from depthwise.backends.eager import activate

INF, NAN = math.inf, math.nan
ENTRY = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)

HOST = machine.host()
HERE = [] if HOST is None else [HOST] + ([machine.avx2()] if HOST.isa == "avx512" else [])
TARGETS = [*HERE, machine.neon()]
LANES = (16, 8, 4, 2, 1)

CASES: list[tuple[str, float]] = [
    *((name, 0.0) for name in ACTIVATIONS if name not in ("leaky_relu", "elu")),
    *(("leaky_relu", slope) for slope in (0.01, 0.0, 1.0, 3.3, -2.7)),
    *(("elu", alpha) for alpha in (1.0, 0.3, -2.7, 0.0)),
]

# In float64, gelu and elu without the cancellation that torch's have.
EXACT: dict[str, Callable[[Tensor, float], Tensor]] = {
    **{name: row.function for name, row in ACTIVATIONS.items()},
    "gelu": lambda x, _: 0.5 * x * torch.special.erfc(-x / math.sqrt(2)),
    "elu": lambda x, alpha: torch.where(x < 0, alpha * torch.expm1(x), x),
}


@dataclass(frozen=True)
class Applied(Kernel):
    """`apply` to `count` numbers, so many lanes at a time."""

    pointers = ("x", "out")
    numbers = ("count",)
    label = "activation"
    plans = ()

    apply: Callable[[Vec], Vec]
    lanes: int

    def write(self, e: Block, thread: Int, threads: Int) -> None:
        with e.loop(0, e.number("count"), self.lanes) as loop:
            (e.pointer("out") + loop.index).store(self.apply((e.pointer("x") + loop.index).load(self.lanes)))


def text_of(apply: Callable[[Vec], Vec], lanes: int, target: Machine) -> str:
    return Applied(target, apply, lanes).ir()


def compiled(activation: Activation, lanes: int, target: Machine) -> jit.Code:
    text = text_of(partial(activated, activation=activation), lanes, target)
    return jit.link(jit.compile_object(text, target), target)


kept = cache(compiled)


def run(code: jit.Code, x: Tensor) -> Tensor:
    """`x`, a multiple of 16 numbers, through `code`."""
    out = torch.full_like(x, NAN)
    frame = (ctypes.c_int64 * 3)(x.data_ptr(), out.data_ptr(), x.numel())
    ENTRY(code.address(SYMBOL))(ctypes.addressof(frame), 0, 1)
    return out


def on_host(activation: Activation, x: Tensor) -> Tensor:
    if HOST is None:
        pytest.skip("no generator serves this machine")
    padded = torch.cat([x, torch.zeros(-x.numel() % 16)])
    return run(kept(activation, HOST.vector_lanes, HOST), padded)[: x.numel()]


def numbers() -> Tensor:
    """A dense grid, numbers of every magnitude, random bits and what each formula finds hard; all finite."""
    grid = torch.linspace(-100.0, 100.0, 400_000)
    magnitudes = torch.tensor([sign * 1.37 * 2.0**e for e in range(-149, 128) for sign in (-1, 1)])
    bits = torch.randint(-(2**31), 2**31, (200_000,)).to(torch.int32).view(torch.float32)
    knees = torch.tensor([0.0, 3.0, 6.0, 8.0, 18.0, 87.0, 88.376, 88.7, 3.4028234663852886e38])
    steps = torch.arange(-40, 41) * EPS
    around = torch.cat([(sign * knees[:, None] * (1 + steps)).flatten() for sign in (-1, 1)])
    x = torch.cat([grid, magnitudes, bits, around, around[:, None].mul(torch.rand(10)).flatten()])
    return x[torch.isfinite(x)]


def excess(y: Tensor, x: Tensor, activation: tuple[str, float], bound: ErrorBound) -> float:
    """The largest ratio of the error to what `bound` allows."""
    name, slope = activation
    x = x.double()
    exact = EXACT[name](x, float(torch.tensor(slope)))
    # Beyond float32's largest number infinity is exact.
    exact = torch.where(exact.float().isinf(), exact.sign() * INF, exact)
    error = torch.where(y == exact, 0.0, (y - exact).abs())
    allowed = EPS * (bound.relative * exact.abs() + bound.of_input * x.abs()) + bound.absolute
    ratios = torch.where(error == 0.0, 0.0, error / allowed)
    return float(ratios.nan_to_num(INF).max())


def test_the_table_has_every_activation() -> None:
    assert set(ERROR_BOUNDS) == set(ACTIVATIONS) == {name for name, _ in CASES}


@pytest.mark.parametrize("activation", CASES, ids=str)
def test_every_activation_is_within_its_bound(activation: tuple[str, float]) -> None:
    x = numbers()
    assert excess(on_host(activation, x), x, activation, ERROR_BOUNDS[activation[0]]) <= 1.0


@pytest.mark.parametrize("name", ["silu", "sigmoid", "gelu", "elu", "hardswish", "hardsigmoid"])
def test_the_bounds_are_no_more_than_twice_the_error(name: str) -> None:
    bound, x = ERROR_BOUNDS[name], numbers()
    half = ErrorBound(bound.relative / 2, bound.of_input / 2, bound.absolute / 2)
    assert excess(on_host((name, 0.3), x), x, (name, 0.3), half) > 1.0


@pytest.mark.parametrize(
    ("constant", "index", "name"),
    [
        ("EXP_MINUS", 3, "silu"),
        ("EXP_MINUS", 3, "sigmoid"),
        ("EXPM1", 2, "elu"),
        ("GELU_ROOT", 4, "gelu"),
        ("GELU_ROOT", 0, "gelu"),
    ],
)
def test_a_wrong_coefficient_is_seen(monkeypatch: pytest.MonkeyPatch, constant: str, index: int, name: str) -> None:
    if HOST is None:
        pytest.skip("no generator serves this machine")
    right = getattr(activations, constant)
    wrong = tuple(value * 1.0001 if i == index else value for i, value in enumerate(right))
    monkeypatch.setattr(activations, constant, wrong)
    x = torch.linspace(-9, 9, 1 << 14)
    y = run(compiled((name, 1.0), HOST.vector_lanes, HOST), x)
    assert excess(y, x, (name, 1.0), ERROR_BOUNDS[name]) > 1.0


@pytest.mark.parametrize(
    ("constant", "value", "name", "x"),
    [
        ("SIGMOID_FROM", -1e9, "sigmoid", -800.0),
        ("SIGMOID_FROM", -80.0, "silu", -1e9),
        ("SIGMOID_TO", 1e9, "sigmoid", 120.0),
        ("ELU_FROM", -1e9, "elu", -1e6),
        ("GELU_TO", 1e9, "gelu", 12.0),
    ],
)
def test_a_wrong_range_is_seen(
    monkeypatch: pytest.MonkeyPatch, constant: str, value: float, name: str, x: float
) -> None:
    if HOST is None:
        pytest.skip("no generator serves this machine")
    monkeypatch.setattr(activations, constant, value)
    many = torch.full((16,), x)
    y = run(compiled((name, 1.0), HOST.vector_lanes, HOST), many)
    assert excess(y, many, (name, 1.0), ERROR_BOUNDS[name]) > 1.0


@pytest.mark.skipif(HOST is None, reason="no generator serves this machine")
@pytest.mark.parametrize("activation", [None, *CASES], ids=str)
def test_every_width_and_machine_gives_the_same_bits(activation: Activation) -> None:
    x = torch.cat([numbers()[::37], torch.tensor([INF, -INF, NAN, 0.0, -0.0])])
    x = x[-(x.numel() // 16 * 16) :]
    expected = on_host(activation, x)
    for target in HERE:
        for lanes in LANES:
            y = run(kept(activation, lanes, target), x)
            torch.testing.assert_close(y, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("slope", [0.5, 0.0, -2.0, INF, -INF, NAN, 3e38, 1e-60], ids=str)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_infinities_and_nan_give_what_torch_gives(name: str, slope: float) -> None:
    # Beyond a sixth of the largest number torch's hardswish overflows on the way, ours does not.
    huge = 5e37 if name == "hardswish" else 3.4e38
    x = torch.tensor([NAN, INF, -INF, 0.0, -0.0, 1e30, -1e30, huge, -huge, 2.0, -200.0])
    # With AVX-512 torch's gelu of an infinite float32 is NaN, of a float64 it is infinite.
    exact = activate(x.double(), (name, slope)).float() if name == "gelu" else activate(x, (name, slope))
    torch.testing.assert_close(on_host((name, slope), x), exact, rtol=1e-6, atol=0, equal_nan=True)


@pytest.mark.parametrize("slope", [0.5, 0.0, -2.0, 1.0], ids=str)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_denormal_numbers_give_what_torch_gives(name: str, slope: float) -> None:
    x = torch.tensor([sign * m * 2.0**-149 for m in (1, 2, 3, 1000, 2**22, 2**23 - 1, 2**23) for sign in (-1, 1)])
    torch.testing.assert_close(on_host((name, slope), x), activate(x, (name, slope)), rtol=0, atol=2.0**-149)


@pytest.mark.parametrize(
    ("activation", "x", "expected"),
    [
        (("sigmoid", 0.0), -200.0, 0.0),
        (("sigmoid", 0.0), 200.0, 1.0),
        (("sigmoid", 0.0), 0.0, 0.5),
        (("silu", 0.0), 1e30, 1e30),
        (("silu", 0.0), -1e30, 0.0),
        (("elu", 1.5), -1e30, -1.5),
        (("elu", -1.5), -18.1, 1.5),
        (("elu", 1.5), 1e30, 1e30),
        (("gelu", 0.0), INF, INF),
        (("gelu", 0.0), -INF, NAN),
        (("gelu", 0.0), 3e38, 3e38),
        (("gelu", 0.0), -3e38, 0.0),
        (("gelu", 0.0), -8.0, 0.0),
        (("gelu", 0.0), 8.0, 8.0),
        (("hardswish", 0.0), 3e38, 3e38),
        (("hardswish", 0.0), -3.0, 0.0),
        (("hardswish", 0.0), 3.0, 3.0),
        (("hardsigmoid", 0.0), -3.0, 0.0),
        (("hardsigmoid", 0.0), 3.0, 1.0),
    ],
)
def test_values_that_are_exact(activation: Activation, x: float, expected: float) -> None:
    found = on_host(activation, torch.tensor([x]))
    torch.testing.assert_close(found, torch.tensor([expected]), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(
    "activation", [None, ("relu", 0.0), ("relu6", 0.0), ("leaky_relu", 0.25), ("leaky_relu", -2.0)], ids=str
)
def test_integers_stay_exact(activation: Activation) -> None:
    x = torch.arange(-4096, 4096).float()
    assert torch.equal(on_host(activation, x), activate(x, activation))


def test_the_fits_are_as_near_as_their_comments_say() -> None:
    def polynomial(x: Tensor, coefficients: tuple[float, ...]) -> Tensor:
        return sum((c * x**i for i, c in enumerate(coefficients)), torch.zeros_like(x))

    r = torch.linspace(-math.log(2) / 2, math.log(2) / 2, 10_001, dtype=torch.float64)
    assert (polynomial(r, activations.EXP_MINUS) * r.exp() - 1).abs().max() < 0.77 * EPS
    n = torch.arange(-25.0, 1.0, dtype=torch.float64)[:, None]
    x = (n * math.log(2) + r)[n * math.log(2) + r < 0]
    expm1 = torch.exp2(n) * (r + r * r * polynomial(r, activations.EXPM1)) + torch.exp2(n) - 1
    assert (expm1[n * math.log(2) + r < 0] / torch.expm1(x) - 1).abs().max() < 0.06 * EPS
    a = torch.linspace(0.0, 8.0, 10_001, dtype=torch.float64)
    phi = 0.5 * torch.special.erfc(a / math.sqrt(2))
    assert ((polynomial(a, activations.GELU_ROOT) ** 8 - phi).abs() / (phi + 0.05)).max() < 0.4 * EPS


def outside_calls(assembly: str) -> set[str]:
    """The symbols that are called or jumped to, but for this module's stage and its labels."""
    targets = re.findall(r"^\s+(?:callq?|jmpq?|bl|b)\s+([A-Za-z_]\w*)", assembly, re.MULTILINE)
    return set(targets) - {"stage0"}


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.isa)
def test_the_assembly_calls_no_function(target: Machine) -> None:
    for activation in CASES:
        for lanes in LANES:
            assembly = jit.assembly(text_of(partial(activated, activation=activation), lanes, target), target)
            assert outside_calls(assembly) == set()


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.isa)
def test_a_call_would_be_seen(target: Machine) -> None:
    assembly = jit.assembly(text_of(lambda x: x._intrinsic("exp", x), 4, target), target)
    assert outside_calls(assembly) == {"expf"}
