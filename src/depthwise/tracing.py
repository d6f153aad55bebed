"""Run a model on tensors without data, and see which operator runs in which module.

The forward runs in evaluation mode on fake tensors: shapes, strides and dtypes are computed, numbers are not. The
model's parameters and buffers are replaced for that time, and everything the forward assigns to a module is undone.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Container, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
    UnsupportedOperatorException,
)
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import TorchDispatchMode

from .backends import Choice, observed_choices
from .errors import DepthwiseError, said
from .inputs import Fakes, Inputs, InputSize, inputs_of, replaced, tensors


@dataclass(frozen=True, slots=True, eq=False)
class OperatorCall:
    """One call of one operator, below autograd; tensors in `args`, `kwargs` and `output` are fake."""

    path: str
    module: nn.Module
    operator: OpOverload
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Any

    @property
    def name(self) -> str:
        """The operator without its overload: "aten.relu_"."""
        return operator_name(self.operator)

    @property
    def base_name(self) -> str:
        """The same without aten's namespace and without the mark of the in-place form: "relu"."""
        name = self.name.removeprefix("aten.")
        return name[:-1] if name.endswith("_") and not name.endswith("__") else name

    @property
    def result(self) -> Tensor:
        """The first tensor of the output."""
        return next(tensors(self.output))


@dataclass(frozen=True, slots=True, eq=False)
class ModuleCall:
    """One call of one module, with the arguments it got."""

    path: str
    module: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """What one forward called, in order.

    operators:  every operator call; holds its tensors, so that a storage stands for one tensor only
    modules:    every module call, outer ones before inner ones
    choices:    (path of the module, choice of a backend) of every convolution that went through the registry
    learned:    storages of the model's parameters
    trainable:  of those that a gradient is asked of
    batch_size: of the first input tensor
    """

    operators: tuple[OperatorCall, ...]
    modules: tuple[ModuleCall, ...]
    choices: tuple[tuple[str, Choice], ...]
    learned: frozenset[StorageWeakRef]
    trainable: frozenset[StorageWeakRef]
    batch_size: int


def trace(
    model: nn.Module,
    input_size: InputSize,
    *,
    whole: Container[str] = (),
    closed: tuple[type[nn.Module], ...] = (),
) -> Trace:
    """Call `model` once on fake tensors and record what runs.

    input_size: (channels, *spatial) for a batch of one, or a tuple of such sizes, one per input; or example inputs; a
                dict of either is keyword arguments
    whole:      names of operators to record as one call, though torch could take them apart
    closed:     modules that are not looked into: a separable layer that is may run otherwise than one that is not

    The model's own hooks run too. What a forward assigns to its modules, and to containers in them, is undone.

    >>> [call.name for call in trace(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()), (3, 7, 7)).operators]
    ['aten.convolution', 'aten.relu']
    """
    check_model(model)
    fake_mode = FakeTensorMode()
    fakes = Fakes(fake_mode)
    inputs = inputs_of(model, input_size, fakes)
    parameters = {name: fakes(parameter) for name, parameter in model.named_parameters()}
    state = {**parameters, **{name: fakes(buffer) for name, buffer in model.named_buffers()}}
    recorder = _Recorder(model, fakes, whole, closed)
    with ExitStack() as stack:
        for context in (
            restored(model),
            _plain_kernels(),
            unlogged(),
            torch.no_grad(),
            recorder.hooks(),
            recorder.choosing(),
        ):
            stack.enter_context(context)
        stack.enter_context(fake_mode)
        stack.enter_context(recorder)
        for module in model.modules():
            module.training = False
        try:
            torch.func.functional_call(model, state, inputs.args, dict(inputs.kwargs))
        # The forward is the user's code, and may raise anything.
        except (Exception, SystemExit) as error:
            raise DepthwiseError(_failure(error, recorder.where(), inputs)) from error
    learned = frozenset(map(storage, parameters.values()))
    trainable = frozenset(storage(fakes(parameter)) for parameter in model.parameters() if parameter.requires_grad)
    first = next(tensors((inputs.args, inputs.kwargs)), None)
    batch_size = first.shape[0] if first is not None and first.ndim else 1
    operators, modules, choices = recorder.operators, recorder.modules, recorder.choices
    return Trace(tuple(operators), tuple(modules), tuple(choices), learned, trainable, batch_size)


def storage(tensor: Tensor) -> StorageWeakRef:
    """The memory a tensor is a view of, as something that can be compared and hashed."""
    return StorageWeakRef(tensor.untyped_storage())


def operator_name(overload: OpOverload) -> str:
    name: str = overload.name()
    return name.split(".")[0].replace("::", ".")


class _Recorder(TorchDispatchMode):
    """Sees each operator, and through hooks the module that called it."""

    def __init__(
        self, model: nn.Module, fakes: Fakes, whole: Container[str], closed: tuple[type[nn.Module], ...]
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.paths = {id(module): path.replace("_orig_mod.", "") for path, module in model.named_modules()}
        self.fakes = fakes
        self.whole = whole
        self.closed = closed
        self.model = model
        self.active: list[nn.Module] = []
        self.operators: list[OperatorCall] = []
        self.modules: list[ModuleCall] = []
        self.choices: list[tuple[str, Choice]] = []

    def __torch_dispatch__(
        self, func: OpOverload, types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        # A constant that the forward makes keeps its value, so that it can be asked for.
        if func.namespace == "prim" or operator_name(func) == "aten.lift_fresh":
            return func(*args, **kwargs)
        # Modules keep tensors in places that functional_call does not reach, as nn.LSTM does its parameters.
        args, kwargs = replaced(args, self.fakes), replaced(kwargs, self.fakes)
        if operator_name(func) not in self.whole:
            with self:
                output = func.decompose(*args, **kwargs)
            if output is not NotImplemented:
                return output
        output = func(*args, **kwargs)
        path, module = self.where()
        self.operators.append(OperatorCall(path, module, func, args, kwargs, output))
        return output

    def where(self) -> tuple[str, nn.Module]:
        """The innermost module that is running, or that was when the forward failed."""
        module = self.active[-1] if self.active else self.model
        return self.paths[id(module)], module

    @contextmanager
    def hooks(self) -> Iterator[None]:
        """Follow the modules' calls, their own hooks included."""
        with ExitStack() as stack:
            for module in self._open_modules():
                handle = module.register_forward_pre_hook(self._enter, prepend=True, with_kwargs=True)
                stack.callback(handle.remove)
                stack.callback(module.register_forward_hook(self._leave).remove)
            yield

    def _open_modules(self) -> Iterator[nn.Module]:
        closed = [module for module in self.model.modules() if isinstance(module, self.closed)]
        inside = {part for module in closed for part in module.modules() if part is not module}
        return (module for module in self.model.modules() if module not in inside)

    def choosing(self) -> AbstractContextManager[None]:
        """Follow the choices of backends."""
        return observed_choices(lambda choice: self.choices.append((self.where()[0], choice)))

    def _enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.active.append(module)
        self.modules.append(ModuleCall(self.paths[id(module)], module, args, kwargs))

    def _leave(self, module: nn.Module, *_: object) -> None:
        # A module that failed stays on the list, for the error's message; where its caller catches the exception,
        # the caller's own end takes it away.
        while self.active and self.active.pop() is not module:
            pass


@contextmanager
def restored(model: nn.Module) -> Iterator[None]:
    """Undo what is assigned to the modules, and to dicts, lists and sets in them: training flags, caches, buffers."""
    found: dict[int, Any] = {}
    for module in model.modules():
        _find_containers(vars(module), found)
    saved = [(container, _content(container)) for container in found.values()]
    try:
        yield
    finally:
        for container, content in saved:
            if isinstance(container, dict):
                for key in container.keys() - content.keys():
                    del container[key]
                container.update(content)
            elif isinstance(container, list):
                container[:] = content
            else:
                container.clear()
                container.update(content)


def _content(container: Any) -> Any:
    """What is in a dict, a list or a set, of whatever class: a copy of a user's own class could be anything."""
    return next(kind(container) for kind in (dict, list, set) if isinstance(container, kind))


def _find_containers(item: Any, found: dict[int, Any]) -> None:
    """Add each dict, list and set in an item, itself among them, by its identity."""
    if not isinstance(item, dict | list | set | tuple) or id(item) in found:
        return
    if not isinstance(item, tuple):
        found[id(item)] = item
    for part in item.values() if isinstance(item, dict) else item:
        _find_containers(part, found)


@contextmanager
def _plain_kernels() -> Iterator[None]:
    """Keep attention layers and compiled modules in operators that can be told apart."""
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.compiler.set_stance("force_eager"):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)


@contextmanager
def unlogged() -> Iterator[None]:
    """Leave failures to the exception: torch logs each with a traceback of its own insides."""
    log = logging.getLogger("torch._subclasses.fake_tensor")
    disabled, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = disabled


@contextmanager
def without_stack_traces() -> Iterator[None]:
    """Without a stack trace for each node of a graph, a tenth of an export; torch before 2.13 has them always."""
    before = getattr(torch.fx.config, "do_not_emit_stack_traces", False)
    torch.fx.config.do_not_emit_stack_traces = True
    try:
        yield
    finally:
        torch.fx.config.do_not_emit_stack_traces = before


@contextmanager
def uncollected() -> Iterator[None]:
    """Without the garbage collector, which goes through all that torch makes again and again, a third of an export."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def check_model(model: object) -> None:
    if isinstance(model, torch.jit.ScriptModule):
        raise DepthwiseError("a TorchScript module hides its operators; give the nn.Module it was made from")
    if isinstance(model, type) and issubclass(model, nn.Module):
        raise DepthwiseError(f"expected a model, got the class {model.__name__}; make one: {model.__name__}(...)")
    if not isinstance(model, nn.Module):
        raise DepthwiseError(
            f"expected a torch.nn.Module, got {type(model).__name__}; call a function from a module's forward"
        )
    for path, module in model.named_modules():
        if any(is_lazy(tensor) for tensor in (*module._parameters.values(), *module._buffers.values())):
            raise DepthwiseError(
                f"{_described(path, module)} does not know its shape yet; call the model once on a real input, "
                f"which initialises lazy modules"
            )


def _described(path: str, module: nn.Module) -> str:
    return f"{path} ({type(module).__name__})" if path else f"the model ({type(module).__name__})"


def _failure(error: BaseException, where: tuple[str, nn.Module], inputs: Inputs) -> str:
    place = _described(*where)
    if isinstance(error, UnsupportedOperatorException):
        return (
            f"{place} calls {error.func}, an operator that says nothing about its output's shape; describe it with "
            f"torch.library.register_fake"
        )
    if isinstance(error, DataDependentOutputException | DynamicOutputShapeException):
        return (
            f"{place} needs the numbers in a tensor ({error.func}), and no arithmetic is run here; take the value from "
            f"shapes or from an attribute, or give the modules around it one by one"
        )
    shapes = ", ".join(str(tuple(x.shape)) for x in tensors((inputs.args, inputs.kwargs)))
    failed = f"{place} failed; the model's input was {shapes}, batch first: {said(error)}"
    if not inputs.sizes:
        return failed
    first = inputs.sizes[0]
    if len(first) > 2 and first[0] == 1:
        given, less = ("x".join(map(str, size)) for size in (first, first[1:]))
        return f"{failed}; the batch is left out of a size: where the 1 of {given} is one, give {less}"
    return f"{failed}; for inputs of another kind, indices for instance, give example inputs"
