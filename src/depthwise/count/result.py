"""The result of a count: rows, totals, and how to print them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from ..cost import Cost
from .table import html_table, text_table


@dataclass(frozen=True, slots=True)
class Row:
    """One call of one operator.

    name:        path of the module that called it, "" for the model itself
    kind:        "depthwise convolution", "linear", "relu", ...; an unknown operator's own name
    cost:        its parameters are those that it reads
    dense:       what the dense convolution would cost; Cost() where the pointwise row of the pair has it; None for
                 anything else
    output_size: (channels, *spatial): without the batch, where the first dimension is the batch
    backward:    what its gradients cost in a training step, where that was asked for
    """

    name: str
    kind: str
    cost: Cost
    dense: Cost | None
    output_size: tuple[int, ...]
    backward: Cost | None = None

    @property
    def arithmetic_intensity(self) -> float:
        """FLOPs (2 x macs) per byte moved."""
        return self.cost.arithmetic_intensity

    def to_dict(self) -> dict[str, Any]:
        return {
            **asdict(self),
            "output_size": list(self.output_size),
            "arithmetic_intensity": self.arithmetic_intensity,
        }


@dataclass(frozen=True, slots=True, repr=False)
class Count:
    """What a network costs: `print` it for a table.

    rows:    one per operator call, in order; views are free and have none
    total:   sum of the rows; its parameters are the model's, each once
    dense:   the same, had every grouped convolution and every depthwise-pointwise pair been dense
    unknown: operators whose arithmetic is not known and counted as 0 (their bytes are counted), with how often
    backward: what the gradients of a training step cost, where that was asked for
    """

    rows: tuple[Row, ...]
    total: Cost
    dense: Cost
    unknown: tuple[tuple[str, int], ...]
    backward: Cost | None = None

    def __repr__(self) -> str:
        return f"Count({len(self.rows)} rows, {self.total})"

    def __str__(self) -> str:
        return text_table(self)

    def _repr_html_(self) -> str:
        return html_table(self)

    def to_dict(self) -> dict[str, Any]:
        """The same as nested dicts and lists of strings and numbers."""
        return {
            "rows": [row.to_dict() for row in self.rows],
            "total": asdict(self.total),
            "dense": asdict(self.dense),
            "unknown": dict(self.unknown),
            "backward": None if self.backward is None else asdict(self.backward),
        }
