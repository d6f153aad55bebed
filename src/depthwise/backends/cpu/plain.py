"""Convolutions that autograd does not record: by packs of weights, or packing these afresh where they changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from ..base import DepthwiseTensors, Weights
from ..calls import Prepared
from ..eager import convolved
from ..problem import Problem


def run_plain(
    x: Tensor, weights: Weights, problem: Problem, keep: Callable[[Prepared], object] = lambda _: None
) -> Tensor:
    """The convolution of tensors that are plain memory, recorded by no one.

    keep: is given what ran it
    """
    from .launch import prepared

    # Once more where the weights changed between the first look and the second.
    for keeps in (True, False):
        ready = prepared(weights, problem, keeps=keeps)
        out = None if ready is None else ready.run(x, weights.residual)
        if ready is None:
            break
        if out is not None:
            keep(ready)
            break
    return convolved(x, weights, problem.geometry) if out is None else out


def afresh(weights: DepthwiseTensors, problem: Problem) -> Prepared:
    """What runs such calls of a compiled program as have weights that change from one to the next, as in training."""
    return Prepared(_Afresh(weights, problem), weights.weights, recorded=True)


class _Afresh:
    """A bound call whose program packs the weights itself; such as did not change since the last are left to packs."""

    def __init__(self, weights: DepthwiseTensors, problem: Problem) -> None:
        from .launch import bound_afresh
        from .pack import Fresh

        self._problem, self._versions, self._bind, self._fresh = (
            problem,
            _versions(weights.weight, weights.bias),
            bound_afresh,
            Fresh,
        )
        # Compiled when weights have changed: at inference they do not.
        self._bound: Any = None

    def run(self, x: Tensor, residual: Tensor | None, pack: Any, prints: int) -> Tensor | None:
        weight, bias = pack
        versions = _versions(weight, bias)
        if versions == self._versions or not (weight.data_ptr() and (bias is None or bias.data_ptr())):
            return None
        self._versions = versions
        if self._bound is None:
            self._bound = self._bind(self._problem, turned=False, bias=bias is not None)
        out: Tensor | None = (
            None if self._bound is None else self._bound.run(x, residual, self._fresh(weight, bias), prints)
        )
        return out


def has_versions(weights: DepthwiseTensors) -> bool:
    return not any(tensor is not None and tensor.is_inference() for tensor in weights.weights)


def _versions(weight: Tensor, bias: Tensor | None) -> tuple[int, int | None]:
    return weight._version, None if bias is None else bias._version
