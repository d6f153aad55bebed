"""What became of a model that was accelerated: which modules run on kernels of ours, and why the others do not."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from ..page.svg import words
from ..page.table import framed, html_table, text_table


@dataclass(frozen=True, slots=True)
class AcceleratedModule:
    """One module: its path, its class, and what it became; "" where it stays as it was, for `reason`."""

    name: str
    kind: str
    became: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True, repr=False)
class Acceleration:
    """What `accelerate_` did: `print` it for a table; a notebook shows one too.

    modules: the convolutions, and all others that run on kernels of ours, in the model's order
    advice:  sentences on how the model is called
    """

    columns: ClassVar[tuple[str, ...]] = ("module", "class", "became", "why not")

    modules: tuple[AcceleratedModule, ...]
    advice: tuple[str, ...] = ()

    @property
    def accelerated(self) -> tuple[AcceleratedModule, ...]:
        return tuple(module for module in self.modules if module.became)

    @property
    def left(self) -> tuple[AcceleratedModule, ...]:
        """Those that stay as they were."""
        return tuple(module for module in self.modules if not module.became)

    @property
    def gained(self) -> str:
        """How many became what."""
        kinds = Counter(module.became for module in self.accelerated)
        return ", ".join(f"{number} {kind}" for kind, number in kinds.items())

    @property
    def summary(self) -> str:
        return f"{self.gained}; {len(self.left)} left as they were" if self.gained else "nothing to accelerate"

    def notes(self) -> list[str]:
        """Sentences on the whole."""
        reasons = Counter(module.reason for module in self.left)
        return [self.summary, *(f"{number}: {reason}" for reason, number in reasons.most_common()), *self.advice]

    def rows(self) -> list[tuple[str, ...]]:
        return [(module.name or "(the model)", module.kind, module.became, module.reason) for module in self.modules]

    def to_dict(self) -> dict[str, Any]:
        """The same as nested dicts and lists of strings."""
        return json.loads(json.dumps(asdict(self)))  # type: ignore[no-any-return]

    def __repr__(self) -> str:
        return f"Acceleration({self.summary})"

    def __str__(self) -> str:
        return "\n".join([text_table(self.columns, self.rows(), left=4), *self.notes()])

    def _repr_html_(self) -> str:
        notes = "".join(words("li", note) for note in self.notes())
        return framed("depthwise-accelerate", f"<ul>{notes}</ul>{html_table(self.columns, self.rows())}")
