"""What a network costs in a process of its own: the way to the first result, and memory while it runs.

python -m benchmarks.whole.alone ENGINE NETWORK BATCH SIZE THREADS      # writes its figures as JSON
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from tempfile import TemporaryDirectory
from time import perf_counter

import torch

from tests.support.whole import real_model

from ..memory import forget_the_peak, resident
from .engines import ENGINES, OURS

EAGER = "eager, channels-last"
# Of mobilenetv2_100 on two cores: from the model to its first result, kernels generated, and kernels found on disk.
MOST_COLD_SECONDS, MOST_WARM_SECONDS = 6.0, 1.0
CALLS = 3


@dataclass(frozen=True, slots=True)
class Alone:
    """One engine on one network.

    seconds:    from the model to the first result
    peak_bytes: at most, while it is called again, beyond what the process held with the model before that; None where
                the system does not tell
    """

    seconds: float
    peak_bytes: int | None


@dataclass(frozen=True, slots=True)
class Cost:
    """What `optimize` costs with no kernel on disk and with all of them, and PyTorch's memory beside ours."""

    cold: Alone
    warm: Alone
    eager: Alone


def cost(network: str, batch: int, size: int, threads: int) -> Cost:
    """Three processes, one after the other; the first two share a cache that is empty before."""
    with TemporaryDirectory() as folder:
        cold, warm, eager = (
            _in_a_process([engine, network, str(batch), str(size), str(threads)], folder)
            for engine in (OURS, OURS, EAGER)
        )
    return Cost(cold, warm, eager)


def _in_a_process(arguments: list[str], cache: str) -> Alone:
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.whole.alone", *arguments]
    # Modules are compiled once, as where they were installed.
    environment = {**os.environ, "DEPTHWISE_CACHE_DIR": cache, "PYTHONDONTWRITEBYTECODE": ""}
    ran = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return Alone(**json.loads(ran.stdout.splitlines()[-1]))


def alone(engine: str, network: str, batch: int, size: int, threads: int) -> Alone:
    """The figures of this process, which should have done nothing else."""
    torch.set_num_threads(threads)
    build = next(one.build for one in ENGINES if one.name == engine)
    x = torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(0))
    model = real_model(network)
    with torch.no_grad():
        before = resident("VmRSS")
        start = perf_counter()
        call = build(model, x, threads)
        call()
        seconds = perf_counter() - start
        forget_the_peak()
        for _ in range(CALLS):
            call()
        peak = resident("VmHWM")
    return Alone(seconds, None if before is None or peak is None else peak - before)


if __name__ == "__main__":
    name, network, *numbers = sys.argv[1:]
    sys.stdout.write(f"{json.dumps(asdict(alone(name, network, *map(int, numbers))))}\n")
