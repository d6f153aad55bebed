"""What the demo finds, and the arithmetic of the promise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..doctor import MachineReport
from ..measure.promise import promise_kept
from ..separate import Separation

# What ran a network: `optimize`, our kernels layer by layer, PyTorch's own operators.
OPTIMIZED, OURS, EAGER = "optimized", "ours", "eager"


@dataclass(frozen=True, slots=True)
class Timing:
    """Milliseconds per image, the median and the quartiles of its samples, in the layout that was faster."""

    milliseconds: float
    lower: float
    upper: float
    samples: int
    layout: str


@dataclass(frozen=True, slots=True)
class Epoch:
    """Seconds of an epoch after `accelerate_`, and on PyTorch's operators, each in the layout that was faster."""

    accelerated: float
    torch: float


@dataclass(frozen=True, slots=True)
class LayerResult:
    """Where a layer's multiplications went: all of them in the dense network, step by step in the separable one.

    other: what is no separable step: a layer that stays, batch norms
    """

    label: str
    dense: int
    depthwise: int
    pointwise: int
    other: int

    @property
    def separable(self) -> int:
        return self.depthwise + self.pointwise + self.other


@dataclass(frozen=True, slots=True)
class DenseResult:
    """The network that was trained; `timings` by batch size on PyTorch's operators, and through `optimize`.

    training: of its training
    """

    accuracy: float
    parameters: int
    multiplications: int
    timings: Mapping[int, Timing]
    optimized: Mapping[int, Timing]
    training: Epoch


@dataclass(frozen=True, slots=True)
class Accuracies:
    """Test accuracies of a network on its way to be separable.

    svd:       plain SVD of the weights, within the same budget
    fitted:    fitted to the dense network's outputs; the batch norms' statistics still the dense network's
    norms:     those re-estimated too: what `separate_` gives
    distilled: after one epoch of `distill`
    """

    svd: float
    fitted: float
    norms: float
    distilled: float


@dataclass(frozen=True, slots=True)
class SeparableResult:
    """The network within one budget; its times by batch size through `optimize`, on the backends here layer by layer,
    and on PyTorch's operators.

    budget:     share of the dense multiplications, over the convolutions with a choice
    training:   of a training as the dense one's
    distilling: of `distill` from the dense network
    """

    budget: float
    report: Separation
    accuracies: Accuracies
    parameters: int
    multiplications: int
    layers: tuple[LayerResult, ...]
    optimized: Mapping[int, Timing]
    timings: Mapping[int, Timing]
    eager: Mapping[int, Timing]
    training: Epoch
    distilling: Epoch

    @property
    def name(self) -> str:
        return f"budget {self.budget:.0%}"

    def on(self, operators: str) -> Mapping[int, Timing]:
        """The timings through OPTIMIZED, or on OURS or EAGER operators."""
        return {OPTIMIZED: self.optimized, OURS: self.timings, EAGER: self.eager}[operators]


@dataclass(frozen=True, slots=True)
class DemoResult:
    """The dense network and its separable ones, where and when; `ran_on` says what ran the separable layers."""

    dense: DenseResult
    separable: tuple[SeparableResult, ...]
    machine: MachineReport
    ran_on: tuple[str, ...]
    date: str
    train_size: int
    calibration_size: int
    test_size: int
    epochs: int
    report_path: Path

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        return tuple(self.dense.timings)

    @property
    def smallest(self) -> SeparableResult:
        """The network within the smallest budget."""
        return min(self.separable, key=lambda each: each.multiplications)

    def share(self, separable: SeparableResult) -> float:
        """Multiplications of the separable network per multiplication of the dense one, all layers."""
        return separable.multiplications / self.dense.multiplications

    def promised_speedup(self, separable: SeparableResult) -> float:
        """Multiplications of the dense network per multiplication of the separable one."""
        return self.dense.multiplications / separable.multiplications

    def measured_speedup(self, separable: SeparableResult, batch_size: int, operators: str = OPTIMIZED) -> float:
        return self.dense.timings[batch_size].milliseconds / separable.on(operators)[batch_size].milliseconds

    def speedup_range(
        self, separable: SeparableResult, batch_size: int, operators: str = OPTIMIZED
    ) -> tuple[float, float]:
        """The speed-up between the unfavourable and the favourable quartiles."""
        dense, other = self.dense.timings[batch_size], separable.on(operators)[batch_size]
        return dense.lower / other.upper, dense.upper / other.lower

    def promise_kept(self, separable: SeparableResult, batch_size: int, operators: str = OPTIMIZED) -> float:
        return promise_kept(
            self.dense.timings[batch_size].milliseconds,
            separable.on(operators)[batch_size].milliseconds,
            self.dense.multiplications,
            separable.multiplications,
        )

    def to_dict(self) -> dict[str, Any]:
        """The same as plain numbers, strings, lists and dicts, ready for JSON."""
        return {
            "dense": {
                "accuracy": self.dense.accuracy,
                "parameters": self.dense.parameters,
                "multiplications": self.dense.multiplications,
                "timings": _by_batch(self.dense.timings),
                "optimized": _by_batch(self.dense.optimized),
                "training": asdict(self.dense.training),
            },
            "separable": [self._separable_dict(each) for each in self.separable],
            "machine": self.machine.to_dict(),
            "ran_on": list(self.ran_on),
            "date": self.date,
            "train_size": self.train_size,
            "calibration_size": self.calibration_size,
            "test_size": self.test_size,
            "epochs": self.epochs,
            "report_path": str(self.report_path),
        }

    def _separable_dict(self, each: SeparableResult) -> dict[str, Any]:
        promises = {
            operators: {
                str(size): {
                    "measured_speedup": self.measured_speedup(each, size, operators),
                    "promise_kept": self.promise_kept(each, size, operators),
                }
                for size in self.batch_sizes
            }
            for operators in (OPTIMIZED, OURS, EAGER)
        }
        return {
            "budget": each.budget,
            "report": each.report.to_dict(),
            "accuracies": asdict(each.accuracies),
            "parameters": each.parameters,
            "multiplications": each.multiplications,
            "layers": [asdict(layer) for layer in each.layers],
            "timings": {operators: _by_batch(each.on(operators)) for operators in (OPTIMIZED, OURS, EAGER)},
            "training": asdict(each.training),
            "distilling": asdict(each.distilling),
            "promised_speedup": self.promised_speedup(each),
            "promises": promises,
        }


def _by_batch(timings: Mapping[int, Timing]) -> dict[str, Any]:
    return {str(size): asdict(timing) for size, timing in timings.items()}
