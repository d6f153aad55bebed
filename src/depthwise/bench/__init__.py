"""How fast this machine runs the layers: against its own peak, and against the promise of their arithmetic.

`run` is the short form behind `depthwise bench`; the folder benchmarks/ of the repository measures whole networks and
other libraries with the same parts.
"""

from .results import BenchResult
from .run import run

__all__ = ["BenchResult", "run"]
