"""The example that the whole project starts from: a 3x3 convolution from 3 to 128 channels over a 5x5 output."""

from __future__ import annotations

from ..explain import Explanation, explain
from ..explain.arithmetic import headline, steps


def example() -> Explanation:
    return explain((3, 7, 7), 128, 3)


def arithmetic(explanation: Explanation) -> list[str]:
    r"""Its multiplications in four lines.

    >>> print(*arithmetic(example()), sep="\n")
    A 3×3 convolution from 3 to 128 channels
      dense      128·(3·3·3)·(5·5) = 86,400 multiplications
      separable  3·(3·3)·(5·5) + 128·3·(5·5) = 675 + 9,600 = 10,275 multiplications
                 10,275 / 86,400 = 11.9 %
    """
    dense, depthwise, pointwise = steps(explanation.geometry)
    whole, one, two = (step.cost.multiplications for step in (dense, depthwise, pointwise))
    total = f"{one + two:,}"
    return [
        headline(explanation.geometry),
        f"  dense      {dense.formula} = {whole:,} multiplications",
        f"  separable  {depthwise.formula} + {pointwise.formula} = {one:,} + {two:,} = {total} multiplications",
        f"             {total} / {whole:,} = {100 * (one + two) / whole:.1f} %",
    ]
