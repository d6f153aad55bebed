"""Gradients through the activations, as a few instructions on a vector: what torch's own backward operators give."""

from __future__ import annotations

from collections.abc import Callable
from ctypes import c_float
from math import pi, sqrt

from ...base import Activation
from .activations import (
    ELU_FROM,
    EXPM1,
    normal_tail,
    one_plus_exp_minus,
    polynomial,
    reduced,
)
from .ir import Bool, Vec, select

# e^-(z·z)/2 is below float32's normal numbers from here on.
_NORMAL_TO = 13.0


def through(dy: Vec, z: Vec, activation: Activation) -> Vec:
    """The gradient of what the activation was given, `z`, where that of its result is `dy`."""
    if activation is None:
        return dy
    name, slope = activation
    return GRADIENTS[name](dy, z, c_float(slope).value)


def _compared(z: Vec, relation: str, bound: float) -> Bool:
    value = z.block.value(f"fcmp {relation} {z.kind} {z.value}, {z.block.constant(bound, z.lanes).value}")
    return Bool(z.block, value, f"<{z.lanes} x i1>")


def _relu(dy: Vec, z: Vec, _: float) -> Vec:
    # NaN is not at most 0.
    return select(_compared(z, "ugt", 0.0), dy, z.block.constant(0.0, z.lanes))


def _relu6(dy: Vec, z: Vec, _: float) -> Vec:
    zeros = z.block.constant(0.0, z.lanes)
    return select(z.above(0.0), select(z.below(6.0), dy, zeros), zeros)


def _hardsigmoid(dy: Vec, z: Vec, _: float) -> Vec:
    zeros = z.block.constant(0.0, z.lanes)
    return select(z.above(-3.0), select(z.below(3.0), dy * (1 / 6), zeros), zeros)


def _hardswish(dy: Vec, z: Vec, _: float) -> Vec:
    between = dy * z.fma(1 / 3, 0.5)
    lower = select(_compared(z, "ugt", -3.0), between, z.block.constant(0.0, z.lanes))
    return select(_compared(z, "ult", 3.0), lower, dy)


def _leaky_relu(dy: Vec, z: Vec, slope: float) -> Vec:
    return select(z.above(0.0), dy, dy * slope)


def _sigmoid(dy: Vec, z: Vec, _: float) -> Vec:
    gate = 1.0 / one_plus_exp_minus(z)
    return dy * (gate * (1.0 - gate))


def _silu(dy: Vec, z: Vec, _: float) -> Vec:
    gate = 1.0 / one_plus_exp_minus(z)
    return dy * (gate * z.fma(1.0 - gate, 1.0))


def _exp(x: Vec) -> Vec:
    """e^x for x in [-87, 0]."""
    r, power = reduced(x, 1)
    return polynomial(r, EXPM1).fma(r * r, r).fma(power, power)


def _elu(dy: Vec, z: Vec, alpha: float) -> Vec:
    scaled = dy * (_exp(z.at_least(ELU_FROM * 4).at_most(0.0)) * alpha)
    return select(z.above(0.0), dy, scaled)


def _gelu(dy: Vec, z: Vec, _: float) -> Vec:
    # Phi(z) + z · phi(z), Phi of what is small as in activations.py.
    near = z.at_least(-_NORMAL_TO).at_most(_NORMAL_TO)
    density = _exp(near * near * -0.5) * (1 / sqrt(2 * pi))
    lower = normal_tail(z.magnitude())
    share = select(z.below(0.0), lower, 1.0 - lower)
    # Of infinities NaN, as torch has it: theirs is infinity · phi(infinity).
    return dy * near.fma(density, z.fma(0.0, share))


# Those that take longer than writing what they give, and reading it again, does in cache.
LONG = frozenset({"silu", "sigmoid", "gelu", "elu"})

GRADIENTS: dict[str, Callable[[Vec, Vec, float], Vec]] = {
    "relu": _relu,
    "relu6": _relu6,
    "silu": _silu,
    "hardswish": _hardswish,
    "hardsigmoid": _hardsigmoid,
    "sigmoid": _sigmoid,
    "gelu": _gelu,
    "leaky_relu": _leaky_relu,
    "elu": _elu,
}
