"""What each node of a network takes, run alone, against what the machine could do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import prod
from statistics import median
from time import perf_counter
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..page.table import text_table
from .engines import NO_WORK
from .graph import Node
from .planning import Plan
from .rules import Shapes
from .segments import Segment


@dataclass(frozen=True, slots=True)
class Timing:
    """One node: the median of its runs.

    macs:         multiply-adds of its convolutions and linear layers; bytes_moved: what it reads and writes, each once
    peak_share:   of the machine's multiply-adds, measured; None where no kernel measures them
    least_share:  the least time that arithmetic and memory allow, of the time taken; None likewise
    limit:        "arithmetic", "memory" or "", which of the two that is
    """

    name: str
    source: str
    operator: str
    engine: str
    seconds: float
    macs: int
    bytes_moved: int
    peak_share: float | None = None
    least_share: float | None = None
    limit: str = ""


@dataclass(frozen=True, slots=True, repr=False)
class Profile:
    """Where the time goes: `print` it for a table. Nodes are timed alone, so their sum is not the network's time."""

    columns: ClassVar[tuple[str, ...]] = (
        *("layer", "operator", "runs on", "ms", "share", "GFLOP/s", "of peak", "MB", "GB/s", "limit"),
    )

    timings: tuple[Timing, ...]
    threads: int
    batch: int
    peak_gflops: float | None
    memory_gbytes: float | None

    @property
    def seconds(self) -> float:
        return sum(timing.seconds for timing in self.timings)

    def rows(self) -> list[tuple[str, ...]]:
        """The cells of every node, the slowest first."""
        return [self._row(timing) for timing in sorted(self.timings, key=lambda timing: -timing.seconds)]

    def _row(self, timing: Timing) -> tuple[str, ...]:
        speed = 2e-9 * timing.macs / timing.seconds if timing.seconds else 0.0
        return (
            timing.source or timing.name,
            timing.operator,
            timing.engine,
            f"{1000 * timing.seconds:.3f}",
            f"{timing.seconds / self.seconds:.1%}" if self.seconds else "",
            f"{speed:.1f}" if timing.macs else "",
            "" if timing.peak_share is None or not timing.macs else f"{timing.peak_share:.0%}",
            f"{timing.bytes_moved / 1e6:.2f}",
            f"{timing.bytes_moved / timing.seconds / 1e9:.1f}" if timing.seconds else "",
            timing.limit,
        )

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"timings": [asdict(timing) for timing in self.timings], "seconds": self.seconds}

    def __repr__(self) -> str:
        return f"Profile({len(self.timings)} nodes, {1000 * self.seconds:.2f} ms, {self.threads} threads)"

    def __str__(self) -> str:
        total = (
            f"{1000 * self.seconds:.2f} ms for a batch of {self.batch} on {self.threads} threads, each node run alone"
        )
        return "\n".join([text_table(self.columns, self.rows(), left=3), total])

    def _repr_html_(self) -> str:
        from .page import profile_fragment

        return profile_fragment(self)


def profile(plan: Plan, inputs: tuple[Tensor, ...], batch: int, seconds: float) -> Profile:
    """Run a plan of one node a segment again and again for about so long."""
    samples: dict[str, list[float]] = {segment.nodes[0].name: [] for segment in plan.segments}
    _run(plan, inputs, batch, {})
    end = perf_counter() + seconds
    while True:
        _run(plan, inputs, batch, samples)
        if perf_counter() > end:
            break
    peak, memory = _peaks()
    taken = {segment.nodes[0].name: median(samples[segment.nodes[0].name]) for segment in plan.segments}
    if peak is not None:
        # Whatever else the machine does can only lower it.
        nodes = (segment.nodes[0] for segment in plan.segments)
        peak = max([peak, *(2e-9 * macs_of(node, plan.shapes) / taken[node.name] for node in nodes)])
    timings = tuple(_timing(plan, segment, taken[segment.nodes[0].name], peak, memory) for segment in plan.segments)
    return Profile(timings, torch.get_num_threads(), batch, peak, memory)


def _run(plan: Plan, inputs: tuple[Tensor, ...], batch: int, samples: Mapping[str, list[float]]) -> None:
    values: dict[str, Any] = dict(zip((spec.name for spec in plan.network.graph.inputs), inputs, strict=True))
    for segment, program, last in zip(plan.segments, plan.programs, plan.last, strict=True):
        given = [values[name] for name in segment.reads]
        start = perf_counter()
        made = program.run(given, batch)
        taken = perf_counter() - start
        values.update(zip(segment.gives, made, strict=True))
        if samples:
            samples[segment.nodes[0].name].append(taken)
        for name in last:
            values.pop(name, None)


def _timing(plan: Plan, segment: Segment, seconds: float, peak: float | None, memory: float | None) -> Timing:
    node, engine = segment.nodes[0], segment.engine
    macs, moved = macs_of(node, plan.shapes), _bytes_moved(node, plan)
    if peak is None or memory is None or not seconds:
        return Timing(node.name, node.source, node.operator, engine, seconds, macs, moved)
    arithmetic, traffic = 2e-9 * macs / peak, 1e-9 * moved / memory
    limit = "arithmetic" if arithmetic > traffic else "memory"
    shares = 2e-9 * macs / seconds / peak, max(arithmetic, traffic) / seconds
    return Timing(node.name, node.source, node.operator, engine, seconds, macs, moved, *shares, limit)


def _bytes_moved(node: Node, plan: Plan) -> int:
    """What it reads and writes, each once; none where its value is another name for what it reads."""
    if plan.kernels.get(node.name) == NO_WORK:
        return 0
    return 4 * sum(_numbers(plan.shapes.get(name)) for name in (*set(node.operands()), node.name))


def macs_of(node: Node, shapes: Mapping[str, Shapes]) -> int:
    """Multiply-adds of a convolution or a linear layer, each tap of each output one; 0 for other nodes."""
    one = dict.fromkeys(("conv", "gated", "linear"), ("weight",))
    keys = {**one, "separable": ("depthwise_weight", "pointwise_weight")}
    out = shapes.get(node.name)
    weights = [shapes.get(node[key].name) for key in keys.get(node.operator, ())]
    if not weights or not out or None in weights:
        return 0
    # A convolution has as many outputs for each weight as positions, a linear layer as many as rows.
    filters = _numbers(weights[-1][:1])  # type: ignore[index]
    return _numbers(out) // filters * sum(map(_numbers, weights)) if filters else 0


def _numbers(shape: Any) -> int:
    """How many numbers a value holds: one tensor or several."""
    if shape is None:
        return 0
    return sum(map(_numbers, shape)) if any(isinstance(size, tuple) for size in shape) else prod(shape)


def _peaks() -> tuple[float | None, float | None]:
    from ..bench.peaks import measured_peaks

    peaks = measured_peaks(torch.get_num_threads(), seconds=0.05)
    return peaks.fma_gflops, peaks.memory_gbytes
