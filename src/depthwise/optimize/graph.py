"""The graph of a network: nodes in the order they run, each an operator with its arguments. No torch, and no numbers of
weights: those stand beside it, by name.

    x: float32 (batch, 3, 32, 32)
    conv_1 = conv(input=x, weight=w, bias=None, stride=(1, 1), padding=((1, 1), (1, 1)), ...)
    relu_1 = relu(self=conv_1)
    gives relu_1

Every value is written once: there are no in-place operators and no views, only results.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from ..errors import DepthwiseError


@dataclass(frozen=True, slots=True)
class Value:
    """What an input, a weight or a node gives, by its name."""

    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class Batch:
    """A size or number that is so many times the batch."""

    multiple: int = 1

    def __str__(self) -> str:
        return "batch" if self.multiple == 1 else f"{self.multiple}·batch"


Scalar = None | bool | int | float | str
Argument = Scalar | Value | Batch | tuple["Argument", ...]
Size = int | Batch


@dataclass(frozen=True, slots=True)
class Spec:
    """An input or a weight: its name, shape and dtype, as torch writes it without "torch."."""

    name: str
    shape: tuple[Size, ...]
    dtype: str

    def at(self, batch: int) -> tuple[int, ...]:
        """The shape for a batch of this many."""
        return tuple(size.multiple * batch if isinstance(size, Batch) else size for size in self.shape)

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype} ({', '.join(map(str, self.shape))})"


@dataclass(frozen=True, slots=True)
class Node:
    """One operator at work; `name` is its value's.

    operator: one of `operators.KNOWN`, or aten's own name with its overload, "aten.roll.default", for what torch runs
    arguments: all of the operator's arguments by name, in its order
    source:    path of the module that it came from; two nodes that differ in nothing else are equal
    """

    name: str
    operator: str
    arguments: tuple[tuple[str, Argument], ...]
    source: str = field(default="", compare=False)

    def __getitem__(self, name: str) -> Any:
        for key, argument in self.arguments:
            if key == name:
                return argument
        raise KeyError(name)

    def operands(self) -> Iterator[str]:
        """Names of the values it reads, as often as it reads them."""
        for _, argument in self.arguments:
            yield from values_in(argument)

    def reading(self, rename: Callable[[str], str]) -> Node:
        """The same with other operands."""
        arguments = tuple((key, renamed(argument, rename)) for key, argument in self.arguments)
        return Node(self.name, self.operator, arguments, self.source)

    def changed(self, /, **arguments: Argument) -> Node:
        """The same with other arguments."""
        changed = tuple((key, arguments.get(key, argument)) for key, argument in self.arguments)
        return Node(self.name, self.operator, changed, self.source)

    def __str__(self) -> str:
        written = ", ".join(f"{key}={text_of(argument)}" for key, argument in self.arguments)
        return f"{self.name} = {self.operator}({written})"


@dataclass(frozen=True, slots=True)
class Tree:
    """Nested tuples, lists and dicts of what a network takes or gives.

    kind: "tuple", "list" or "dict"; keys only for a dict
    """

    kind: str
    items: tuple[Leaf, ...]
    keys: tuple[str, ...] = ()

    def leaves(self) -> Iterator[Argument]:
        for item in self.items:
            if isinstance(item, Tree):
                yield from item.leaves()
            else:
                yield item

    def mapped(self, function: Callable[[Any], Any]) -> Any:
        """The same made of real tuples, lists and dicts, each leaf replaced by what the function makes of it."""
        made = [item.mapped(function) if isinstance(item, Tree) else function(item) for item in self.items]
        if self.kind == "dict":
            return dict(zip(self.keys, made, strict=True))
        return tuple(made) if self.kind == "tuple" else made

    def __str__(self) -> str:
        if self.kind == "dict":
            return "{" + ", ".join(f"{k!r}: {text_of(v)}" for k, v in zip(self.keys, self.items, strict=True)) + "}"
        inside = ", ".join(map(text_of, self.items))
        return f"[{inside}]" if self.kind == "list" else f"({inside}{',' if len(self.items) == 1 else ''})"


Leaf = Argument | Tree


@dataclass(frozen=True, slots=True)
class Graph:
    """A whole network; `weights` are named here and kept beside it.

    takes: its positional arguments and its keyword arguments, a tuple and a dict in a tuple
    gives: what it returns
    """

    inputs: tuple[Spec, ...]
    weights: tuple[Spec, ...]
    nodes: tuple[Node, ...]
    takes: Tree
    gives: Leaf

    def returned(self) -> Iterator[str]:
        """Names of the values that it returns, as often as it does."""
        yield from values_in(self.gives)

    def __str__(self) -> str:
        lines = [*map(str, self.inputs), *(f"weight {spec}" for spec in self.weights), *map(str, self.nodes)]
        return "\n".join([*lines, f"gives {text_of(self.gives)}"])

    def to_json(self) -> dict[str, Any]:
        """The same as dicts, lists, strings and numbers; `from_json` reads it."""
        return {
            "inputs": [_spec_json(spec) for spec in self.inputs],
            "weights": [_spec_json(spec) for spec in self.weights],
            "nodes": [
                {
                    "name": node.name,
                    "operator": node.operator,
                    "arguments": {key: _json(argument) for key, argument in node.arguments},
                    "source": node.source,
                }
                for node in self.nodes
            ],
            "takes": _json(self.takes),
            "gives": _json(self.gives),
        }

    @classmethod
    def from_json(cls, content: object) -> Graph:
        """The graph that `to_json` wrote; raises DepthwiseError where anything in it is of another kind."""
        fields = _dict(content, "the graph", {"inputs", "weights", "nodes", "takes", "gives"})
        takes = _leaf(fields["takes"])
        if not isinstance(takes, Tree):
            raise DepthwiseError("a graph takes a tuple of arguments")
        graph = cls(
            tuple(_spec(item) for item in _list(fields["inputs"], "inputs")),
            tuple(_spec(item) for item in _list(fields["weights"], "weights")),
            tuple(_node(item) for item in _list(fields["nodes"], "nodes")),
            takes,
            _leaf(fields["gives"]),
        )
        check(graph)
        return graph


def follows_batch(node: Node) -> bool:
    """Whether a number among the node's arguments is so many times the batch."""

    def does(argument: Argument) -> bool:
        return isinstance(argument, Batch) or (isinstance(argument, tuple) and any(map(does, argument)))

    return any(does(argument) for _, argument in node.arguments)


def values_in(leaf: Leaf) -> Iterator[str]:
    """Names of the values in an argument or a tree."""
    if isinstance(leaf, Value):
        yield leaf.name
    elif isinstance(leaf, tuple):
        for item in leaf:
            yield from values_in(item)
    elif isinstance(leaf, Tree):
        for part in leaf.items:
            yield from values_in(part)


def renamed(leaf: Any, rename: Callable[[str], str]) -> Any:
    """The argument or tree with each value's name changed."""
    if isinstance(leaf, Value):
        return Value(rename(leaf.name))
    if isinstance(leaf, tuple):
        return tuple(renamed(item, rename) for item in leaf)
    if isinstance(leaf, Tree):
        return Tree(leaf.kind, tuple(renamed(item, rename) for item in leaf.items), leaf.keys)
    return leaf


def text_of(leaf: Leaf) -> str:
    if isinstance(leaf, tuple):
        inside = ", ".join(map(text_of, leaf))
        return f"({inside}{',' if len(leaf) == 1 else ''})"
    return str(leaf) if isinstance(leaf, Value | Batch | Tree) else repr(leaf)


def check(graph: Graph) -> None:
    """Raise where a name stands for two values, or one is read before it is there."""
    known: set[str] = set()
    for name in (spec.name for spec in (*graph.inputs, *graph.weights)):
        if name in known:
            raise DepthwiseError(f"the graph has two values called {name!r}")
        known.add(name)
    for node in graph.nodes:
        for operand in node.operands():
            if operand not in known:
                raise DepthwiseError(f"{node.name!r} reads {operand!r}, which is not there yet")
        if node.name in known:
            raise DepthwiseError(f"the graph has two values called {node.name!r}")
        known.add(node.name)
    for name in graph.returned():
        if name not in known:
            raise DepthwiseError(f"the graph gives {name!r}, which is not there")
    _check_takes(graph)


def _check_takes(graph: Graph) -> None:
    if sorted(values_in(graph.takes)) != sorted(spec.name for spec in graph.inputs):
        raise DepthwiseError("the graph's arguments are not its inputs")
    is_call = graph.takes.kind == "tuple" and len(graph.takes.items) == 2
    kinds = [item.kind for item in graph.takes.items if isinstance(item, Tree)]
    if not is_call or kinds != ["tuple", "dict"]:
        raise DepthwiseError("a graph takes a tuple of positional and a dict of keyword arguments")


# JSON knows neither these numbers nor the difference between a string and a name.
_UNWRITTEN = {"inf": float("inf"), "-inf": float("-inf"), "nan": float("nan")}


def _json(leaf: Leaf) -> Any:
    if isinstance(leaf, Value):
        return {"value": leaf.name}
    if isinstance(leaf, Batch):
        return {"batch": leaf.multiple}
    if isinstance(leaf, tuple):
        return [_json(item) for item in leaf]
    if isinstance(leaf, Tree):
        return {"tree": leaf.kind, "items": [_json(item) for item in leaf.items], "keys": list(leaf.keys)}
    if isinstance(leaf, float) and (leaf != leaf or leaf in (float("inf"), float("-inf"))):
        return {"number": str(leaf)}
    return leaf


def _leaf(content: object) -> Leaf:
    if isinstance(content, dict) and "tree" in content:
        fields = _dict(content, "a tree", {"tree", "items", "keys"})
        kind, keys = fields["tree"], tuple(_text(key, "a key") for key in _list(fields["keys"], "keys"))
        items: tuple[Leaf, ...] = tuple(_leaf(item) for item in _list(fields["items"], "items"))
        if kind not in ("tuple", "list", "dict") or len(keys) != (len(items) if kind == "dict" else 0):
            raise DepthwiseError(
                f"a tree is a tuple, a list or a dict with a key for each item; got {str(kind)[:40]!r}"
            )
        return Tree(kind, items, keys)
    return _argument(content)


def _argument(content: object) -> Argument:
    if isinstance(content, list):
        return tuple(_argument(item) for item in content)
    if isinstance(content, dict):
        if content.keys() == {"value"}:
            return Value(_text(content["value"], "a value's name"))
        if content.keys() == {"batch"}:
            return Batch(_whole(content["batch"], "a multiple of the batch"))
        if content.keys() == {"number"} and content["number"] in _UNWRITTEN:
            return _UNWRITTEN[content["number"]]
        raise DepthwiseError(f"an argument is a value, a number, a string or a list; got {str(content)[:80]}")
    if isinstance(content, bool) or content is None or isinstance(content, str | float):
        return content
    return _whole(content, "an argument")


def _spec_json(spec: Spec) -> dict[str, Any]:
    return {"name": spec.name, "shape": [_json(size) for size in spec.shape], "dtype": spec.dtype}


def _spec(content: object) -> Spec:
    fields = _dict(content, "a tensor", {"name", "shape", "dtype"})
    shape = tuple(_argument(size) for size in _list(fields["shape"], "shape"))
    sizes = tuple(size for size in shape if isinstance(size, int | Batch) and not isinstance(size, bool))
    if len(sizes) != len(shape) or any((s.multiple if isinstance(s, Batch) else s) < 0 for s in sizes):
        raise DepthwiseError(f"a shape is whole numbers and multiples of the batch; got {str(fields['shape'])[:80]}")
    return Spec(_text(fields["name"], "a name"), sizes, _text(fields["dtype"], "a dtype"))


def _node(content: object) -> Node:
    fields = _dict(content, "a node", {"name", "operator", "arguments", "source"})
    arguments = fields["arguments"]
    if not isinstance(arguments, dict):
        raise DepthwiseError(f"a node's arguments are a dict; got {type(arguments).__name__}")
    return Node(
        _text(fields["name"], "a name"),
        _text(fields["operator"], "an operator"),
        tuple((_text(key, "a name"), _argument(argument)) for key, argument in arguments.items()),
        _text(fields["source"], "a source"),
    )


def _dict(content: object, what: str, keys: set[str]) -> dict[str, Any]:
    if not isinstance(content, dict) or content.keys() != keys:
        raise DepthwiseError(f"{what} is a dict of {', '.join(sorted(keys))}; got {str(content)[:80]}")
    return content


def _list(content: object, what: str) -> list[Any]:
    if not isinstance(content, list):
        raise DepthwiseError(f"{what} is a list; got {str(content)[:80]}")
    return content


def _text(content: object, what: str) -> str:
    if not isinstance(content, str):
        raise DepthwiseError(f"{what} is a string; got {str(content)[:80]}")
    return content


def _whole(content: object, what: str) -> int:
    if not isinstance(content, int) or isinstance(content, bool) or not -(2**63) <= content < 2**63:
        raise DepthwiseError(f"{what} is a whole number of 64 bits; got {str(content)[:80]}")
    return content
