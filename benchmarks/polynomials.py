"""The polynomials of the generated activations, fitted: `python -m benchmarks.polynomials`.

Minimax by Lawson's iteration (C. L. Lawson, thesis, UCLA 1961): weighted least squares, the weights multiplied by the
error until it is level. Then, from the lowest power up, a coefficient is rounded to float32 and those above it are
fitted again. Another activation's polynomial is one more row of `FITS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import erfc, log, pi, sqrt

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]

EPS = 2.0**-23
NODES, ROUNDS = 1500, 400


@dataclass(frozen=True, slots=True)
class Fit:
    """What is fitted, of x in [low, high].

    weight: what an error of the polynomial counts, of x, such that what is level is the activation's own error
    fixed:  lowest coefficients that are given
    """

    function: Callable[[Numbers], Numbers]
    low: float
    high: float
    degree: int
    weight: Callable[[Numbers], Numbers]
    fixed: tuple[float, ...] = ()


def _second_order(r: Numbers) -> Numbers:
    """(e^r - 1 - r) / r^2, by its series: the difference cancels near 0."""
    total, term = np.zeros_like(r), np.full_like(r, 0.5)
    for k in range(3, 22):
        total, term = total + term, term * r / k
    return total


def _share_of_expm1(r: Numbers) -> Numbers:
    """r^2 2^n over 1 - e^x, x = n ln 2 + r <= 0: the most of all n."""
    below = np.where(r < 0, -np.expm1(np.minimum(r, -1e-12)), np.inf)
    return np.maximum(r**2 / below, r**2 / 2 / (1 - np.exp(r) / 2))


def _normal(a: Numbers) -> Numbers:
    """Phi(-a)"""
    return np.array([erfc(float(each) / sqrt(2)) / 2 for each in a])


HALF = log(2) / 2
FITS: Mapping[str, Fit] = {
    "EXP_MINUS": Fit(lambda r: np.exp(-r), -HALF, HALF, 5, np.exp, (1.0,)),
    "EXPM1": Fit(_second_order, -HALF, HALF, 4, _share_of_expm1),
    "GELU_ROOT": Fit(
        lambda a: _normal(a) ** 0.125, 0.0, 8.0, 8, lambda a: 8 * _normal(a) ** 0.875 / (_normal(a) + 0.05)
    ),
}


def coefficients(fit: Fit) -> tuple[float, ...]:
    """From the lowest power up, each a float32."""
    angles = (np.arange(NODES) + 0.5) * pi / NODES
    x = (fit.low + fit.high) / 2 + (fit.high - fit.low) / 2 * np.cos(angles)
    exact, scale = fit.function(x), fit.weight(x)
    known = list(fit.fixed)
    while len(known) <= fit.degree:
        left = exact - sum(value * x**power for power, value in enumerate(known))
        rest = _level(x, left, scale, range(len(known), fit.degree + 1))
        known.append(float(np.float32(rest[0])))
    return tuple(known)


def error_of(fit: Fit, values: tuple[float, ...]) -> float:
    """The largest weighted error of a polynomial, in float32's EPS; of its coefficients alone, not of its sums."""
    x = np.linspace(fit.low, fit.high, 20_001)
    found = sum(value * x**power for power, value in enumerate(values))
    return float(np.abs((found - fit.function(x)) * fit.weight(x)).max() / EPS)


def _level(x: Numbers, wanted: Numbers, scale: Numbers, powers: range) -> Numbers:
    """Coefficients of these powers whose largest scaled error over the nodes is least."""
    columns = np.stack([x**power for power in powers], axis=1) * scale[:, None]
    weights = np.full(len(x), 1 / len(x))
    best, least = np.zeros(len(powers)), np.inf
    for _ in range(ROUNDS):
        root = np.sqrt(weights)
        found = np.linalg.lstsq(columns * root[:, None], wanted * scale * root, rcond=None)[0]
        error = np.abs(columns @ found - wanted * scale)
        if error.max() < least:
            best, least = found, float(error.max())
        if not error.max():
            break
        weights = weights * error
        weights /= weights.sum()
    return best


if __name__ == "__main__":
    for name, fit in FITS.items():
        values = coefficients(fit)
        print(f"# within {error_of(fit, values):.2f} EPS\n{name} = {values}")  # noqa: T201
