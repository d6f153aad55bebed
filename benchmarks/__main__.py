"""`python -m benchmarks`."""

from .run import app

app(prog_name="python -m benchmarks")
