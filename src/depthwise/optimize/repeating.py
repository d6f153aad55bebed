"""An exported model run again with other inputs, on tensors without numbers: whether it calls the same operators.

    values = {placeholder: the tensor that it stands for, ...}
    for node in the exported program, call in what the model calls:     in order, as many of each
        the operator, its plain arguments, and values[each operand] is its tensor argument, or it is another program
        values[node] = what the call gives

That is what a second export would compare, in a part of its time. It sees operators where torch.export does, before
autograd takes them apart. What it is not sure of, constants of the forward or regions of their own, is for an export.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, fx, nn
from torch._dispatch.python import enable_python_dispatcher
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind
from torch.fx.experimental.proxy_tensor import ProxyTorchDispatchMode, PythonKeyTracer

from ..errors import said
from ..tracing import restored, unlogged
from .exported import all_arguments

Values = dict[fx.Node, Any]
# The place of `training` among a batch norm's arguments.
_TRAINING = 5


def repeated(
    model: nn.Module, program: ExportedProgram, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Values | str | None:
    """What each node of the program gives with these arguments, or what the model raises with them.

    None where the model may be another program with them.

    model: what was exported, in evaluation mode
    """
    fakes = FakeTensorMode(allow_non_fake_inputs=True)
    args, kwargs = pytree.tree_map_only(Tensor, fakes.from_tensor, (args, kwargs))
    calls = _Calls()
    try:
        known = _placeholders(model, program, args, kwargs)
        # As torch.export has it: batch norms are told.
        without_cudnn = torch.backends.cudnn.flags(enabled=False)
        with restored(model), unlogged(), torch.no_grad(), without_cudnn, fakes, enable_python_dispatcher(), calls:
            try:
                gives = model(*args, **kwargs)
            # The forward is the user's code.
            except Exception as error:  # noqa: BLE001
                return None if calls.is_other else said(error)
        if calls.is_other:
            return None
        _follow(program.graph, known, calls.seen)
        _compare_results(program, known, gives)
    # What is found otherwise than it was expected may be of any kind.
    except Exception:  # noqa: BLE001
        return None
    return known


@contextmanager
def at(values: Values) -> Iterator[None]:
    """Let the nodes of a program stand for these values."""
    before = [(node, node.meta.get("val")) for node in values]
    for node, value in values.items():
        node.meta["val"] = value
    try:
        yield
    finally:
        for node, value in before:
            node.meta["val"] = value


class _OtherProgramError(Exception):
    """The model calls something else, or may."""


class _Calls(ProxyTorchDispatchMode):
    """What is called, before autograd: torch lets a mode of this class alone see that."""

    def __init__(self) -> None:
        super().__init__(PythonKeyTracer(), "fake", pre_dispatch=True)
        self.seen: list[tuple[OpOverload, Any, Any, Any]] = []
        # Whether an operator was called that no comparison of calls is for.
        self.is_other = False
        self._is_cast = torch.is_autocast_enabled("cpu")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if torch.is_autocast_enabled("cpu") is not self._is_cast:
            # What a region of autocast converts is no call of its own.
            self.is_other = True
        if func is torch.ops.aten.batch_norm.default and args[_TRAINING : _TRAINING + 1] == (False,):
            # As its statistics stand it is one factor and one number for each channel; torch takes it apart at length.
            out = torch.empty_like(args[0])
        else:
            out = func(*args, **kwargs)
        if func.namespace != "prim":
            self.seen.append((func, args, kwargs, out))
        return out


def _placeholders(model: nn.Module, program: ExportedProgram, args: Any, kwargs: Any) -> Values:
    leaves, spec = pytree.tree_flatten((args, kwargs))
    nodes = [node for node in program.graph.nodes if node.op == "placeholder"]
    if spec != program.call_spec.in_spec:
        raise _OtherProgramError
    given = iter(leaves)
    known: Values = {}
    for node, specified in zip(nodes, program.graph_signature.input_specs, strict=True):
        if specified.kind is InputKind.USER_INPUT:
            known[node] = next(given)
        elif specified.kind in (InputKind.PARAMETER, InputKind.BUFFER) and specified.target is not None:
            path, _, name = specified.target.rpartition(".")
            known[node] = getattr(model.get_submodule(path), name)
        else:
            raise _OtherProgramError
    return known


def _follow(graph: fx.Graph, known: Values, calls: Iterable[tuple[OpOverload, Any, Any, Any]]) -> None:
    """Find each node's call, and with it what the node gives."""
    rest = iter(calls)
    for node in graph.nodes:
        if node.op == "call_function" and node.target is operator.getitem:
            whole, index = node.args
            known[node] = known[whole][index]
        elif node.op == "call_function" and isinstance(node.target, OpOverload):
            func, args, kwargs, out = next(rest, (None, (), {}, None))
            if func is not node.target:
                raise _OtherProgramError
            mine, theirs = all_arguments(func, node.args, node.kwargs), all_arguments(func, args, kwargs)
            if not all(_is_same(a, b, known) for (_, a), (_, b) in zip(mine, theirs, strict=True)):
                raise _OtherProgramError
            known[node] = out
        elif node.op not in ("placeholder", "output"):
            raise _OtherProgramError
    if next(rest, None) is not None:
        raise _OtherProgramError


def _compare_results(program: ExportedProgram, known: Values, gives: Any) -> None:
    leaves, spec = pytree.tree_flatten(gives)
    (output,) = (node for node in program.graph.nodes if node.op == "output")
    if spec != program.call_spec.out_spec or not _is_same(list(output.args[0]), leaves, known):
        raise _OtherProgramError


def _is_same(expected: Any, given: Any, known: Values) -> bool:
    """Whether an argument of the program is that of a call."""
    if isinstance(expected, fx.Node):
        return known[expected] is given
    if isinstance(expected, list | tuple):
        is_alike = isinstance(given, list | tuple) and len(expected) == len(given)
        return is_alike and all(_is_same(a, b, known) for a, b in zip(expected, given, strict=True))
    return type(expected) is type(given) and bool(expected == given)
