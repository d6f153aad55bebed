"""What a network costs in a process of its own: the way to the first result, and memory while it runs.

python -m benchmarks.whole.alone ENGINE NETWORK BATCH SIZE THREADS      # writes its figures as JSON
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

import torch

from tests.support.whole import real_model

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
    environment = {**os.environ, "DEPTHWISE_CACHE_DIR": cache}
    ran = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return Alone(**json.loads(ran.stdout.splitlines()[-1]))


def alone(engine: str, network: str, batch: int, size: int, threads: int) -> Alone:
    """The figures of this process, which should have done nothing else."""
    torch.set_num_threads(threads)
    build = next(one.build for one in ENGINES if one.name == engine)
    x = torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(0))
    model = real_model(network)
    with torch.no_grad():
        before = _resident("VmRSS")
        start = perf_counter()
        call = build(model, x, threads)
        call()
        seconds = perf_counter() - start
        _forget_the_peak()
        for _ in range(CALLS):
            call()
        peak = _resident("VmHWM")
    return Alone(seconds, None if before is None or peak is None else peak - before)


def _resident(name: str) -> int | None:
    """Bytes of this process in memory now, VmRSS, or at most, VmHWM; None where Linux does not tell."""
    _give_back()
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:")), None)


def _forget_the_peak() -> None:
    """Let VmHWM begin anew, at what there is."""
    _give_back()
    # proc(5): 5 resets the peak.
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _give_back() -> None:
    """Let nothing count that is free."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)


if __name__ == "__main__":
    name, network, *numbers = sys.argv[1:]
    sys.stdout.write(f"{json.dumps(asdict(alone(name, network, *map(int, numbers))))}\n")
