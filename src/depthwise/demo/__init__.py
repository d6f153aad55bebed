"""The promise on real digits: a dense network and a separable one, trained, counted, timed and compared.

Its data and plots need the extra `depthwise[demo]`.
"""

from .results import DemoResult
from .run import run

__all__ = ["DemoResult", "run"]
