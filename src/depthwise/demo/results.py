"""What the demo finds, and the arithmetic of the promise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ..doctor import MachineReport


def promise_kept(
    dense_time: float, separable_time: float, dense_multiplications: int, separable_multiplications: int
) -> float:
    """The measured speed-up over the promised one: 1 where 12 % of the multiplications takes 12 % of the time.

    >>> promise_kept(8.0, 4.0, 800, 100)
    0.25
    """
    return (dense_time / separable_time) / (dense_multiplications / separable_multiplications)


@dataclass(frozen=True, slots=True)
class Timing:
    """Milliseconds per image, the median and the quartiles of its samples, in the layout that was faster."""

    milliseconds: float
    lower: float
    upper: float
    samples: int
    layout: str


@dataclass(frozen=True, slots=True)
class NetworkResult:
    """One of the two networks; `timings` by batch size."""

    conv_class: str
    accuracy: float
    parameters: int
    multiplications: int
    timings: Mapping[int, Timing]


@dataclass(frozen=True, slots=True)
class LayerResult:
    """Where a layer's multiplications went: all of them in the dense network, step by step in the separable one."""

    label: str
    dense: int
    depthwise: int
    pointwise: int
    other: int

    @property
    def separable(self) -> int:
        return self.depthwise + self.pointwise + self.other


@dataclass(frozen=True)
class DemoResult:
    """Both networks, where and when; `ran_on` says what ran the separable layers.

    eager: timings of the separable network on PyTorch's own operators, by batch size
    """

    dense: NetworkResult
    separable: NetworkResult
    eager: Mapping[int, Timing]
    layers: tuple[LayerResult, ...]
    machine: MachineReport
    ran_on: tuple[str, ...]
    date: str
    train_size: int
    test_size: int
    epochs: int
    report_path: Path

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        return tuple(self.dense.timings)

    @cached_property
    def promised_speedup(self) -> float:
        """Multiplications of the dense network per multiplication of the separable one."""
        return self.dense.multiplications / self.separable.multiplications

    def measured_speedup(self, batch_size: int) -> float:
        return self.dense.timings[batch_size].milliseconds / self.separable.timings[batch_size].milliseconds

    def eager_speedup(self, batch_size: int) -> float:
        """What it is on PyTorch's own operators."""
        return self.dense.timings[batch_size].milliseconds / self.eager[batch_size].milliseconds

    def speedup_range(self, batch_size: int) -> tuple[float, float]:
        """The speed-up between the unfavourable and the favourable quartiles."""
        dense, separable = self.dense.timings[batch_size], self.separable.timings[batch_size]
        return dense.lower / separable.upper, dense.upper / separable.lower

    def promise_kept(self, batch_size: int) -> float:
        return self._kept(batch_size, self.separable.timings[batch_size])

    def eager_promise_kept(self, batch_size: int) -> float:
        """What is kept of it on PyTorch's own operators."""
        return self._kept(batch_size, self.eager[batch_size])

    def _kept(self, batch_size: int, separable: Timing) -> float:
        return promise_kept(
            self.dense.timings[batch_size].milliseconds,
            separable.milliseconds,
            self.dense.multiplications,
            self.separable.multiplications,
        )

    def to_dict(self) -> dict[str, Any]:
        """The same as plain numbers, strings, lists and dicts, ready for JSON."""
        by_batch = {
            str(size): {
                "measured_speedup": self.measured_speedup(size),
                "promise_kept": self.promise_kept(size),
                "eager_speedup": self.eager_speedup(size),
                "eager_promise_kept": self.eager_promise_kept(size),
            }
            for size in self.batch_sizes
        }
        return {
            "dense": _plain(self.dense),
            "separable": _plain(self.separable),
            "eager": {str(size): asdict(timing) for size, timing in self.eager.items()},
            "promised_speedup": self.promised_speedup,
            "batch_sizes": by_batch,
            "layers": [asdict(layer) for layer in self.layers],
            "machine": self.machine.to_dict(),
            "ran_on": list(self.ran_on),
            "date": self.date,
            "train_size": self.train_size,
            "test_size": self.test_size,
            "epochs": self.epochs,
            "report_path": str(self.report_path),
        }


def _plain(network: NetworkResult) -> dict[str, Any]:
    return asdict(network) | {"timings": {str(size): asdict(timing) for size, timing in network.timings.items()}}
