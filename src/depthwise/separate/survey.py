"""Which convolutions of a model can be separated, in the order they run, and why the others stay."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from math import prod
from typing import Any
from weakref import ref

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.utils._python_dispatch import TorchDispatchMode

from .. import functional
from ..layers.conversion import CONVOLUTIONS
from ..tracing import tensors
from .calibration import Batch
from .moments import LIMIT_BYTES, moments_bytes
from .options import Form, Positions, cheaper_forms, dense_form
from .processes import from_first, together

Where = Callable[[str, nn.Module], bool]


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """A convolution with separable forms that are cheaper.

    norm: name of the batch norm that alone takes its output, and nothing else's; None where there is none
    """

    name: str
    conv: _ConvNd
    dense: Form
    forms: tuple[Form, ...]
    calls: int
    norm: str | None

    @property
    def free_mean(self) -> bool:
        """Whether the mean of its outputs is taken care of: by its bias, or by the norm."""
        return self.conv.bias is not None or self.norm is not None


@dataclass(frozen=True, slots=True)
class Left:
    """A convolution that stays as it is, and why."""

    name: str
    dense: Form
    reason: str


@dataclass(slots=True)
class Seen:
    """What one forward showed of one convolution: its calls, and the positions of them all."""

    calls: int = 0
    outputs: int = 0
    inputs: int = 0
    norms: list[str] = field(default_factory=list)


def survey(model: nn.Module, batch: Batch | None, where: Where | None) -> tuple[list[Candidate], list[Left]]:
    """Candidates in the order they run, and the convolutions that stay; without a batch, one output position each.

    What the first process's batch shows counts for all processes: their sizes may differ.
    """
    with together():
        shown = None if batch is None else (_watched(model, batch), batch.samples)
    seen, samples = from_first(shown) or (None, 1)
    names = {name: module for name, module in model.named_modules() if isinstance(module, _ConvNd)}
    order = {name: place for place, name in enumerate(seen or names)}
    used = Counter(id(parameter) for module in model.modules() for parameter in module._parameters.values())
    candidates, left = [], []
    for name, conv in sorted(names.items(), key=lambda item: order.get(item[0], len(order))):
        found = _assumed(conv) if seen is None else seen.get(name, Seen())
        positions = Positions(outputs=-(-found.outputs // samples), inputs=-(-found.inputs // samples))
        dense, forms = dense_form(conv, positions), tuple(cheaper_forms(conv, positions))
        useful = forms
        if batch is not None and moments_bytes(conv) > LIMIT_BYTES:
            # The mirror is fitted to moments only, and a sample of patches stands in for them.
            useful = tuple(form for form in forms if form.order != "pointwise first")
        reason = _reason(name, conv, where, used) or _no_use(found, forms, useful)
        if reason is not None:
            left.append(Left(name, dense, reason))
        else:
            norm = found.norms[0] if found.norms and found.calls == 1 else None
            candidates.append(Candidate(name, conv, dense, useful, found.calls, norm))
    return candidates, left


def _reason(name: str, conv: _ConvNd, where: Where | None, used: Counter[int]) -> str | None:
    """Why a convolution stays whatever it costs."""
    if where is not None and not where(name, conv):
        return "excluded by where="
    if 1 < conv.in_channels == conv.groups and not conv.transposed:
        return "already depthwise"
    if type(conv) is not CONVOLUTIONS.get(len(conv.kernel_size)):
        return f"is a {type(conv).__name__}, not torch's own convolution"
    if prod(conv.kernel_size) == 1:
        return "its kernel is a single pixel"
    if not conv.weight.is_floating_point():
        return f"its weights are {conv.weight.dtype}"
    if _hooked(conv):
        return "it has hooks, or a forward of its own, which separable parts would not run"
    for name, parameter in conv.named_parameters():
        if used[id(parameter)] > 1:
            return f"it shares its {name} with another module"
    return None


def _no_use(found: Seen, forms: tuple[Form, ...], useful: tuple[Form, ...]) -> str | None:
    if found.calls == 0:
        return "the calibration data never reach it"
    if not forms:
        return "no separable form is cheaper"
    return None if useful else "no separable form is cheaper that a sample of its patches can be fitted to"


def _hooked(module: nn.Module) -> bool:
    hooks = (
        module._forward_hooks,
        module._forward_pre_hooks,
        module._backward_hooks,
        module._backward_pre_hooks,
        module._state_dict_hooks,
        module._state_dict_pre_hooks,
        module._load_state_dict_pre_hooks,
    )
    return any(hooks) or "forward" in module.__dict__


def _assumed(conv: _ConvNd) -> Seen:
    return Seen(calls=1, outputs=1, inputs=prod(conv.stride))


def _watched(model: nn.Module, batch: Batch) -> dict[str, Seen]:
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


@contextmanager
def hooked(module: nn.Module, hook: Callable[..., Any]) -> Iterator[None]:
    """`hook` called after each forward of `module`: with the module, its arguments and its output."""

    def positional(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        return hook(module, (*args, *kwargs.values()), output)

    handle = module.register_forward_hook(positional, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def hooked_before(module: nn.Module, hook: Callable[..., None]) -> Iterator[None]:
    """`hook` called before each forward of `module`: with the module and its arguments."""

    def positional(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        hook(module, (*args, *kwargs.values()))

    handle = module.register_forward_pre_hook(positional, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def norm_of(model: nn.Module, candidate: Candidate) -> _BatchNorm | None:
    """The batch norm that takes a candidate's output, in `model` or in a copy of it."""
    if candidate.norm is None:
        return None
    norm = model.get_submodule(candidate.norm)
    assert isinstance(norm, _BatchNorm)  # noqa: S101
    return norm


def device_of(model: nn.Module) -> torch.device | None:
    return next((parameter.device for parameter in model.parameters()), None)
