"""A result of the demo with numbers that are easy to follow."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from depthwise.demo.results import Accuracies, DemoResult, DenseResult, Epoch, LayerResult, SeparableResult, Timing
from depthwise.doctor import MachineReport
from depthwise.separate import Separation


def timing(milliseconds: float, spread: float = 0.1) -> Timing:
    return Timing(milliseconds, milliseconds - spread, milliseconds + spread, 50, "contiguous")


def made_up_result() -> DemoResult:
    """Eight times fewer multiplications; twice as slow at batch 1, four times as fast at batch 64."""
    smaller = SeparableResult(
        budget=0.1,
        report=Separation((), "sample", 0.1, None, None, 256),
        accuracies=Accuracies(svd=0.1, fitted=0.95, norms=0.96, distilled=0.97),
        parameters=1000,
        multiplications=1_000_000,
        layers=(LayerResult("conv 1: 1 → 32", 8_000_000, 200_000, 700_000, 100_000),),
        optimized={1: timing(2.0), 64: timing(0.5)},
        timings={1: timing(3.0), 64: timing(0.75)},
        eager={1: timing(4.0), 64: timing(1.0)},
        training=Epoch(2.0, 4.0),
        distilling=Epoch(3.0, 4.5),
    )
    larger = replace(
        smaller,
        budget=0.5,
        multiplications=4_000_000,
        layers=(LayerResult("conv 1: 1 → 32", 8_000_000, 0, 0, 4_000_000),),
    )
    return DemoResult(
        dense=DenseResult(
            *(0.98, 4000, 8_000_000, {1: timing(1.0), 64: timing(2.0)}, {1: timing(0.8), 64: timing(1.5)}),
            training=Epoch(5.0, 6.0),
        ),
        separable=(larger, smaller),
        machine=MachineReport("0.1.0", "2.13", "3.11", "Linux", "a <cpu>", 2, None, ()),
        ran_on=("PyTorch's own operators",),
        date="today",
        train_size=4000,
        calibration_size=256,
        test_size=1000,
        epochs=5,
        report_path=Path("report.html"),
    )
