"""What a network costs: multiplications and additions apart, multiply-adds (MACs), parameters, bytes moved.

`operators` states the conventions, `dense` what a separable or grouped convolution would have cost as a dense one.
"""

from .counting import count
from .result import Count, Row

__all__ = ["Count", "Row", "count"]
