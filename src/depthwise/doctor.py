"""What runs here, and why the rest does not: for this machine, and for every convolution of a model."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from textwrap import fill
from typing import Any

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from .accelerate import survey
from .backends import BACKENDS, CPU, Choice, asked_backend
from .backends.problem import Problem
from .geometry import geometry
from .inputs import InputSize
from .layers.conversion import CONVOLUTIONS
from .layers.depthwise import DEPTHWISE
from .layers.separable import _SeparableConv
from .modules import computes_as
from .tracing import Trace, check_model, trace
from .version import __version__

# The layer that stands for all where no model is given: 3x3, 32 to 64 channels, float32, on the CPU.
EXAMPLE = Problem("separable", geometry((32, 112, 112), 3, padding=1, out_channels=64), torch.float32, "cpu")


@dataclass(frozen=True, slots=True)
class BackendReport:
    """One backend: whether it runs the example layer, and why not where it does not."""

    name: str
    runs: bool
    reason: str
    details: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class MachineReport:
    """What this process runs on."""

    depthwise: str
    torch: str
    python: str
    platform: str
    cpu: str
    threads: int
    asked_backend: str | None
    backends: tuple[BackendReport, ...]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"backends": [asdict(row) | {"details": list(row.details)} for row in self.backends]}

    def __str__(self) -> str:
        asked = self.asked_backend or "the first below that does not refuse"
        facts = {
            "depthwise": self.depthwise,
            "torch": self.torch,
            "python": self.python,
            "platform": self.platform,
            "processor": f"{self.cpu}, {self.threads} threads",
            "backend": asked,
            "autocast": "and torch.func's transforms: PyTorch's operators run",
        }
        lines = [f"{name:<11}{value}" for name, value in facts.items()]
        for row in self.backends:
            lines.append(f"  {row.name:<9}{'runs' if row.runs else 'refuses'}: {row.reason}")
            lines += [f"  {'':<9}{detail}" for detail in row.details]
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class LayerReport:
    """One convolution of a model: which backend runs it, and why; `backend` is "torch" outside the registry.

    kernel: the name of the generated code that runs it, or None
    remedy: what would let generated code run it, "DepthwiseConv2d" or "separate_", or None
    """

    name: str
    kind: str
    backend: str
    reason: str
    kernel: str | None = None
    remedy: str | None = None


def machine_report() -> MachineReport:
    """What runs in this process.

    >>> [row.name for row in machine_report().backends]
    ['cpu', 'eager']
    """
    rows = []
    for backend in BACKENDS:
        why = backend.refusal(EXAMPLE)
        reason = backend.summary if why is None else why
        rows.append(BackendReport(backend.name, why is None, reason, backend.details()))
    return MachineReport(
        depthwise=__version__,
        torch=torch.__version__,
        python=platform.python_version(),
        platform=platform.platform(),
        cpu=cpu_name(),
        threads=torch.get_num_threads(),
        asked_backend=asked_backend(),
        backends=tuple(rows),
    )


def model_report(model: nn.Module, input_size: InputSize) -> tuple[LayerReport, ...]:
    """Which backend runs each convolution of `model` in evaluation mode, in the order they run; nothing is computed.

    input_size: as `count` takes it

    >>> from depthwise import SeparableConv2d
    >>> [(row.name, row.kind, row.backend) for row in model_report(SeparableConv2d(3, 8, 3), (3, 9, 9))]
    [('', 'SeparableConv2d', 'cpu')]
    """
    check_model(model)
    with _evaluating(model):
        return _rows(trace(model, input_size, closed=(_SeparableConv,)))


def _rows(seen: Trace) -> tuple[LayerReport, ...]:
    chosen: dict[str, list[Choice]] = {}
    for path, choice in seen.choices:
        chosen.setdefault(path, []).append(choice)
    called = {call.path for call in seen.operators if call.base_name == "convolution"}
    rows: dict[str, list[LayerReport]] = {}
    for path, module in ((call.path, call.module) for call in seen.modules):
        if path in chosen:
            rows.setdefault(path, [_ours(path, module, choice) for choice in chosen[path]])
        elif isinstance(module, _ConvNd):
            reason, remedy = _foreign(module)
            rows.setdefault(path, [LayerReport(path, type(module).__name__, "torch", reason, remedy=remedy)])
        elif path in called:
            rows.setdefault(path, [LayerReport(path, type(module).__name__, "torch", "calls PyTorch's operator")])
    return tuple(row for group in rows.values() for row in group)


def accelerated_line(model: nn.Module) -> str:
    """What `accelerate_` would gain, in a sentence; "" where nothing."""
    gained = survey(model).gained
    if not gained:
        return ""
    return (
        "After depthwise.accelerate_(model), which changes no number but by rounding, these would run on kernels of "
        f"ours, in training too: {gained}."
    )


def model_table(rows: Sequence[LayerReport], gain: str = "") -> str:
    """A line for each convolution, what is said of several once below, and at the end what to do, `gain` last.

    >>> print(model_table(model_report(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, groups=8)), (3, 9, 9))))
    layer  kind    backend  why  kernel
    0      Conv2d  torch    [1]
    1      Conv2d  torch    [2]
    <BLANKLINE>
    [1] dense: PyTorch's operator
    [2] depthwise, but PyTorch's operator; a DepthwiseConv2d goes through the backends
    <BLANKLINE>
    0 of 2 convolutions run on generated kernels as the model is. 1 would as DepthwiseConv2d, which has nn.Conv2d's
    weights. 1 would after depthwise.separate_(model, samples), which changes what the network gives.
    """
    reasons = list(dict.fromkeys(row.reason for row in rows))
    lines = [("layer", "kind", "backend", "why", "kernel")]
    for row in rows:
        note = f"[{reasons.index(row.reason) + 1}]"
        lines.append((row.name or "(the model)", row.kind, row.backend, note, row.kernel or ""))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    table = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in lines]
    notes = [f"[{number}] {reason}" for number, reason in enumerate(reasons, start=1)]
    return "\n".join([*table, "", *notes, "", fill(" ".join([*_advice(rows), *([gain] if gain else [])]), 115)])


def _advice(rows: Sequence[LayerReport]) -> Iterator[str]:
    """What runs on generated kernels, and what would after what."""
    generated = sum(row.kernel is not None for row in rows)
    yield f"{generated} of {len(rows)} convolutions run on generated kernels as the model is."
    for remedy, number in sorted(Counter(row.remedy for row in rows if row.remedy is not None).items()):
        if remedy == "separate_":
            yield f"{number} would after depthwise.separate_(model, samples), which changes what the network gives."
        else:
            yield f"{number} would as {remedy}, which has nn.Conv{remedy[-2:]}'s weights."
    refused = sum(row.kernel is None and row.backend != "torch" for row in rows)
    if refused:
        yield f"{refused} could, but for the reason above."


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Every module in evaluation mode, its own hooks and `train` untouched."""
    modes = {module: module.training for module in model.modules()}
    try:
        for module in modes:
            module.training = False
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def cpu_name(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's name as Linux tells it, or what Python knows elsewhere."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _ours(path: str, module: nn.Module, choice: Choice) -> LayerReport:
    by_parts = module.parts_reason() if isinstance(module, _SeparableConv) else None
    reasons = [choice.reason] if by_parts is None else [choice.reason, f"part by part: {by_parts}"]
    if choice.backend is CPU and any(weight.is_inference() for weight in module.parameters()):
        reasons.append("compared with a copy at each call, as weights made in inference mode have no version")
    return LayerReport(path, type(module).__name__, choice.backend.name, "; ".join(reasons), choice.kernel)


def _foreign(conv: _ConvNd) -> tuple[str, str | None]:
    """Why PyTorch's operator runs a layer of PyTorch's, and what would change that."""
    rank = len(conv.kernel_size)
    plain = computes_as(type(conv), *CONVOLUTIONS.values()) is not None
    if conv.transposed:
        return "transposed: PyTorch's operator", None
    if conv.groups == conv.in_channels > 1:
        ours = DEPTHWISE[rank].__name__
        reason = f"depthwise, but PyTorch's operator; a {ours} goes through the backends"
        return reason, ours if plain else None
    if prod(conv.kernel_size) == 1:
        return "pointwise: PyTorch's operator", None
    if conv.groups > 1:
        return "in groups: PyTorch's operator", None
    return "dense: PyTorch's operator", "separate_" if plain else None
