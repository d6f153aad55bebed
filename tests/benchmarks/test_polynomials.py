"""The polynomials in the generated code are those that the script fits."""

from __future__ import annotations

import pytest

from benchmarks import polynomials
from benchmarks.polynomials import FITS, coefficients, error_of
from depthwise.backends.cpu.emit import activations


@pytest.mark.parametrize("name", FITS)
def test_the_codes_polynomials_are_fitted_so(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(polynomials, "ROUNDS", 40)
    monkeypatch.setattr(polynomials, "NODES", 400)
    in_code = getattr(activations, name)
    fitted = coefficients(FITS[name])
    assert len(fitted) == len(in_code)
    assert fitted[0] == pytest.approx(in_code[0], rel=1e-6)
    assert error_of(FITS[name], in_code) < 1.1 * error_of(FITS[name], fitted)


@pytest.mark.parametrize("name", FITS)
def test_another_coefficient_is_worse(name: str) -> None:
    first, second, *rest = getattr(activations, name)
    within = error_of(FITS[name], (first, second, *rest))
    assert within < 0.8
    assert error_of(FITS[name], (first, second * (1 + 1e-4), *rest)) > 2 * within
