"""Yardsticks: times taken in turn, and the share of the promise that they keep."""
