"""What one forward shows of a model's convolutions: calls, positions, and the batch norm that each feeds."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any
from weakref import ref

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.utils._python_dispatch import TorchDispatchMode

from .. import functional
from ..inputs import tensors
from .calibration import Batch
from .hooks import hooked, hooked_before


@dataclass(slots=True)
class Seen:
    """What one forward showed of one convolution: its calls, and the positions of them all."""

    calls: int = 0
    outputs: int = 0
    inputs: int = 0
    norms: list[str] = field(default_factory=list)


def watched(model: nn.Module, batch: Batch) -> dict[str, Seen]:
    """Every convolution that a forward calls, by name, in order."""
    seen: dict[str, Seen] = {}
    outputs = _Outputs()
    norm_calls: Counter[str] = Counter()
    fed: list[tuple[_Output, str]] = []

    def convolved(name: str, conv: Any, args: tuple[Any, ...], output: Tensor) -> None:
        one = seen.setdefault(name, Seen())
        one.calls += 1
        x, y = (functional.batched(tensor, len(conv.kernel_size))[0] for tensor in (args[0], output))
        one.inputs += x.numel() // x.shape[1]
        one.outputs += y.numel() // y.shape[1]
        outputs.watch(name, output)

    def normed(name: str, args: tuple[Any, ...]) -> None:
        norm_calls[name] += 1
        output = outputs.of(args[0])
        if output is not None:
            fed.append((output, name))

    with ExitStack() as stack:
        for name, module in model.named_modules():
            if isinstance(module, _ConvNd):
                stack.enter_context(hooked(module, lambda *call, name=name: convolved(name, *call)))
            elif isinstance(module, _BatchNorm) and module.running_mean is not None:
                stack.enter_context(hooked_before(module, lambda _, args, name=name: normed(name, args)))
        stack.enter_context(outputs)
        batch.run(model)
    for output, norm in fed:
        if norm_calls[norm] == 1 and output.readers == 1:
            seen[output.layer].norms.append(norm)
    return seen


@dataclass(slots=True)
class _Output:
    """What a layer gave, and how many operators have read it."""

    layer: str
    tensor: ref[Tensor]
    readers: int = 0


class _Outputs(TorchDispatchMode):
    """Counts the operators that read each watched tensor, those in place too."""

    def __init__(self) -> None:
        # torch leaves its annotations out.
        super().__init__()  # type: ignore[no-untyped-call]
        self.watched: dict[int, _Output] = {}

    def watch(self, layer: str, tensor: Tensor) -> None:
        self.watched[id(tensor)] = _Output(layer, ref(tensor))

    def of(self, x: Tensor) -> _Output | None:
        found = self.watched.get(id(x))
        return found if found is not None and found.tensor() is x else None

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for x in tensors([args, kwargs]):
            output = self.of(x)
            if output is not None:
                output.readers += 1
        return function(*args, **(kwargs or {}))
