"""What training is measured by: a row for each thing, ours beside PyTorch's fastest way, and what was asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from ...doctor import MachineReport
from ...measure.turns import Key
from ..rows import OURS, TORCH, mean

LAYOUTS = ("channels_last", "contiguous")


@dataclass(frozen=True, slots=True)
class Kind:
    """Rows that are held to the same.

    share:       what a row's shares are of, or ""
    least_mean:  asked of PyTorch's time over ours, in geometric mean
    least_each:  asked of each
    least_share: asked of our shares, in geometric mean
    """

    name: str
    unit: str = "ms"
    share: str = ""
    least_mean: float | None = None
    least_each: float | None = None
    least_share: float | None = None


CONVOLUTIONS = Kind("depthwise, forward and backward, batch 8", least_mean=3.0, least_each=1.0)
WEIGHTS = Kind("depthwise weight gradient alone, data in cache", share="of the FMA peak", least_share=0.4)
NORMS = Kind("batch norm and activation, batch 8", share="of memcpy", least_mean=2.0, least_share=0.7)
BLOCKS = Kind("MobileNetV1's blocks with batch norms, batch 4", share="promise kept", least_share=1.0)
STEPS = Kind("a training step")
MEMORY = Kind("peak memory of a training step", unit="MiB", least_each=1.0)
KINDS = (CONVOLUTIONS, WEIGHTS, NORMS, BLOCKS, STEPS, MEMORY)


@dataclass(frozen=True, slots=True)
class TrainingRow:
    """One thing on so many threads, in its kind's unit: ours in its faster layout, and PyTorch's fastest way.

    kind:               the name of one of KINDS
    way:                PyTorch's fastest: a layout, and "compiled" where torch.compile made it
    least:              what is asked of the ratio of this row, or None
    share, torch_share: ours, and PyTorch's, of what the kind says
    """

    kind: str
    name: str
    threads: int
    ours: float
    torch: float
    way: str
    least: float | None = None
    share: float | None = None
    torch_share: float | None = None

    @property
    def ratio(self) -> float:
        """PyTorch's over ours."""
        return self.torch / self.ours


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was asked of a kind, and what came, on so many threads."""

    kind: Kind
    threads: int
    ratio: float
    share: float | None
    missed: tuple[TrainingRow, ...]

    @property
    def reached(self) -> bool:
        means = (self.ratio, self.kind.least_mean), (self.share, self.kind.least_share)
        return not self.missed and all(asked is None or (found or 0.0) >= asked for found, asked in means)


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """What was measured; `absent`: a sentence for each kind that was not, with its reason."""

    rows: tuple[TrainingRow, ...]
    absent: tuple[str, ...]
    machine: MachineReport
    date: str

    @property
    def promise_kept(self) -> float | None:
        return mean(row.share for row in self.rows if row.kind == BLOCKS.name)

    def to_dict(self) -> dict[str, Any]:
        """The same as plain numbers, strings, lists and dicts, ready for JSON."""
        return {
            "training": [asdict(row) | {"ratio": row.ratio} for row in self.rows],
            "promise_kept": self.promise_kept,
            "absent": list(self.absent),
            "machine": self.machine.to_dict(),
            "date": self.date,
        }


def row_of(
    kind: Kind, name: str, threads: int, samples: Mapping[Key, Sequence[float]], least: float | None = None
) -> TrainingRow:
    """A row of samples in seconds, of OURS and TORCH each in several ways."""
    (_, ours), (way, theirs) = (fastest(samples, who) for who in (OURS, TORCH))
    return TrainingRow(kind.name, name, threads, ours, theirs, way, kind.least_each if least is None else least)


def fastest(samples: Mapping[Key, Sequence[float]], who: str) -> tuple[str, float]:
    """The way with the lowest median, and that in milliseconds."""
    found = {way: 1000 * median(taken) for (name, way), taken in samples.items() if name == who}
    way = min(found, key=lambda way: found[way])
    return way, found[way]


def verdicts(rows: Sequence[TrainingRow]) -> list[Verdict]:
    """Of every kind and number of threads that was measured."""
    found = []
    for kind in KINDS:
        for threads in sorted({row.threads for row in rows}):
            own = [row for row in rows if (row.kind, row.threads) == (kind.name, threads)]
            if own:
                missed = tuple(row for row in own if row.least is not None and row.ratio < row.least)
                shares = None if not kind.share else mean(row.share for row in own)
                found.append(Verdict(kind, threads, mean(row.ratio for row in own) or 0.0, shares, missed))
    return found
