"""What the short form finds."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..doctor import MachineReport
from .roofline import Peaks
from .rows import TORCH, Row, mean

LAYOUT = "channels_last"


@dataclass(frozen=True, slots=True)
class BenchResult:
    """MobileNetV1's nine distinct blocks at batch 1, channels last, on the threads that torch is set to.

    plot: where the picture went; None without one
    """

    rows: tuple[Row, ...]
    peaks: Peaks
    machine: MachineReport
    date: str
    plot: Path | None

    @property
    def peak_fraction(self) -> float | None:
        """Geometric mean of the blocks' shares of the FMA peak."""
        return mean(row.peak_fraction(LAYOUT) for row in self.rows)

    @property
    def promise_kept(self) -> float | None:
        return mean(row.promise_kept(LAYOUT) for row in self.rows)

    @property
    def speedup(self) -> float | None:
        """Over PyTorch's own separable blocks in their faster layout."""
        return mean(row.speedup(LAYOUT, TORCH) for row in self.rows)

    def to_dict(self) -> dict[str, Any]:
        """The same as plain numbers, strings, lists and dicts, ready for JSON."""
        return {
            "peak_fraction": self.peak_fraction,
            "promise_kept": self.promise_kept,
            "speedup": self.speedup,
            "layout": LAYOUT,
            "peaks": asdict(self.peaks),
            "rows": [row.to_dict() for row in self.rows],
            "machine": self.machine.to_dict(),
            "date": self.date,
            "plot": None if self.plot is None else str(self.plot),
        }
