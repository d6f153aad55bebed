"""A graph is cut into as few segments as there can be, in an order in which they run."""

from __future__ import annotations

from itertools import pairwise, permutations

import hypothesis.strategies as st
from hypothesis import given

from depthwise.optimize.graph import Graph, Node, Spec, Tree, Value
from depthwise.optimize.segments import Segment, cut

TAKES = Tree("tuple", (Tree("tuple", (Value("x"),)), Tree("dict", ())))


def graph_of(*reads: tuple[str, ...]) -> Graph:
    """Nodes a, b, c, ..., each reading these; the last is given."""
    nodes = tuple(
        Node(name, "cat", (("tensors", tuple(map(Value, operands))),))
        for name, operands in zip("abcdefghij", reads, strict=False)
    )
    return Graph((Spec("x", (1,), "float32"),), (Spec("w", (1,), "float32"),), nodes, TAKES, Value(nodes[-1].name))


def cut_as(graph: Graph, kinds: str) -> tuple[Segment, ...]:
    refusals = {node.name: None if kind == "k" else "no" for node, kind in zip(graph.nodes, kinds, strict=True)}
    return cut(graph, refusals, "k", "t")


def runs(graph: Graph, segments: tuple[Segment, ...]) -> bool:
    """Whether every node runs once, after what it reads."""
    there = {"x", "w"}
    for segment in segments:
        assert there.issuperset(segment.reads)
        for node in segment.nodes:
            if not there.issuperset(node.operands()):
                return False
            there.add(node.name)
    return len(there) == 2 + len(graph.nodes)


def test_a_chain() -> None:
    segments = cut_as(graph_of(("x", "w"), ("a",), ("b",), ("c",)), "kktk")
    assert list(map(str, segments)) == ["k: 2 nodes, x -> b", "t: 1 nodes, b -> c", "k: 1 nodes, c -> d"]


def test_branches_wait_for_one_another() -> None:
    # One after the other they would be five segments.
    graph = graph_of(("x",), ("a",), ("x",), ("c",), ("b", "d"))
    segments = cut_as(graph, "ktktk")
    assert [(segment.engine, len(segment.nodes)) for segment in segments] == [("k", 2), ("t", 2), ("k", 1)]
    assert segments[0].gives == ("a", "c")


def test_all_of_one_kind_is_one_segment_and_nothing_is_none() -> None:
    assert [segment.engine for segment in cut_as(graph_of(("x",), ("a",)), "tt")] == ["t"]
    empty = Graph((Spec("x", (1,), "float32"),), (), (), TAKES, Value("x"))
    assert cut(empty, {}, "k", "t") == ()


def test_one_for_each_node() -> None:
    graph = graph_of(("x",), ("a",), ("b",))
    segments = cut(graph, dict.fromkeys("abc"), "k", "t", node_by_node=True)
    assert [segment.gives for segment in segments] == [("a",), ("b",), ("c",)]


@given(st.data(), st.integers(1, 6))
def test_no_order_has_fewer(data: st.DataObject, size: int) -> None:
    reads = [
        tuple(data.draw(st.sets(st.sampled_from(["x", *"abcdefghij"[:number]]), min_size=1, max_size=2)))
        for number in range(size)
    ]
    graph = graph_of(*reads)
    kinds = dict(zip("abcdefghij", data.draw(st.tuples(*[st.sampled_from("kt")] * size)), strict=False))
    segments = cut_as(graph, "".join(kinds[node.name] for node in graph.nodes))
    assert runs(graph, segments)
    assert all(kinds[node.name] == segment.engine for segment in segments for node in segment.nodes)
    fewest = min(
        1 + sum(kinds[a.name] != kinds[b.name] for a, b in pairwise(order))
        for order in permutations(graph.nodes)
        if _is_order(order)
    )
    assert len(segments) == fewest


def _is_order(order: tuple[Node, ...]) -> bool:
    there = {"x", "w"}
    for node in order:
        if not there.issuperset(node.operands()):
            return False
        there.add(node.name)
    return True


def test_the_check_can_fail() -> None:
    graph = graph_of(("x",), ("a",))
    segments = cut_as(graph, "kt")
    assert runs(graph, segments)
    assert not runs(graph, tuple(reversed([Segment(s.engine, s.nodes, (), s.gives) for s in segments])))
