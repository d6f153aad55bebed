"""Shapes by our own rules are torch's, operator by operator; what does not fit is said."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor

from depthwise import DepthwiseError
from depthwise.optimize.graph import Batch, Graph, Node, Spec, Tree, Value
from depthwise.optimize.operators import KNOWN, OWN, overload_of
from depthwise.optimize.rules import RULES, Arguments, Shapes, broadcast
from depthwise.optimize.shapes import infer

X = (2, 6, 7, 9)


def graph_of(operator: str, shapes: tuple[Any, ...], *rest: Any) -> tuple[Graph, dict[str, tuple[int, ...]]]:
    """A graph of one node; the first arguments are tensors of these shapes, a list of shapes a list of tensors."""
    names = list(_names(operator))
    inputs: dict[str, tuple[int, ...]] = {}

    def value(shape: Any) -> Any:
        if shape is None:
            return None
        if isinstance(shape, list):
            return tuple(map(value, shape))
        inputs[f"x{len(inputs)}"] = shape
        return Value(f"x{len(inputs) - 1}")

    given = [*map(value, shapes), *rest, *(_default(operator, name) for name in names[len(shapes) + len(rest) :])]
    node = Node("y", operator, tuple(zip(names, given, strict=True)))
    specs = tuple(Spec(name, shape, "float32") for name, shape in inputs.items())
    takes = Tree("tuple", (Tree("tuple", tuple(Value(name) for name in inputs)), Tree("dict", ())))
    return Graph(specs, (), (node,), takes, Value("y")), inputs


def _names(operator: str) -> list[str]:
    return list(OWN[operator]) if operator in OWN else [a.name for a in overload_of(operator)._schema.arguments]


def _default(operator: str, name: str) -> Any:
    if operator in OWN:
        return None
    found = next(a.default_value for a in overload_of(operator)._schema.arguments if a.name == name)
    return tuple(found) if isinstance(found, list) else found


def inferred(operator: str, shapes: tuple[Any, ...], *rest: Any) -> Shapes:
    graph, inputs = graph_of(operator, shapes, *rest)
    return infer(graph, inputs, 2)["y"]


def torchs(operator: str, shapes: tuple[Any, ...], *rest: Any) -> Any:
    def tensor(shape: Any) -> Any:
        if shape is None:
            return None
        return [tensor(one) for one in shape] if isinstance(shape, list) else torch.empty(shape, device="meta")

    schema = overload_of(operator)._schema.arguments
    positional = [a for a in schema if not a.kwarg_only]
    made = overload_of(operator)(*map(tensor, shapes), *rest[: len(positional) - len(shapes)])
    return tuple(made.shape) if isinstance(made, Tensor) else tuple(tuple(one.shape) for one in made)


CASES: list[tuple[Any, ...]] = [
    *((name, (X,)) for name in ("relu", "sigmoid", "hardswish", "silu", "gelu", "hardtanh", "elu", "tanh", "clone")),
    ("softmax", (X,), -1),
    ("add", (X, (6, 1, 1))),
    ("mul", ((6, 1, 1), X)),
    ("sub", (X, (2, 1, 7, 1))),
    ("div", (X, ())),
    ("addcmul", ((6, 1, 1), X, (1,))),
    ("adaptive_avg_pool2d", (X,), (3, 2)),
    ("adaptive_avg_pool2d", (X[1:],), (1, 1)),
    ("avg_pool2d", (X,), (3, 3), (2, 2), (1, 1)),
    ("avg_pool2d", (X,), (2,), (), 0, True),
    ("avg_pool2d", ((2, 6, 5, 5),), (2, 2), (2, 2), (1, 1), True),
    ("max_pool2d", (X,), (3, 3), (2, 2), (1, 1), (1, 1), True),
    ("max_pool2d", (X,), (3,), (2,), (1,), (2,)),
    ("max_pool2d", (X,), (2, 3), (), 0, 1),
    ("batch_norm", (X, (6,), (6,), (6,), (6,)), False, 0.1, 1e-5, False),
    ("group_norm", (X,), 3),
    ("layer_norm", (X,), (7, 9)),
    ("cat", ([X, (2, 3, 7, 9)],), 1),
    ("cat", ([X, (0,)],), -1),
    ("stack", ([X, X, X],), -2),
    ("chunk", (X,), 4, 1),
    ("chunk", (X,), 3, 2),
    ("split", (X,), 4, 1),
    ("split_with_sizes", (X,), (1, 5), 1),
    ("unbind", (X,), 1),
    ("flatten", (X,), 1),
    ("flatten", (X,), -2, -1),
    ("flatten", ((),), 0),
    ("expand", ((6, 1, 1),), (2, 6, 5, -1)),
    ("expand_as", ((6, 1, 1), X)),
    ("permute", (X,), (0, 2, -1, 1)),
    ("transpose", (X,), 1, -1),
    ("transpose", ((),), 0, -1),
    ("reshape", (X,), (2, 3, -1, 9)),
    ("reshape", (X,), (12, 63)),
    ("reshape_as", (X, (12, 63))),
    ("select", (X,), -1, 3),
    ("slice", (X,), 1, 1, 2**63 - 1),
    ("slice", (X,), 2, -5, -1, 3),
    ("slice", (X,), 3, 5, 2),
    ("squeeze", ((2, 1, 3),), 1),
    ("squeeze", ((2, 1, 3),), 2),
    ("unflatten", (X,), 1, (2, -1)),
    ("unflatten", (X,), -1, (3, 3, 1)),
    ("unsqueeze", (X,), -1),
    ("pad", (X,), (1, 2, -1, 0), "constant", 0.0),
    ("pad", (X,), (0, 0, 1, 1, 2, 0)),
    ("mean", (X,), (2, 3), True),
    ("mean", (X,), (-1,)),
    ("mean", (X,), None),
    ("sum", (X,), (1,)),
    ("sum", (X,), ()),
    ("linalg_vector_norm", (X,), 2, (1, 2), True),
    ("linear", (X, (4, 9))),
    ("linear", ((9,), (4, 9))),
    ("upsample_nearest2d", (X,), None, (2.0, 1.5)),
    ("upsample_bilinear2d", (X,), (5, 20), False, None),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}-{case[1:]}")
def test_shapes_are_torchs(case: tuple[Any, ...]) -> None:
    assert inferred(*case) == torchs(*case)


@pytest.mark.parametrize(
    ("indices", "sizes"),
    [
        ([(4,)], (4, 6, 7, 9)),
        ([None, (3, 2)], (2, 3, 2, 7, 9)),
        ([None, (3,), None, (3,)], (3, 2, 7)),
        ([None, (3, 1), (2,)], (2, 3, 2, 9)),
    ],
)
def test_an_index(indices: list[Any], sizes: tuple[int, ...]) -> None:
    assert inferred("index", (X, indices)) == sizes
    places = [None if at is None else torch.zeros(at, dtype=torch.int64) for at in indices]
    assert torch.ops.aten.index.Tensor(torch.zeros(X), places).shape == sizes


def test_a_convolution() -> None:
    window = ((2, 1), ((1, 0), (2, 2)), (1, 2), 3, None, None)
    assert inferred("conv", (X, (12, 2, 3, 3), None), *window) == (2, 12, 3, 9)


def test_a_separable_convolution() -> None:
    rest = ((1, 1), ((1, 1), (1, 1)), (1, 1), 2, None)
    shapes = (X, (12, 1, 3, 3), None, (8, 6, 1, 1), None)
    assert inferred("separable", shapes, *rest) == (2, 8, 7, 9)


def test_norms_as_scales() -> None:
    assert inferred("affine", (X, (6,), (6,))) == X
    assert inferred("layout", (X,), True) == X


def test_every_known_operator_has_a_rule() -> None:
    assert (KNOWN.keys() | OWN.keys()) - RULES.keys() == set()


def test_batches_are_numbers_of_the_call() -> None:
    graph, _ = graph_of("reshape", (X,), (Batch(3), -1))
    assert infer(graph, {"x0": (4, 6, 7, 9)}, 4)["y"] == (12, 126)
    assert infer(graph, {"x0": (0, 6, 7, 9)}, 1)["y"] == (3, 0)


def test_what_has_no_rule_is_asked_for_and_may_stay_unknown() -> None:
    node = Node("y", "aten.roll.default", (("self", Value("x")),))
    last = Node("z", "relu", (("self", Value("y")),))
    takes = Tree("tuple", (Tree("tuple", (Value("x"),)), Tree("dict", ())))
    graph = Graph((Spec("x", X, "float32"),), (), (node, last), takes, Value("z"))
    assert infer(graph, {"x": X}, 2) == {"x": X, "y": None, "z": None}

    def ask(arguments: Arguments) -> Shapes:
        shape: Shapes = arguments["self"]
        return shape

    assert infer(graph, {"x": X}, 2, ask)["z"] == X


@pytest.mark.parametrize(
    ("case", "message"),
    [
        (("add", (X, (5, 1, 1))), "(2, 6, 7, 9) and (5, 1, 1) do not broadcast"),
        (("softmax", (X,), 4), None),
        (("select", (X,), 4, 0), "there is no dimension 4 of 4"),
        (("max_pool2d", (X,), (9, 9), (1, 1)), "a window of 9 on 7 pixels"),
        (("conv", (X, (4, 5, 1, 1), None), (1, 1), ((0, 0),) * 2, (1, 1), 1), "weights (4, 5, 1, 1) in 1 groups"),
        (("conv", (X, (4, 6, 8, 1), None), (1, 1), ((0, 0),) * 2, (1, 1), 1), "a kernel of (8, 1) on an input"),
        (("separable", (X, (6, 2, 3, 3), None, (8, 6, 1, 1), None), (1, 1), ((1, 1),) * 2, (1, 1), 1), "weights (6, "),
        (("linear", (X, (4, 8))), "weights (4, 8) for an input of"),
        (("cat", ([X, (2, 6, 7, 8)],), 1), "differ beside dimension 1"),
        (("stack", ([X, (2, 6, 7, 8)],), 1), "differ"),
        (("reshape", (X,), (5, -1)), "(2, 6, 7, 9) is not (5, -1)"),
        (("reshape", (X,), (5, 4)), "(2, 6, 7, 9) is not (5, 4)"),
        (("reshape_as", (X, (5,))), "(2, 6, 7, 9) is not (5,)"),
        (("permute", (X,), (0, 1)), "[0, 1] of (2, 6, 7, 9)"),
        (("split_with_sizes", (X,), (1, 2), 1), "(1, 2) of 6"),
        (("pad", (X,), (1,)), "padding (1,) of"),
        (("pad", (X,), (-9, -9)), "padding (-9, -9) of"),
        (("layer_norm", (X,), (8,)), "normalised over (8,)"),
        (("affine", (X, (5,), (5,))), "(5,) numbers for the channels of"),
        (("index", (X, [(1,)] * 5)), "indices"),
        (("getitem", (X,), 9), "tuple index out of range"),
        (("split", (X,), 0, 1), "integer division or modulo by zero"),
        (("split", ((2**40, 3),), 1, 0), "1099511627776 pieces of one tensor"),
        (("unbind", ((2**40, 3),), 0), "1099511627776 pieces of one tensor"),
        (("chunk", ((2**40, 3),), 2**20, 0), "1048576 pieces of one tensor"),
    ],
)  # fmt: skip
def test_sizes_that_do_not_fit(case: tuple[Any, ...], message: str | None) -> None:
    if message is None:
        assert inferred(*case) == X
        return
    with pytest.raises(DepthwiseError, match=f"the sizes do not fit {case[0]} in the model.*{re.escape(message)}"):
        inferred(*case)


def test_a_residual_of_another_size() -> None:
    rest = ((1, 1), ((0, 0),) * 2, (1, 1), 1)
    graph, inputs = graph_of("conv", (X, (6, 6, 1, 1), None), *rest)
    node = graph.nodes[0].changed(residual=Value("x1"))
    with pytest.raises(DepthwiseError, match=r"a residual of \(6, 6, 1, 1\) for a result of \(2, 6, 7, 9\)"):
        infer(Graph(graph.inputs, (), (node,), graph.takes, graph.gives), inputs, 2)


def test_broadcasting() -> None:
    assert broadcast((0, 3), (1, 3)) == (0, 3)
    assert broadcast((), ()) == ()
