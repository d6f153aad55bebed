"""The number this library lives by."""

from __future__ import annotations


def promise_kept(
    dense_time: float, separable_time: float, dense_multiplications: int, separable_multiplications: int
) -> float:
    """The measured speed-up over the promised one: 1 where 12 % of the multiplications takes 12 % of the time.

    >>> promise_kept(8.0, 4.0, 800, 100)
    0.25
    """
    return (dense_time / separable_time) / (dense_multiplications / separable_multiplications)
