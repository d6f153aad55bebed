"""An exported program as nodes: operators under our names, all arguments by name, in-place operators made plain.

An in-place operator gives the tensor it wrote to. In the graph it becomes the plain one, and whoever reads that tensor
afterwards reads the new value. That is right only where no other tensor over the same memory is read afterwards; which
those are is told by how each tensor was made:

    known to make a new tensor            its own memory
    a view, or not known to make new one  maybe the memory of any of its operands

so a model that writes into a view of what it reads later is refused, never guessed.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.utils._pytree as pytree
from torch import Tensor, fx
from torch._ops import HigherOrderOperator, OpOverload
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

from ..errors import DepthwiseError
from .exported import all_arguments, is_batched_image, of_conv, of_mean, of_pieces, source_of
from .graph import Argument, Node, Tree, Value, values_in
from .network import Shape
from .operators import KNOWN, NAMES, dtype_name, is_channels_last
from .places import Place

# Of the operators with rules, those whose result may be memory of an operand.
VIEWS = {
    *("alias", "chunk", "contiguous", "detach", "dropout", "expand", "expand_as", "flatten", "getitem", "permute"),
    *("reshape", "reshape_as", "select", "slice", "split", "split_with_sizes", "squeeze", "transpose", "unbind"),
    *("unflatten", "unsqueeze", "lift_fresh_copy"),
}
FRESH = KNOWN.keys() - VIEWS
# The same tensor under another name.
SAME = {"alias", "detach"}
# Written otherwise, and the same for values that are written once.
SYNONYMS = {
    "aten.view.default": "aten.reshape.default",
    "aten._unsafe_view.default": "aten.reshape.default",
    "aten.detach_.default": "aten.detach.default",
    "aten.unsafe_split.Tensor": "aten.split.Tensor",
    "aten.concat.default": "aten.cat.default",
}
# Arguments that aten calls otherwise in a synonym.
RENAMED = {"reshape": ("self", "shape")}
CONVOLUTIONS = {f"aten.conv{rank}d.{form}": rank for rank in (1, 2, 3) for form in ("default", "padding")}
ASSERTIONS = ("aten._assert", "aten.sym_constrain")


@dataclass(frozen=True, slots=True)
class Reading:
    """One exported program.

    inputs:  names of its tensors, in the order of the call
    shapes:  of every value that is one tensor; dtypes: theirs; last: whether torch has it channels-last
    weights: parameters, buffers and constants of the forward, tied ones once
    """

    inputs: tuple[str, ...]
    weights: dict[str, Tensor]
    nodes: tuple[Node, ...]
    gives: Any
    shapes: dict[str, Shape]
    dtypes: dict[str, str]
    last: dict[str, bool]


def read(program: ExportedProgram, call: Tree) -> Reading:
    """The exported program as nodes; `call` holds its tensor arguments as values of the names that they get."""
    inputs = tuple(values_in(call))
    reader = _Reader(inputs)
    gives = reader.run(program.graph_module, _places(reader, program, call))
    spec = cast(pytree.TreeSpec, program.call_spec.out_spec)
    whole = _tree_of(pytree.tree_unflatten(list(gives), spec), "what the model returns")
    return Reading(inputs, reader.weights, tuple(reader.nodes), whole, reader.shapes, reader.dtypes, reader.last)


class _Reader:
    def __init__(self, inputs: Iterable[str]) -> None:
        self.nodes: list[Node] = []
        self.weights: dict[str, Tensor] = {}
        self.shapes: dict[str, Shape] = {}
        self.dtypes: dict[str, str] = {}
        self.last: dict[str, bool] = {}
        self._names = set(inputs)
        self._tied: dict[tuple[Any, ...], Place] = {}

    def input(self, name: str, fake: Any) -> Place:
        self._see(name, fake)
        return Place(Value(name), "input")

    def weight(self, name: str, tensor: Tensor) -> Place:
        """The place of a weight: the same one for the same numbers under two names."""
        tensor = tensor.detach()
        key = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype) if tensor.numel() else (name,)
        if key not in self._tied:
            name = self._unique(name)
            self.weights[name] = tensor
            self._see(name, tensor)
            self._tied[key] = Place(Value(name), "weight")
        return self._tied[key]

    def run(self, module: fx.GraphModule, arguments: Iterable[Any]) -> tuple[Any, ...]:
        """Read a graph, its placeholders standing for these; what it returns, flat."""
        given = iter(arguments)
        known: dict[fx.Node, Any] = {}
        for node in module.graph.nodes:
            if node.op == "placeholder":
                known[node] = next(given)
            elif node.op == "get_attr":
                known[node] = self._attribute(module, node.target)
            elif node.op == "call_function":
                known[node] = self._called(node, _opened(node.args, known), _opened(node.kwargs, known))
            else:
                results = [known[item] if isinstance(item, fx.Node) else item for item in _flat(node.args[0])]
                return tuple(item.read("the output") if isinstance(item, Place) else item for item in results)
        raise AssertionError("a graph of torch.fx ends with its output")

    def _attribute(self, module: fx.GraphModule, path: str) -> Any:
        found: Any = module
        for part in path.split("."):
            found = getattr(found, part)
        return self.weight(path, found) if isinstance(found, Tensor) else found

    def _called(self, node: fx.Node, args: Any, kwargs: Any) -> Any:
        source = source_of(node)
        where = f"{node.target} in {source}" if source else str(node.target)
        if node.target is operator.getitem:
            whole, index = args
            if not isinstance(whole, Place):
                return whole[index]
            made = self._node(node, "getitem", [("self", whole.read(where)), ("index", index)], source)
            made.joins(whole)
            return made
        if isinstance(node.target, HigherOrderOperator):
            return self._wrapped(node.target, args, where)
        if not isinstance(node.target, OpOverload):
            raise DepthwiseError(f"the exported program calls {where}, which is no operator of torch")
        return self._operator(node, node.target, all_arguments(node.target, args, kwargs), source, where)

    def _wrapped(self, target: HigherOrderOperator, args: list[Any], where: str) -> Any:
        """What a region without gradients or without autocast returns: its nodes stand among the others."""
        name = target.name()
        if name == "wrap_with_set_grad_enabled":
            return self._again(args[1], args[2:])
        # With autocast off a region is computed as everything here is.
        if name == "wrap_with_autocast" and (args[2] is False or args[0] != "cpu"):
            return self._again(args[4], args[5:])
        raise DepthwiseError(f"the model needs {where}, which optimize does not take")

    def _again(self, module: fx.GraphModule, arguments: Iterable[Any]) -> list[Any]:
        results = self.run(module, arguments)
        places = {place.value: place for place in arguments if isinstance(place, Place)}
        return [places.get(item) or Place(item) if isinstance(item, Value) else item for item in results]

    def _operator(
        self, node: fx.Node, target: OpOverload, arguments: list[tuple[str, Any]], source: str, where: str
    ) -> Any:
        written_as = f"{target.namespace}.{target._opname}.{target._overloadname}"
        name = SYNONYMS.get(written_as, written_as)
        if name.startswith(ASSERTIONS):
            return None
        written = [a.name for a in target._schema.arguments if a.alias_info is not None and a.alias_info.is_write]
        writes = bool(written) and name == written_as
        if writes:
            name = _plain_name(target, written, arguments, where)
            _check_kind(node, where)
        places = [place for _, argument in arguments for place in _places_in(argument)]
        plain = [(key, _argument(argument, where)) for key, argument in arguments]
        made = self._plain(node, name, plain, source, where)
        if made is None:
            return places[0]
        if writes:
            places[0].write(made.value, where)
            return places[0]
        if NAMES.get(name.removeprefix("aten."), name) not in FRESH and name not in CONVOLUTIONS:
            for place in places:
                made.joins(place)
        return made

    def _plain(
        self, node: fx.Node, name: str, arguments: list[tuple[str, Argument]], source: str, where: str
    ) -> Place | None:
        """The node of an operator that writes nothing; None where it gives the very tensor that it got."""
        short = NAMES.get(name.removeprefix("aten."), name)
        given = dict(arguments)
        _check_state(short, given, where)
        if short in SAME or (short == "dropout" and given["train"] is False):
            return None
        if short == "chunk":
            # How many pieces there are depends on sizes, and the forward may have asked: other sizes must show.
            short, arguments = "split_with_sizes", of_pieces(node, given)
        if name == "aten.mean.default":
            short, arguments = "mean", of_mean(node, given)
        if short in RENAMED:
            arguments = [(key, argument) for key, (_, argument) in zip(RENAMED[short], arguments, strict=True)]
        if name in CONVOLUTIONS and is_batched_image(node, CONVOLUTIONS[name]):
            return self._node(node, "conv", of_conv(given, node), source)
        return self._node(node, short, arguments, source)

    def _node(self, node: fx.Node, name: str, arguments: list[tuple[str, Argument]], source: str) -> Place:
        value = Value(self._unique(node.name))
        self.nodes.append(Node(value.name, name, tuple(arguments), source))
        fake = node.meta.get("val")
        if isinstance(fake, Tensor):
            self._see(value.name, fake)
        return Place(value)

    def _see(self, name: str, tensor: Tensor) -> None:
        self.shapes[name] = tuple(tensor.shape)
        self.dtypes[name] = dtype_name(tensor.dtype)
        self.last[name] = is_channels_last(tensor)

    def _unique(self, name: str) -> str:
        found, number = name, 0
        while found in self._names:
            number += 1
            found = f"{name}_{number}"
        self._names.add(found)
        return found


def _opened(item: Any, known: dict[fx.Node, Any]) -> Any:
    """An argument of torch.fx with what its nodes stand for."""
    if isinstance(item, fx.Node):
        return known[item]
    if isinstance(item, dict):
        return {key: _opened(part, known) for key, part in item.items()}
    if isinstance(item, list | tuple) and not isinstance(item, torch.Size):
        return [_opened(part, known) for part in item]
    return item


def _flat(item: Any) -> list[Any]:
    if isinstance(item, list | tuple):
        return [leaf for part in item for leaf in _flat(part)]
    return [item]


def _places_in(item: Any) -> Iterator[Place]:
    if isinstance(item, Place):
        yield item
    elif isinstance(item, list):
        for part in item:
            yield from _places_in(part)


def _argument(item: Any, where: str) -> Argument:
    if isinstance(item, Place):
        return item.read(where)
    if isinstance(item, list | tuple | torch.Size):
        return tuple(_argument(part, where) for part in item)
    if isinstance(item, torch.dtype | torch.layout | torch.memory_format | torch.device):
        return str(item)
    if item is None or isinstance(item, bool | int | float | str):
        return item
    raise DepthwiseError(f"{where} has an argument of type {type(item).__name__}, which a graph cannot hold")


def _plain_name(target: OpOverload, written: list[str], arguments: list[tuple[str, Any]], where: str) -> str:
    """The operator that gives what this one writes."""
    if torch.Tag.inplace_view in target.tags:
        raise DepthwiseError(f"{where} changes the sizes of a tensor in place; write the view without the underscore")
    packet = target._opname.removesuffix("_")
    found = getattr(getattr(getattr(torch.ops, target.namespace), packet, None), target._overloadname, None)
    is_in_place = target._opname.endswith("_") and written == [arguments[0][0]]
    if not is_in_place or found is None or [a.name for a in found._schema.arguments] != [key for key, _ in arguments]:
        raise DepthwiseError(
            f"{where} writes into its arguments, and no plain operator gives the same; rewrite it there"
        )
    return f"{target.namespace}.{packet}.{target._overloadname}"


def _check_kind(node: fx.Node, where: str) -> None:
    """Raise where the plain operator could give another dtype than the tensor written to."""
    kinds = {
        operand.meta["val"].dtype
        for operand in node.all_input_nodes
        if isinstance(operand.meta.get("val"), Tensor) and operand.meta["val"].dim()
    }
    if len(kinds) > 1:
        raise DepthwiseError(f"{where} writes numbers of one dtype into a tensor of another; convert them first")


def _check_state(name: str, arguments: dict[str, Any], where: str) -> None:
    """Raise where an operator changes the model's own statistics."""
    updates = ("training", "use_input_stats")
    statistics = arguments.get("running_mean")
    if statistics is not None and any(arguments.get(key) is True for key in updates):
        raise DepthwiseError(
            f"{where} normalises with the statistics of the batch and updates its own ({name} in training mode, though "
            f"the model was put in evaluation mode); make its forward follow .training"
        )


def _places(reader: _Reader, program: ExportedProgram, call: Tree) -> Iterator[Any]:
    """What each placeholder of the program stands for."""
    names = _names_of_leaves(program, call)
    fakes = {node.name: node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder"}
    number = 0
    for spec in program.graph_signature.input_specs:
        if spec.kind is InputKind.USER_INPUT:
            name = names.get(number)
            number += 1
            yield None if name is None else reader.input(name, fakes[spec.arg.name])
        elif spec.kind in (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR):
            target = cast(str, spec.target)
            yield reader.weight(target, _weight(program, target))
        else:
            raise DepthwiseError(f"the exported program takes a {spec.kind.name.lower()}, which optimize does not know")


def _weight(program: ExportedProgram, target: str) -> Tensor:
    found = program.state_dict.get(target)
    return cast(Tensor, program.constants[target] if found is None else found)


def _names_of_leaves(program: ExportedProgram, call: Tree) -> dict[int, str]:
    """Our name of each tensor among the leaves of the program's arguments."""
    spec = program.call_spec.in_spec
    numbered = pytree.tree_unflatten(range(spec.num_leaves), spec)
    names: dict[int, str] = {}

    def walk(ours: Any, theirs: Any) -> None:
        if isinstance(ours, Value):
            names[theirs] = ours.name
        elif isinstance(ours, Tree) and ours.kind == "dict":
            for key, item in zip(ours.keys, ours.items, strict=True):
                walk(item, theirs[key])
        elif isinstance(ours, Tree):
            for item, other in zip(ours.items, theirs, strict=True):
                walk(item, other)

    walk(call, numbered)
    return names


def _tree_of(item: Any, where: str) -> Any:
    if item is None or isinstance(item, Value | bool | int | float | str):
        return item
    if type(item) in (tuple, list):
        return Tree(type(item).__name__, tuple(_tree_of(part, where) for part in item))
    if isinstance(item, dict) and all(isinstance(key, str) for key in item):
        return Tree("dict", tuple(_tree_of(part, where) for part in item.values()), tuple(item))
    raise DepthwiseError(
        f"{where} holds a {type(item).__name__}; tensors, and tuples, lists and dicts of them are taken"
    )
