"""The command `depthwise optimize`: from a model by name to a frozen network, what runs where, and what that saves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from .errors import DepthwiseError
from .files import check_writable, write_text
from .inputs import InputSize
from .measure.turns import Effort, take_turns
from .optimize.frozen import optimize
from .optimize.module import Optimized
from .optimize.page import document
from .optimize.profile import Profile
from .optimize.report import NetworkReport

EFFORT = Effort(rounds=15, sample_seconds=0.05, limit_seconds=20)


@dataclass(frozen=True, slots=True)
class Comparison:
    """The model as it is and optimized, the same inputs in turn.

    milliseconds: the median of a call, by network
    difference:   the largest of all outputs, and largest: the largest output there is
    """

    milliseconds: dict[str, float]
    difference: float
    largest: float
    threads: int

    def lines(self) -> list[str]:
        times = ", ".join(f"{name} {value:.2f} ms" for name, value in self.milliseconds.items())
        return [
            f"batch 1, {self.threads} threads: {times}",
            f"largest difference of the outputs {self.difference:.1e}, where the largest is {self.largest:.1e}",
        ]


@dataclass(frozen=True, slots=True)
class OptimizeResult:
    """What the command did."""

    report: NetworkReport
    comparison: Comparison | None
    profile: Profile | None
    files: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        compared = self.comparison
        return {
            "report": self.report.to_dict(),
            "comparison": None
            if compared is None
            else {
                "milliseconds": compared.milliseconds,
                "difference": compared.difference,
                "largest": compared.largest,
                "threads": compared.threads,
            },
            "profile": None if self.profile is None else self.profile.to_dict(),
            "files": list(self.files),
        }

    def lines(self) -> list[str]:
        return [] if self.comparison is None else self.comparison.lines()


def run(
    model: nn.Module,
    sizes: Sequence[tuple[int, ...]],
    *,
    compare: bool = False,
    save: Path | None = None,
    page: Path | None = None,
    effort: Effort = EFFORT,
) -> OptimizeResult:
    """Optimize, compare, profile and write, as asked.

    sizes: of the inputs, batch excluded
    """
    for path in (save, page):
        if path is not None:
            check_writable(path)
    inputs, model = _examples(tuple(sizes)), model.eval()
    found = optimize(model, inputs)
    comparison = compared(model, found, inputs, effort) if compare else None
    profile = found.profile(*inputs, seconds=min(1.0, effort.limit_seconds)) if page is not None else None
    if save is not None:
        found.save(save)
    if page is not None:
        lines = comparison.lines() if comparison is not None else []
        write_text(page, document(found.report, profile, lines))
    files = tuple(str(path) for path in (save, page) if path is not None)
    return OptimizeResult(found.report, comparison, profile, files)


def reach(model: nn.Module, input_size: InputSize) -> str:
    """How many of a model's convolutions run on generated kernels once it is optimized, in a sentence.

    input_size: sizes, batch excluded, or tensors whose numbers do not matter, by position or by keyword
    """
    try:
        report = optimize(model, _examples(input_size)).report
    except DepthwiseError as error:
        return f"depthwise.optimize does not take it: {error}"
    ours, total = report.convolutions
    if not total:
        return f"Through depthwise.optimize(model, example_inputs): {report.summary}."
    return f"Through depthwise.optimize(model, example_inputs), which merges what it can, {ours} of {total} do."


def _examples(input_size: Any) -> Any:
    """Tensors of these sizes, no two of them alike."""
    generator = torch.Generator().manual_seed(0)

    def example(size: Any) -> Any:
        if isinstance(size, Tensor):
            return torch.zeros(size.shape, dtype=size.dtype)
        if isinstance(size, Mapping):
            return {name: example(one) for name, one in size.items()}
        if all(isinstance(n, int) for n in size):
            return torch.randn((1, *size), generator=generator)
        return tuple(map(example, size))

    return example(input_size)


def compared(model: nn.Module, found: Optimized, inputs: tuple[Tensor, ...], effort: Effort) -> Comparison:
    """Outputs of both, then their times in turn."""
    with torch.no_grad():
        pairs = [*zip(_tensors(found(*inputs)), _tensors(model(*inputs)), strict=True)]
        difference = max(((a.double() - b.double()).abs().max().item() for a, b in pairs if a.numel()), default=0.0)
        largest = max((b.double().abs().max().item() for _, b in pairs if b.numel()), default=0.0)

        def call(network: nn.Module) -> Callable[[], Any]:
            return lambda: network(*inputs)

        calls = {("as it is", ""): call(model), ("optimized", ""): call(found)}
        samples = take_turns(calls, effort, lambda: None)
    milliseconds = {name: 1000 * median(taken) for (name, _), taken in samples.items()}
    return Comparison(milliseconds, difference, largest, torch.get_num_threads())


def _tensors(output: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor)]
