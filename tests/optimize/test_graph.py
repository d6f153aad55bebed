"""The graph: printed, compared, written as JSON and read back, and refused where it is not whole."""

from __future__ import annotations

import json
from typing import Any

import pytest

from depthwise import DepthwiseError
from depthwise.optimize.graph import Batch, Graph, Node, Spec, Tree, Value, check, values_in

RELU = Node("y", "relu", (("self", Value("x")),), "act")
TAKES = Tree("tuple", (Tree("tuple", (Value("x"),)), Tree("dict", ())))


Y = Value("y")


def graph(nodes: tuple[Node, ...] = (RELU,), gives: Any = Y, takes: Tree = TAKES) -> Graph:
    return Graph((Spec("x", (Batch(), 3), "float32"),), (Spec("w", (3,), "float32"),), nodes, takes, gives)


def test_it_prints_as_it_is_read() -> None:
    node = Node("z", "reshape", (("self", Value("y")), ("shape", (Batch(2), -1, Batch()))))
    assert str(graph((RELU, node), Tree("dict", (Value("z"), None), ("a", "b")))).splitlines() == [
        "x: float32 (batch, 3)",
        "weight w: float32 (3)",
        "y = relu(self=x)",
        "z = reshape(self=y, shape=(2·batch, -1, batch))",
        "gives {'a': z, 'b': None}",
    ]


def test_equal_graphs_are_equal_wherever_they_came_from() -> None:
    assert graph() == graph((Node("y", "relu", RELU.arguments, "elsewhere"),))
    assert graph() != graph((Node("y", "silu", RELU.arguments, "act"),))
    assert len({graph(), graph()}) == 1


def test_json_and_back() -> None:
    arguments = (
        ("self", Value("x")),
        ("numbers", (1, 2.5, True, None, "text", float("inf"), float("-inf"), (Batch(3), (Value("w"),)))),
    )
    given = graph(
        (Node("y", "anything", arguments, "a.b"),), Tree("list", (Value("y"), Tree("tuple", (Value("x"), 2)), "s"))
    )
    read = Graph.from_json(json.loads(json.dumps(given.to_json(), allow_nan=False)))
    assert read == given
    assert str(read) == str(given)
    assert read.nodes[0].source == "a.b"
    nan = graph((Node("y", "anything", (("value", float("nan")),)),))
    (_, value) = Graph.from_json(nan.to_json()).nodes[0].arguments[0]
    assert isinstance(value, float)
    assert value != value


def test_a_tree_is_mapped_to_what_it_stands_for() -> None:
    tree = Tree("tuple", (Value("a"), Tree("dict", (Value("b"), 3), ("k", "n")), Tree("list", ())))
    assert tree.mapped(str) == ("a", {"k": "b", "n": "3"}, [])
    assert list(tree.leaves()) == [Value("a"), Value("b"), 3]
    assert list(values_in(tree)) == ["a", "b"]


def test_arguments_by_name() -> None:
    node = RELU.changed(self=Value("w"))
    assert (node["self"], list(node.operands())) == (Value("w"), ["w"])
    assert node.reading(str.upper)["self"] == Value("W")
    with pytest.raises(KeyError):
        node["other"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (graph((RELU, RELU)), "the graph has two values called 'y'"),
        (graph((Node("x", "relu", (("self", Value("x")),)),)), "the graph has two values called 'x'"),
        (graph((Node("y", "relu", (("self", Value("q")),)),)), "'y' reads 'q', which is not there yet"),
        (graph(gives=Value("q")), "the graph gives 'q', which is not there"),
        (graph(takes=Tree("tuple", ())), "the graph's arguments are not its inputs"),
        (graph(takes=Tree("tuple", (Value("x"), 1))), "a tuple of positional and a dict of keyword arguments"),
    ],
)
def test_a_graph_that_is_not_whole(given: Graph, message: str) -> None:
    with pytest.raises(DepthwiseError, match=message):
        check(given)


def test_two_inputs_of_one_name() -> None:
    spec = Spec("x", (), "float32")
    with pytest.raises(DepthwiseError, match="the graph has two values called 'x'"):
        check(Graph((spec,), (spec,), (), TAKES, None))


def broken(path: str, value: Any) -> Any:
    """The JSON of a graph with one field replaced."""
    content: Any = graph((RELU, Node("z", "f", (("a", Value("y")),))), Tree("list", (Value("z"),))).to_json()
    *way, last = [int(part) if part.isdigit() else part for part in path.split("/")]
    place = content
    for part in way:
        place = place[part]
    if value is KeyError:
        del place[last]
    else:
        place[last] = value
    return content


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("nodes", KeyError, "the graph is a dict of gives, inputs, nodes, takes, weights"),
        ("nodes", {}, "nodes is a list; got {}"),
        ("inputs", 3, "inputs is a list; got 3"),
        ("nodes/0", [], r"a node is a dict of arguments, name, operator, source; got \[\]"),
        ("nodes/0/name", 3, "a name is a string; got 3"),
        ("nodes/0/operator", None, "an operator is a string; got None"),
        ("nodes/0/source", 1.5, "a source is a string; got 1.5"),
        ("nodes/0/arguments", [], "a node's arguments are a dict; got list"),
        ("nodes/0/arguments/self", {"value": 3}, "a value's name is a string; got 3"),
        ("nodes/0/arguments/self", {"batch": "x"}, "a multiple of the batch is a whole number of 64 bits; got x"),
        ("nodes/0/arguments/self", {"number": "x"}, "an argument is a value, a number, a string or a list"),
        ("nodes/0/arguments/self", {"a": 1, "b": 2}, "an argument is a value, a number, a string or a list"),
        ("nodes/0/arguments/self", 2**63, "an argument is a whole number of 64 bits"),
        ("takes", {"value": "x"}, "a graph takes a tuple of arguments"),
        ("takes/tree", "set", "a tree is a tuple, a list or a dict with a key for each item; got 'set'"),
        ("takes/keys", ["a"], "a tree is a tuple, a list or a dict with a key for each item; got 'tuple'"),
        ("takes/keys", KeyError, "a tree is a dict of items, keys, tree"),
        ("gives/items", None, "items is a list; got None"),
        ("inputs/0/shape", [True], "a shape is whole numbers and multiples of the batch"),
        ("inputs/0/shape", [-1], "a shape is whole numbers and multiples of the batch"),
        ("inputs/0/shape", [{"batch": -2}], "a shape is whole numbers and multiples of the batch"),
        ("inputs/0/dtype", 1, "a dtype is a string; got 1"),
        ("weights/0/name", [], r"a name is a string; got \[\]"),
        ("weights/0", {"name": "w"}, "a tensor is a dict of dtype, name, shape"),
    ],
)
def test_json_that_is_no_graph(path: str, value: Any, message: str) -> None:
    with pytest.raises(DepthwiseError, match=message):
        Graph.from_json(broken(path, value))
