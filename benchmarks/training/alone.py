"""The most memory that training steps take, each network and way in a process of its own.

python -m benchmarks.training.alone ours|torch LAYOUT NETWORK BATCH PIXELS THREADS      # writes the bytes
"""

from __future__ import annotations

import subprocess
import sys

import torch

from depthwise.bench.rows import OURS, TORCH
from depthwise.bench.training.networks import Step, training_step
from depthwise.bench.training.rows import LAYOUTS, MEMORY, TrainingRow

from ..memory import forget_the_peak, resident
from .models import build

STEPS = 3


def memory_row(step: Step, threads: int) -> TrainingRow | None:
    """Ours channels-last beside the thriftier of PyTorch's layouts; None where the system does not tell."""
    ours = in_a_process(OURS, LAYOUTS[0], step, threads)
    found = {layout: in_a_process(TORCH, layout, step, threads) for layout in LAYOUTS}
    theirs = {layout: each for layout, each in found.items() if each is not None}
    if ours is None or not theirs:
        return None
    way = min(theirs, key=lambda layout: theirs[layout])
    return TrainingRow(MEMORY.name, step.name, threads, ours / 2**20, theirs[way] / 2**20, way, MEMORY.least_each)


def in_a_process(who: str, layout: str, step: Step, threads: int) -> int | None:
    numbers = map(str, (step.batch, step.pixels, threads))
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.training.alone", who, layout, step.network, *numbers]
    ran = subprocess.run(command, check=True, capture_output=True, text=True)
    said = ran.stdout.splitlines()[-1]
    return None if said == "None" else int(said)


def peak_bytes(who: str, layout: str, step: Step, threads: int) -> int | None:
    """At most, while steps are taken, beyond what the process held with the model before the first."""
    torch.set_num_threads(threads)
    x = torch.randn(step.batch, 3, step.pixels, step.pixels)
    take = training_step(build(step.network), x, layout, accelerated=who == OURS)
    before = resident("VmRSS")
    # Gradients, momenta and code, which stay.
    take()
    forget_the_peak()
    for _ in range(STEPS):
        take()
    peak = resident("VmHWM")
    return None if before is None or peak is None else peak - before


if __name__ == "__main__":
    who, layout, network, *numbers = sys.argv[1:]
    batch, pixels, threads = map(int, numbers)
    sys.stdout.write(f"{peak_bytes(who, layout, Step(network, batch, pixels, 1.0), threads)}\n")
