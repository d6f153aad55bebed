"""The promise on real digits: a trained dense network made separable, counted, timed and compared.

Its data and plots need the extra `depthwise[demo]`.
"""

from .results import DemoResult
from .run import run

__all__ = ["DemoResult", "run"]
