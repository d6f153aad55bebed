"""`python -m benchmarks.training`."""

from .run import app

app(prog_name="python -m benchmarks.training")
