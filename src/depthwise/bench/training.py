"""MobileNetV1's blocks in training, forward and backward, beside PyTorch's blocks and dense convolutions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch import Tensor, nn

from ..blocks import MobileNetV1Block
from ..doctor import MachineReport, machine_report
from ..errors import DepthwiseError
from ..measure.promise import promise_kept
from ..measure.turns import Effort, take_turns
from .cases import MOBILENET_V1, Case, laid_out
from .rows import DENSE, OURS, TORCH, mean
from .run import progress
from .table import ratio, threads_text

BATCH = 4
LAYOUTS = ("channels_last", "contiguous")
FULL = Effort(rounds=10, sample_seconds=0.02, limit_seconds=6)
QUICK = Effort(rounds=2, sample_seconds=0, limit_seconds=0)
# Of the largest gradient: sums of a hundred thousand float32 in another order.
TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True)
class TrainingRow:
    """A block's times in milliseconds, forward and backward, each way in its faster layout."""

    block: str
    ours: float
    torch: float
    dense: float
    multiplications: tuple[int, int]

    @property
    def promise_kept(self) -> float:
        return promise_kept(self.dense, self.ours, *self.multiplications)

    @property
    def promise_of_torch(self) -> float:
        return promise_kept(self.dense, self.torch, *self.multiplications)


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """MobileNetV1's nine distinct blocks, on the threads that torch is set to."""

    rows: tuple[TrainingRow, ...]
    machine: MachineReport
    date: str

    @property
    def promise_kept(self) -> float | None:
        return mean(row.promise_kept for row in self.rows)

    @property
    def promise_of_torch(self) -> float | None:
        return mean(row.promise_of_torch for row in self.rows)

    def to_dict(self) -> dict[str, Any]:
        """The same as plain numbers, strings, lists and dicts, ready for JSON."""
        return {
            "batch": BATCH,
            "promise_kept": self.promise_kept,
            "promise_of_torch": self.promise_of_torch,
            "rows": [asdict(row) | {"promise_kept": row.promise_kept} for row in self.rows],
            "machine": self.machine.to_dict(),
            "date": self.date,
        }


def run(console: Console, *, quick: bool = False) -> TrainingResult:
    """Measure and print a table; `quick` takes every step, with too few samples to mean much."""
    rows = []
    with progress(console) as shown:
        task = shown.add_task("blocks in training", total=len(MOBILENET_V1))
        for case in MOBILENET_V1:
            shown.update(task, description=case.name)
            rows.append(measured(case, QUICK if quick else FULL))
            shown.advance(task)
    date = datetime.now().astimezone().isoformat(sep=" ", timespec="minutes")
    result = TrainingResult(tuple(rows), machine_report(), date)
    console.print(console_table(result))
    return result


def measured(case: Case, effort: Effort) -> TrainingRow:
    """One block; raises where our gradients are not PyTorch's."""
    g = case.geometry
    torch.manual_seed(0)
    block = MobileNetV1Block(g.in_channels, g.output_size[0], g.stride[0]).train()
    ways = {OURS: block, TORCH: _by_torch(block), DENSE: _dense(case)}
    x, gradient = torch.randn(BATCH, *g.input_size), torch.randn(BATCH, *g.output_size)
    _check(case.name, ways[OURS], ways[TORCH], x, gradient)
    calls = {
        (name, layout): _step(module, laid_out(x, layout), laid_out(gradient, layout))
        for name, module in ways.items()
        for layout in LAYOUTS
    }
    samples = take_turns(calls, effort, lambda: None)
    best = {name: 1000 * min(median(samples[name, layout]) for layout in LAYOUTS) for name in ways}
    counted = case.cost.dense.multiplications, case.cost.separable.multiplications
    return TrainingRow(case.name, best[OURS], best[TORCH], best[DENSE], counted)


def console_table(result: TrainingResult) -> Table:
    machine = f"{result.machine.cpu}, {threads_text(result.machine.threads)}"
    title = f"MobileNetV1's blocks in training, batch {BATCH}, forward and backward, float32: {escape(machine)}"
    caption = "ms, each in its faster layout; the dense convolution and PyTorch's blocks have the same batch norms"
    table = Table(title=title, caption=caption, box=None, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("block", no_wrap=True)
    for heading in ("ms", "torch", "dense", "promise", "torch's"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in result.rows:
        times = (f"{value:.2f}" for value in (row.ours, row.torch, row.dense))
        table.add_row(row.block, *times, ratio(row.promise_kept), ratio(row.promise_of_torch))
    table.add_section()
    means = ("geometric mean", "", "", "", ratio(result.promise_kept), ratio(result.promise_of_torch))
    table.add_row(*means, style="bold")
    return table


def _by_torch(block: MobileNetV1Block) -> nn.Module:
    """The same block of PyTorch's modules, with the same weights."""
    own = block.separable
    c, g = own.depthwise, own.depthwise.groups
    first = nn.Conv2d(c.in_channels, c.out_channels, 3, c.stride[0], 1, groups=g, bias=False)
    last = nn.Conv2d(c.out_channels, own.pointwise.out_channels, 1, bias=False)
    first.load_state_dict(own.depthwise.state_dict())
    last.load_state_dict(own.pointwise.state_dict())
    norms = [nn.BatchNorm2d(conv.out_channels) for conv in (first, last)]
    return nn.Sequential(first, norms[0], nn.ReLU6(), last, norms[1], nn.ReLU6()).train()


def _dense(case: Case) -> nn.Module:
    g = case.geometry
    conv = nn.Conv2d(g.in_channels, g.output_size[0], 3, g.stride[0], 1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(g.output_size[0]), nn.ReLU6()).train()


def _step(module: nn.Module, x: Tensor, gradient: Tensor) -> Callable[[], None]:
    def step() -> None:
        for parameter in module.parameters():
            parameter.grad = None
        module(x.requires_grad_()).backward(gradient)
        x.grad = None

    return step


def _check(name: str, ours: nn.Module, theirs: nn.Module, x: Tensor, gradient: Tensor) -> None:
    found = [_gradients(module, x.clone().requires_grad_(), gradient) for module in (ours, theirs)]
    for own, other in zip(*found, strict=True):
        error = ((own - other).abs().max() / other.abs().max()).item()
        # So written, a NaN fails too.
        if not error <= TOLERANCE:
            raise DepthwiseError(f"{name}: a gradient is off by {error:.1e} of its largest value; it is not timed")


def _gradients(module: nn.Module, x: Tensor, gradient: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(module(x), [x, *module.parameters()], gradient))
