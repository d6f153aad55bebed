"""A network in a file: written, read, and every way in which a file can be wrong."""

from __future__ import annotations

import copy
import json
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from depthwise import DepthwiseError, SeparableConv2d, load_optimized, optimize
from depthwise.optimize.file import ALLOWED, to_bytes
from depthwise.optimize.file import from_bytes as read_bytes
from depthwise.optimize.module import Optimized
from depthwise.optimize.operators import OWN, overload_of
from tests.support.networks import Calls
from tests.support.whole import randomised

X = torch.randn(2, 4, 9, 8)


def from_bytes(content: bytes) -> Optimized:
    return Optimized(*read_bytes(content))


def network() -> nn.Module:
    parts = {
        "layer": SeparableConv2d(4, 6, 3, padding=1, pointwise_norm=nn.BatchNorm2d, pointwise_activation=nn.ReLU),
        "dense": nn.Conv2d(6, 6, 3, padding=1),
    }

    def forward(x: Any, layer: nn.Module, dense: nn.Module) -> Any:
        y = layer(x)
        z = dense(y) + y
        return {"features": [y, z.roll(1, 2)], "head": z.view(z.shape[0], -1, 2).softmax(-1).clamp_min(0.1)}

    return randomised(Calls(forward, **parts))


@pytest.fixture(scope="module")
def content() -> bytes:
    torch.manual_seed(0)
    found = optimize(network(), X)
    return to_bytes(found._network, found._saved)


def test_to_a_file_and_back(tmp_path: Path) -> None:
    found = optimize(network(), X)
    found.save(tmp_path / "net.safetensors")
    read = load_optimized(str(tmp_path / "net.safetensors"))
    assert str(read.report) == str(found.report)
    assert read._network.graph == found._network.graph
    x = torch.randn(5, 4, 11, 8)
    ours, theirs = read(x), found(x)
    assert list(ours) == ["features", "head"]
    assert all(torch.equal(a, b) for a, b in zip(ours["features"], theirs["features"], strict=True))
    assert torch.equal(ours["head"], theirs["head"])
    # Anyone can read the weights.
    assert safetensors.torch.load_file(tmp_path / "net.safetensors").keys() == found._network.weights.keys()


def test_no_file_is_written_without_its_weights() -> None:
    found = optimize(nn.Conv2d(64, 128, 3), torch.zeros(1, 64, 9, 9))
    found(torch.zeros(1, 64, 9, 9))
    with pytest.raises(RuntimeError, match="written while packs hold weights"):
        to_bytes(found._network, found._saved)
    x = torch.randn(1, 64, 9, 9)
    assert torch.equal(copy.deepcopy(found)(x), found(x))


def test_sizes_that_are_baked_in_stay_so() -> None:
    found = optimize(Calls(lambda x: nn.functional.interpolate(x.relu(), size=x.shape[2:])), X)
    read = from_bytes(to_bytes(found._network, found._saved))
    assert torch.equal(read(torch.ones(7, 4, 9, 8)), torch.ones(7, 4, 9, 8))
    with pytest.raises(
        DepthwiseError, match=r"it takes \(2, 4, 9, 8\) of any batch, and got \(2, 4, 9, 9\); a network fr"
    ):
        read(torch.ones(2, 4, 9, 9))


def test_an_operator_that_a_file_cannot_name(tmp_path: Path) -> None:
    found = optimize(Calls(torch.special.bessel_j0), X)
    torch.testing.assert_close(found(X), torch.special.bessel_j0(X))
    with pytest.raises(
        DepthwiseError, match=r"the network calls aten.special_bessel_j0.default, which a file cannot name"
    ):
        found.save(tmp_path / "net.safetensors")


def test_operators_that_a_file_may_name_change_and_read_nothing() -> None:
    for name in ALLOWED - OWN.keys():
        schema = overload_of(name)._schema
        assert not schema.is_mutable, name
        # Of those that make tensors out of nothing only two: their sizes are checked as any other's.
        is_filled = name in ("aten.zeros.default", "aten.ones.default")
        assert is_filled or any("Tensor" in str(argument.type) for argument in schema.arguments), name
        assert overload_of(name).namespace == "aten"


def test_sizes_of_the_batch_and_devices() -> None:
    found = optimize(Calls(lambda x: x + torch.zeros(x.shape[0], 1, 1, 1, device="cpu").cos()), X)
    read = from_bytes(to_bytes(found._network, found._saved))
    assert torch.equal(read(torch.zeros(5, 4, 2, 2)), torch.ones(5, 4, 2, 2))

    def change(network: Any, _: Any) -> None:
        node(network, "aten.zeros.default")["arguments"]["device"] = "cuda"

    with pytest.raises(DepthwiseError, match=r"device of 'zeros' is of kind Optional\[Device\]; got cuda"):
        from_bytes(rewritten(to_bytes(found._network, found._saved), change))


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(DepthwiseError, match=r"cannot read .*nothing: No such file or directory"):
        load_optimized(tmp_path / "nothing")
    with pytest.raises(DepthwiseError, match=r"cannot write .*: No such file or directory"):
        optimize(nn.ReLU(), X).save(tmp_path / "no" / "folder")


def test_every_truncation(content: bytes) -> None:
    (length,) = struct.unpack("<Q", content[:8])
    for end in (*range(0, 8 + length, 97), *range(8 + length, len(content), 61)):
        with pytest.raises(DepthwiseError, match=r"is no safetensors file, or was cut short|is damaged"):
            from_bytes(content[:end])


def rewritten(content: bytes, change: Callable[[Any, dict[str, Any]], object]) -> bytes:
    """The file with its network or its metadata changed."""
    (length,) = struct.unpack("<Q", content[:8])
    metadata = json.loads(content[8 : 8 + length])["__metadata__"]
    network = json.loads(metadata["network"])
    change(network, metadata)
    if metadata.get("network") is not None and isinstance(metadata["network"], str):
        metadata["network"] = json.dumps(network)
    return safetensors.torch.save(safetensors.torch.load(content), metadata)


def test_files_of_others(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    safetensors.torch.save_file({"w": torch.ones(3)}, path)
    with pytest.raises(DepthwiseError, match=r"weights.safetensors holds tensors and no optimized network"):
        load_optimized(path)
    torch.save({"w": torch.ones(3)}, path)
    with pytest.raises(DepthwiseError, match="is no safetensors file"):
        load_optimized(path)
    path.write_bytes(struct.pack("<Q", 2) + b"[]")
    with pytest.raises(DepthwiseError, match="is no safetensors file"):
        load_optimized(path)
    path.write_bytes(struct.pack("<Q", 100_000) + b"[" * 100_000)
    with pytest.raises(DepthwiseError, match="is no safetensors file"):
        load_optimized(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda n, m: m.update(version="2"), "has version 2, and this depthwise reads up to 1; update depthwise"),
        (lambda n, m: m.update(version="one"), "is damaged: it names the version 'one'"),
        (lambda n, m: m.update(format="other"), "holds tensors and no optimized network"),
        (lambda n, m: m.pop("network"), "holds tensors and no optimized network"),
    ],
)
def test_metadata_that_is_not_ours(content: bytes, change: Any, message: str) -> None:
    with pytest.raises(DepthwiseError, match=message):
        from_bytes(rewritten(content, change))


def test_a_graph_that_is_no_json(content: bytes) -> None:
    weights = safetensors.torch.load(content)
    for text in ("{", "[" * 100_000, "NaN-"):
        with pytest.raises(DepthwiseError, match="is damaged: its graph is not JSON"):
            from_bytes(
                safetensors.torch.save(weights, {"format": "depthwise.optimize", "version": "1", "network": text})
            )
    deep = "[" * 100 + "]" * 100
    with pytest.raises(DepthwiseError, match="its graph is nested more than 64 deep"):
        from_bytes(safetensors.torch.save(weights, {"format": "depthwise.optimize", "version": "1", "network": deep}))


def node(network: Any, operator: str) -> Any:
    return next(node for node in network["graph"]["nodes"] if node["operator"] == operator)


def argue(operator: str, **arguments: Any) -> Callable[[Any, Any], None]:
    return lambda n, m: node(n, operator)["arguments"].update(arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda n, m: n.pop("batch"), "a network is batch, gives_last, graph, is_sized"),
        (lambda n, m: n.update(why_fixed=3), "why_fixed is a str; got 3"),
        (lambda n, m: n.update(least=-1), "the least batch is a whole number; got -1"),
        (lambda n, m: n.update(is_sized=0), "is_sized is a bool; got 0"),
        (lambda n, m: n.update(takes_last="no"), "takes_last is a bool; got no"),
        (lambda n, m: n.update(gives_last=[True]), "gives_last is 3 of true and false"),
        (lambda n, m: n.update(gives_last=[1, 0, 0]), "gives_last is 3 of true and false"),
        (lambda n, m: n.update(batch=-1), "the batch is a whole number or null; got -1"),
        (lambda n, m: n.update(batch=True), "the batch is a whole number or null; got True"),
        (lambda n, m: n.update(batch=2), "the batch is fixed, and input_0 has any"),
        (lambda n, m: n.update(saved={"norms": "x"}), "saved is how many nodes each pass made unnecessary"),
        (lambda n, m: n.update(saved={"other": 1}), "saved is how many nodes each pass made unnecessary"),
        (lambda n, m: n.update(sizes={}), "sizes are those of the graph's inputs"),
        (lambda n, m: n["sizes"].update(input_0=[2, 4, 9]), "the size of input_0 is 4 whole numbers"),
        (lambda n, m: n["sizes"].update(input_0=[2, 4, 9, -1]), "the size of input_0 is 4 whole numbers"),
        (lambda n, m: n["sizes"].update(input_0=[2, 5, 9, 8]), "which is not input_0: float32"),
        (lambda n, m: n["sizes"].update(input_0=[2, 4, 9, 8.0]), "the size of input_0 is 4 whole numbers"),
        (lambda n, m: n["graph"]["inputs"][0].update(dtype="object"), "input_0 has the dtype 'object'"),
        (
            lambda n, m: n["graph"]["inputs"][0].update(shape=[{"batch": 2}, 4, 9, 8]),
            "input_0 has its batch elsewhere than first",
        ),
        (lambda n, m: n["graph"]["weights"].pop(), "the graph's weights are not the file's|is not there"),
        (lambda n, m: n["graph"]["weights"][0].update(shape=[1]), r"and the graph says"),
        (lambda n, m: n["graph"]["weights"][0].update(dtype="int64"), r"and the graph says"),
        (lambda n, m: n["graph"].update(nodes={}), "nodes is a list"),
        (lambda n, m: node(n, "conv").update(operator="aten.from_file.default"), "is no operator that a file may name"),
        (lambda n, m: node(n, "conv").update(operator="os.system.default"), "is no operator that a file may name"),
        (lambda n, m: node(n, "conv").update(operator="relu"), "relu takes self; '.*' gives it others"),
        (lambda n, m: node(n, "conv")["arguments"].pop("groups"), "gives it others"),
        (argue("conv", stride=["a", "b"]), "stride of '.*' is of kind steps; got"),
        (argue("conv", stride={"value": "input_0"}), "stride of '.*' is of kind steps"),
        (argue("conv", stride=2), "stride of '.*' is of kind steps"),
        (argue("conv", stride=[1, 1, 1]), "has strides, paddings and dilations for 1, 2 or 3 dimensions, each as many"),
        (argue("conv", stride=[1, 0]), "stride of '.*' is of kind steps"),
        (argue("conv", groups=0), "groups of '.*' is of kind step"),
        (argue("conv", padding=[[1, 1], [1]]), "padding of '.*' is of kind pairs"),
        (argue("conv", padding=[[1, 1], [1, -1]]), "padding of '.*' is of kind pairs"),
        (argue("conv", padding=3), "padding of '.*' is of kind pairs"),
        (argue("conv", activation="relu"), "activation of '.*' is of kind activation"),
        (argue("conv", activation=["relu", 1.0]), "activation of '.*' is of kind activation"),
        (argue("conv", activation=["system", 0.0]), "activation of '.*' is of kind activation"),
        (argue("conv", activation=["relu", 0]), "activation of '.*' is of kind activation"),
        (argue("conv", groups={"batch": 1}), "groups of '.*' is of kind step"),
        (argue("conv", padding=[[2**40, 2**40], [2**40, 2**40]], residual=None), "would hold [0-9]+ numbers"),
        (argue("conv", weight={"value": "input_0"}), "the sizes do not fit conv"),
        (argue("conv", input=3), "input of '.*' is of kind value"),
        (argue("separable", groups=7), "the sizes do not fit separable"),
        (argue("reshape", shape=[1, 2, 3]), "the sizes do not fit reshape"),
        (argue("reshape", shape=[{"number": "inf"}]), r"shape of '.*' is of kind List\[int\]"),
        (argue("softmax", dtype="torch.serialization"), "dtype of '.*' is of kind Optional"),
        (argue("softmax", dim=1.5), "dim of '.*' is of kind int"),
        (lambda n, m: n["graph"].update(gives={"value": "nobody"}), "the graph gives 'nobody', which is not there"),
    ],
)  # fmt: skip
def test_networks_that_are_not_whole(content: bytes, change: Any, message: str) -> None:
    with pytest.raises(DepthwiseError, match=message):
        from_bytes(rewritten(content, change))


def test_several_tensors_are_no_result() -> None:
    found = optimize(Calls(lambda x: x.split(2, 1)[0]), X)

    def change(network: Any, _: Any) -> None:
        network["graph"]["gives"] = {"value": "split"}

    with pytest.raises(DepthwiseError, match="the network gives split, which is several tensors"):
        from_bytes(rewritten(to_bytes(found._network, found._saved), change))


def test_inputs_of_different_batches() -> None:
    found = optimize(Calls(lambda x, y: (x, y)), (X, X))

    def change(network: Any, _: Any) -> None:
        network["sizes"]["input_1"][0] = 3

    with pytest.raises(DepthwiseError, match=r"the inputs are of different batches: \[2, 3\]"):
        from_bytes(rewritten(to_bytes(found._network, found._saved), change))


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just({"value": "input_0"})


@settings(max_examples=150)
@given(st.data())
def test_any_field_of_any_kind_is_read_or_refused(content: bytes, data: st.DataObject) -> None:
    def change(network: Any, _: Any) -> None:
        place = network
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            key = data.draw(st.sampled_from(keys))
            if not isinstance(place[key], dict | list) or not place[key] or data.draw(st.integers(0, 9)) == 0:
                break
            place = place[key]
        place[key] = data.draw(SCALARS | st.lists(SCALARS, max_size=3))

    changed = rewritten(content, change)
    try:
        found = from_bytes(changed)
    except DepthwiseError:
        return
    # What passes may still be refused by torch when it runs, and does nothing else.
    with suppress(DepthwiseError, RuntimeError, TypeError, ValueError, IndexError):
        found(torch.zeros(1, 4, 9, 8))


@settings(max_examples=100)
@given(st.data())
def test_any_bytes_are_read_or_refused(content: bytes, data: st.DataObject) -> None:
    changed = bytearray(content)
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    with suppress(DepthwiseError):
        from_bytes(bytes(changed))
