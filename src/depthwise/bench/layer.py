"""One layer on this machine: the dense convolution, PyTorch's separable one and ours, for `explain` to show."""

from __future__ import annotations

from datetime import datetime

import torch

from ..doctor import machine_report
from ..errors import DepthwiseError
from ..explain.times import Measured, Times
from ..geometry import Geometry
from ..measure.turns import Effort
from .candidates import STANDARD, has_dense, measure, prepared
from .cases import Case
from .roofline import Peaks
from .rows import DENSE, OURS, TORCH, Row

FULL = Effort(rounds=30, sample_seconds=0.01, limit_seconds=5)

NAMES = {DENSE: "dense, PyTorch", TORCH: "separable, PyTorch", OURS: "separable, depthwise"}


def layer_times(g: Geometry) -> Times:
    """Time a separable layer's forward pass, batch 1, float32, each way in its faster layout; right outputs first."""
    case = Case("", g)
    if not has_dense(case):
        macs = f"{case.cost.dense.macs:,} multiply-adds"
        raise DepthwiseError(f"{NAMES[DENSE]}: not timed: its {macs} take too long; a smaller input shows the same")
    # Fractions of a peak are not asked for, so none is measured.
    peaks = Peaks(torch.get_num_threads(), None, None, None, 0.0, 1, "not measured")
    row = measure(prepared(case), STANDARD, peaks, FULL)
    dense, torchs, ours = (_measured(row, name) for name in (DENSE, TORCH, OURS))
    machine = machine_report()
    date = datetime.now().astimezone().isoformat(sep=" ", timespec="minutes")
    samples = row.timings[0].seconds.samples
    return Times(
        layer=case.name,
        how=f"Forward, batch 1, float32, {peaks.threads} threads; medians of {samples} samples taken in turn, "
        f"quartiles in parentheses; each way in its faster layout; ours ran on {row.ran_on}",
        machine=f"{machine.cpu}; torch {machine.torch}, depthwise {machine.depthwise}; {date}",
        multiplications=(case.cost.dense.multiplications, case.cost.separable.multiplications),
        dense=dense,
        separable=(torchs, ours),
    )


def _measured(row: Row, name: str) -> Measured:
    best = row.best(name)
    if best is None:
        reasons = "; ".join(failure.reason for failure in row.failures if failure.candidate == name)
        raise DepthwiseError(f"{NAMES[name]}: not timed: {reasons}")
    spread = best.seconds
    return Measured(NAMES[name], best.layout.replace("_", "-"), spread.median, spread.lower, spread.upper)
