"""Errors planted in the emitters of resizing, norms over groups and factors by pixel: the checks must see each."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from types import ModuleType
from typing import Any
from weakref import WeakValueDictionary

import pytest

from depthwise.backends.cpu.emit import bilinear, elementwise, group_norm
from depthwise.backends.cpu.emit.ir import Block
from depthwise.backends.cpu.run import jit
from tests.support.kernels import HERE
from tests.support.pixels import check_bilinear, check_group_norm, check_pixel_factors

pytestmark = pytest.mark.skipif(not HERE, reason="no generator serves this machine")

Check = Callable[[Any], None]
Mutant = Callable[[Callable[..., Any]], Callable[..., Any]]

MUTANTS: dict[str, tuple[Check, ModuleType | type, str, Mutant]] = {
    "the other weight": (
        check_bilinear,
        bilinear,
        "_between",
        lambda right: lambda one, other, weight: right(other, one, weight=weight),
    ),
    "a row for a column": (
        check_bilinear,
        bilinear,
        "_place",
        lambda right: lambda e, k, index, axis: right(e, k, index, "yx"[axis == "y"]),
    ),
    "no neighbour": (
        check_bilinear,
        bilinear,
        "_place",
        lambda right: lambda *given: (lambda u, first, _: (u, first, first))(*right(*given)),
    ),
    "the first channels alone": (
        check_bilinear,
        bilinear,
        "each_channel",
        lambda right: lambda e, channels, lanes, write: right(e, channels // 2, 1, write),
    ),
    "the other sums": (
        check_group_norm,
        group_norm,
        "_sum",
        lambda right: lambda e, k, image, which, channel: right(e, k, image, 0, channel),
    ),
    "the first image's sums": (
        check_group_norm,
        group_norm,
        "_sum",
        lambda right: lambda e, k, image, which, channel: right(e, k, e.whole(0), which, channel),
    ),
    "the last block beside the others": (
        check_group_norm,
        group_norm,
        "least",
        lambda right: lambda a, b: right(a, a),
    ),
    "no scale": (
        check_group_norm,
        group_norm,
        "_one",
        lambda right: lambda e, k, name, channel: None if name == "scale" else right(e, k, name, channel),
    ),
    "no eps": (
        check_group_norm,
        group_norm,
        "of_bits",
        lambda right: lambda bits, lanes: right(bits.block.whole(0), lanes),
    ),
    "the first pixel's factor": (
        check_pixel_factors,
        Block,
        "splat",
        lambda right: lambda e, place, lanes: right(e, e.pointer("operand_0"), lanes),
    ),
    "a row of one less": (
        check_pixel_factors,
        elementwise,
        "each_channel",
        lambda right: lambda e, channels, lanes, write: right(e, channels - 1, 1, write),
    ),
}


@pytest.fixture(autouse=True)
def _code_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEPTHWISE_CACHE_DIR", "off")
    monkeypatch.setattr(jit, "_loaded", WeakValueDictionary())
    monkeypatch.setattr(jit, "_kept", deque(maxlen=8))


@pytest.mark.parametrize("check", [check_bilinear, check_group_norm, check_pixel_factors])
def test_without_a_mutant_the_checks_pass(check: Check) -> None:
    check(HERE[-1])


@pytest.mark.parametrize("name", MUTANTS)
def test_every_mutant_is_seen(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check, owner, function, mutant = MUTANTS[name]
    monkeypatch.setattr(owner, function, mutant(getattr(owner, function)))
    with pytest.raises(AssertionError):
        check(HERE[-1])
