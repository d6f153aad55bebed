"""What became of a network: which of its operators run where, and why."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, astuple, dataclass
from typing import Any, ClassVar

from ..backends.series import Figures
from ..page.table import text_table
from .planning import Plan

CONVOLUTIONS = {"conv": 1, "gated": 1, "separable": 2}


@dataclass(frozen=True, slots=True)
class Layer:
    """One node; `source` is the path of the module it came from, `output` its shape, batch first.

    kernel: the name of the code that runs it; reason: why none of ours does
    """

    name: str
    source: str
    operator: str
    output: tuple[int, ...]
    engine: str
    kernel: str = ""
    reason: str = ""

    @property
    def convolutions(self) -> int:
        """How many convolutions it stands for."""
        return CONVOLUTIONS.get(self.operator, 0)


@dataclass(frozen=True, slots=True, repr=False)
class NetworkReport:
    """What runs where: `print` it for a table; a notebook shows one too.

    segments:     runs of nodes on one engine, in order: each is one call of it
    saved:        nodes that each pass made unnecessary, less those that it added
    batch:        the only one, or None for any; why_fixed: why
    least:        smaller batches run on the model as it is
    is_sized:     another height or width needs another capture
    weight_bytes: of all weights, tied ones once
    programs:     for each segment on our kernels, at the example's sizes and this many threads: the number of its
                  stages, of the waits of all threads for one another between them, and the bytes of its arena
    """

    columns: ClassVar[tuple[str, ...]] = ("layer", "operator", "output", "runs on", "kernel, or why not ours")

    layers: tuple[Layer, ...]
    segments: tuple[tuple[str, int], ...]
    saved: tuple[tuple[str, int], ...]
    batch: int | None
    why_fixed: str
    is_sized: bool
    weight_bytes: int
    programs: tuple[Figures, ...] = ()
    precision: str = "float32"
    least: int = 0

    @property
    def convolutions(self) -> tuple[int, int]:
        """How many convolutions run on our kernels, and how many there are."""
        ours = sum(layer.convolutions for layer in self.layers if layer.engine != "torch")
        return ours, sum(layer.convolutions for layer in self.layers)

    @property
    def summary(self) -> str:
        ours, total = self.convolutions
        mine = sum(layer.engine != "torch" for layer in self.layers)
        if not total:
            where = f"{mine} of {len(self.layers)} operators on our kernels"
            return f"no convolutions; {where if mine else f'all {len(self.layers)} operators run by torch'}"
        if not mine:
            return f"none of {total} convolutions on our kernels; all {len(self.layers)} operators run by torch"
        segments = "1 segment" if len(self.segments) == 1 else f"{len(self.segments)} segments"
        return f"{ours} of {total} convolutions on our kernels, {segments}"

    def notes(self) -> list[str]:
        """Sentences on the whole."""
        torchs = Counter(layer.operator for layer in self.layers if layer.engine == "torch")
        spent = ", ".join(f"{name} {count}" for name, count in self.saved if count > 0)
        added = ", ".join(f"{name} {-count}" for name, count in self.saved if count < 0)
        found = [
            self.summary,
            f"precision {self.precision}; weights {self.weight_bytes / 2**20:.1f} MiB",
            f"nodes saved by pass: {spent or 'none'}{f'; added: {added}' if added else ''}",
        ]
        if self.programs:
            stages, barriers, arena_bytes = (sum(numbers) for numbers in zip(*map(astuple, self.programs), strict=True))
            found.append(f"{stages} stages, {barriers} barriers; arenas {arena_bytes / 2**20:.2f} MiB")
        if torchs:
            found.append(f"by torch: {', '.join(f'{name} ({count})' for name, count in torchs.most_common())}")
        if self.batch is not None:
            found.append(f"the batch is fixed to {self.batch}: {self.why_fixed}")
        if self.least:
            found.append(f"batches below {self.least} run on the model as it is, which does something else for them")
        if self.is_sized:
            found.append("other sizes of the input are captured again, at their first call")
        return found

    def rows(self) -> list[tuple[str, ...]]:
        return [
            (
                layer.source or layer.name,
                layer.operator,
                "x".join(map(str, layer.output[1:])),
                layer.engine,
                layer.kernel or layer.reason,
            )
            for layer in self.layers
        ]

    def to_dict(self) -> dict[str, Any]:
        """The same as nested dicts and lists of strings and numbers."""
        ours, total = self.convolutions
        fields = asdict(self) | {"saved": dict(self.saved), "convolutions": {"ours": ours, "all": total}}
        return json.loads(json.dumps(fields))  # type: ignore[no-any-return]

    def __repr__(self) -> str:
        return f"NetworkReport({self.summary})"

    def __str__(self) -> str:
        return "\n".join([text_table(self.columns, self.rows(), left=5), *self.notes()])

    def _repr_html_(self) -> str:
        from .page import report_fragment

        return report_fragment(self)


def report(plan: Plan, saved: dict[str, int]) -> NetworkReport:
    network = plan.network
    engines = {node.name: segment.engine for segment in plan.segments for node in segment.nodes}
    return NetworkReport(
        tuple(
            Layer(
                node.name,
                node.source,
                node.operator,
                _one_shape(plan.shapes.get(node.name)),
                engines[node.name],
                plan.kernels.get(node.name) or "",
                plan.refusals[node.name] or "",
            )
            for node in network.graph.nodes
        ),
        tuple((segment.engine, len(segment.nodes)) for segment in plan.segments),
        tuple(saved.items()),
        network.batch,
        network.why_fixed,
        network.is_sized,
        network.bytes(),
        tuple(figures for program in plan.programs if (figures := program.figures()) is not None),
        least=network.least,
    )


def _one_shape(shape: Any) -> tuple[int, ...]:
    return shape if shape and all(isinstance(size, int) for size in shape) else ()
