"""`python -m benchmarks.whole`."""

from .run import app

app(prog_name="python -m benchmarks.whole")
