"""The activations, written into the code as a few instructions on a vector; none calls a function.

Each coefficient below comes from a minimax fit of our own, by Lawson's iteration: `python -m benchmarks.polynomials`
repeats it. `ERROR_BOUNDS` holds what remains.
"""

from __future__ import annotations

from collections.abc import Callable
from ctypes import c_float
from dataclasses import dataclass
from math import log

from ...base import Activation
from .ir import Vec, select

EPS = 2.0**-23


@dataclass(frozen=True, slots=True)
class ErrorBound:
    """|error| <= EPS · (relative · |exact| + of_input · |x|) + absolute, for finite x and exact."""

    relative: float
    of_input: float = 0.0
    absolute: float = 2.0**-149  # the distance of subnormal numbers


# Of every float32 number in +-[2^-26, 2^8] the worst gives 3.1 for silu and sigmoid, beyond x = -60 (2.0 for |x| < 10),
# 1.1 for elu, 4.7 for gelu, near 0; gelu's absolute error is under 1 EPS where x < 0. Below x = -88.37 e^-x overflows,
# and silu and sigmoid are zero: hence their absolute parts.
ERROR_BOUNDS = {
    "relu": ErrorBound(0.0, absolute=0.0),
    "relu6": ErrorBound(0.0, absolute=0.0),
    "silu": ErrorBound(3.5, absolute=2.0**-121),
    "hardswish": ErrorBound(1.0, of_input=0.2),
    "hardsigmoid": ErrorBound(0.25, absolute=0.2 * EPS),
    "sigmoid": ErrorBound(3.5, absolute=2.0**-127),
    "gelu": ErrorBound(5.0, of_input=0.25),
    "leaky_relu": ErrorBound(0.5),
    "elu": ErrorBound(1.5),
}


def activated(x: Vec, activation: Activation) -> Vec:
    """The activation of each lane, torch's NaN and infinities included: of -inf silu, hardswish and gelu are NaN."""
    if activation is None:
        return x
    name, slope = activation
    return EMITTERS[name](x, c_float(slope).value)


def _relu(x: Vec, _: float) -> Vec:
    return x.at_least(0.0)


def _relu6(x: Vec, _: float) -> Vec:
    return x.at_least(0.0).at_most(6.0)


def _hardsigmoid(x: Vec, _: float) -> Vec:
    # relu6(x + 3) / 6 with the division inside: 1/6 in float32 makes it 0 at -3 and 1 at 3, as it should be.
    return x.fma(1 / 6, 0.5).at_most(1.0).at_least(0.0)


def _hardswish(x: Vec, slope: float) -> Vec:
    return x * _hardsigmoid(x, slope)


def _leaky_relu(x: Vec, slope: float) -> Vec:
    scaled = x * slope
    if 0.0 < slope <= 1.0:
        return select(x.above(scaled), x, scaled)
    return select(x.above(0.0), x, scaled)


# Added to a number below 2^22, it rounds that to an integer n, and leaves n + 127 in the nine lowest bits.
ROUNDING = 1.5 * 2.0**23 + 127.0
LN2 = log(2.0)


def reduced(x: Vec, sign: int) -> tuple[Vec, Vec]:
    """The r and 2^n with sign · x = n · ln 2 + sign · r, |r| <= ln(2) / 2, for n in [-126, 127]; 2^128 is infinity.

    float32's ln 2 is 1.9e-9 too large, so n · ln 2 needs no second term: r is off by 2 EPS at n = 126.
    """
    shifted = x.fma(sign / LN2, ROUNDING)
    n = shifted - ROUNDING
    return n.fma(-sign * LN2, x), shifted.low_bits_as_exponent()


def polynomial(r: Vec, coefficients: tuple[float, ...]) -> Vec:
    """coefficients[0] + coefficients[1] · r + ..., by Horner's rule."""
    *rest, before, last = coefficients
    total = r.fma(last, before)
    for coefficient in reversed(rest):
        total = total.fma(r, coefficient)
    return total


# e^-r within 0.77 EPS of it for |r| <= ln(2) / 2.
EXP_MINUS = (
    1.0,
    -0.9999997019767761,
    0.4999915063381195,
    -0.16667649149894714,
    0.04189782589673996,
    -0.008289569988846779,
)


def exp_minus(x: Vec) -> Vec:
    """e^-x for x >= 0; of more than SIGMOID_TO what it is there, 2e-38."""
    r, power = reduced(x.at_most(SIGMOID_TO), -1)
    return polynomial(r, EXP_MINUS) * power


# Between them n of e^-x goes from 128, where e^-x is infinity, to -126.
SIGMOID_FROM, SIGMOID_TO = -88.7, 87.0


def one_plus_exp_minus(x: Vec) -> Vec:
    r, power = reduced(x.at_least(SIGMOID_FROM).at_most(SIGMOID_TO), -1)
    return polynomial(r, EXP_MINUS).fma(power, 1.0)


def _sigmoid(x: Vec, _: float) -> Vec:
    return 1.0 / one_plus_exp_minus(x)


def _silu(x: Vec, _: float) -> Vec:
    return x / one_plus_exp_minus(x)


# (e^r - 1 - r) / r^2, such that e^x - 1 is within 0.06 EPS of itself for x <= 0.
EXPM1 = (0.4999998211860657, 0.16666516661643982, 0.04167069122195244, 0.008369098417460918, 0.0013701856369152665)
# e^x - 1 rounds to -1 from here down.
ELU_FROM = -18.0


def _elu(x: Vec, alpha: float) -> Vec:
    # Where x > 0 the power is anything, and is not selected.
    r, power = reduced(x.at_least(ELU_FROM), 1)
    expm1 = polynomial(r, EXPM1).fma(r * r, r).fma(power, power - 1.0)
    return select(x.below(0.0), expm1 * alpha, x)


# The eighth root of Phi(-a), Phi the normal distribution's, for a in [0, 8]: a root is far smoother than Phi, and the
# power makes zero of what is left at 8, 1e-7. Its power is within 0.4 EPS · (Phi + 0.05) of Phi.
GELU_ROOT = (
    0.9170040488243103,
    -0.09145789593458176,
    -0.03192639723420143,
    -0.0006745166028849781,
    0.0015063146129250526,
    3.354014552314766e-05,
    -6.01294705120381e-05,
    7.477361577912234e-06,
    -2.970809305224975e-07,
)
GELU_TO = 8.0


def normal_tail(a: Vec) -> Vec:
    """Phi(-a) for a >= 0; beyond GELU_TO what it is there."""
    root = polynomial(a.at_most(GELU_TO), GELU_ROOT)
    square = root * root
    fourth = square * square
    return fourth * fourth


def _gelu(x: Vec, _: float) -> Vec:
    # x · Phi(x) = max(x, 0) - |x| · Phi(-|x|): what is small for x < 0 is not the difference of what is large. Of -inf
    # it is infinity · 0, NaN as torch has it; of inf the zero is left out.
    outer = x.at_most(GELU_TO).magnitude()
    return (-outer).fma(normal_tail(outer), x.at_least(0.0))


EMITTERS: dict[str, Callable[[Vec, float], Vec]] = {
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
