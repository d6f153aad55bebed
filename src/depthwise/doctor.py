"""What runs here, and why the rest does not: for this machine, and for every convolution of a model."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from .backends import BACKENDS, CPU, Choice, asked_backend
from .backends.problem import Problem
from .geometry import geometry
from .layers.separable import _SeparableConv
from .tracing import InputSize, Trace, trace

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
    """

    name: str
    kind: str
    backend: str
    reason: str
    kernel: str | None = None


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
        depthwise=version("depthwise"),
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
            rows.setdefault(path, [LayerReport(path, type(module).__name__, "torch", _foreign(module))])
        elif path in called:
            rows.setdefault(path, [LayerReport(path, type(module).__name__, "torch", "calls PyTorch's operator")])
    return tuple(row for group in rows.values() for row in group)


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
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _ours(path: str, module: nn.Module, choice: Choice) -> LayerReport:
    by_parts = module.parts_reason() if isinstance(module, _SeparableConv) else None
    reasons = [choice.reason] if by_parts is None else [choice.reason, f"part by part: {by_parts}"]
    if choice.backend is CPU and any(weight.is_inference() for weight in module.parameters()):
        reasons.append("compared with a copy at each call, as weights made in inference mode have no version")
    return LayerReport(path, type(module).__name__, choice.backend.name, "; ".join(reasons), choice.kernel)


def _foreign(conv: _ConvNd) -> str:
    if conv.transposed:
        return "transposed: PyTorch's operator"
    if conv.groups == conv.in_channels > 1:
        return f"depthwise, but PyTorch's operator; a DepthwiseConv{len(conv.kernel_size)}d goes through the backends"
    return "not depthwise: PyTorch's operator"
