"""The other libraries: the models they are given compute a case's work, and an absent one says so."""

from __future__ import annotations

import importlib.util

import pytest

from benchmarks import peers
from benchmarks.onnx_model import onnx_model
from depthwise import DepthwiseError
from depthwise.bench.cases import Case, layer, tensors_of
from depthwise.bench.gate import expected_of, fault
from tests.test_bench import SMALL

WITH_MODEL = [case for case in SMALL if case.depthwise_activation != "gelu"]


@pytest.mark.parametrize("name", list(peers.PEERS))
@pytest.mark.parametrize("case", WITH_MODEL, ids=lambda case: case.name)
def test_a_peer_computes_the_case(name: str, case: Case) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip(name)
    tensors = tensors_of(case)
    call = peers.PEERS[name](case, tensors, "contiguous", 1)
    for _ in range(2):
        assert fault(call(), expected_of(case, tensors)) is None


def test_an_activation_without_a_model_is_an_error() -> None:
    pytest.importorskip("onnx")
    case = layer("", (4, 5, 5), 3, act="gelu")
    with pytest.raises(DepthwiseError, match="the ONNX model of a case has no 'gelu'"):
        onnx_model(case, tensors_of(case))


def test_an_absent_peer_is_listed_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "find_spec", lambda name: None)
    present, absent = peers.candidates()
    assert [candidate.name for candidate in present] == ["depthwise", "torch", "dense"]
    assert [(peer.name, peer.reason) for peer in absent] == [
        ("onnxruntime", "not installed: onnxruntime, onnx"),
        ("openvino", "not installed: openvino, onnx"),
    ]


def test_a_peer_that_is_installed_takes_part() -> None:
    present, absent = peers.candidates()
    installed = {name for name in peers.PEERS if importlib.util.find_spec(name) and importlib.util.find_spec("onnx")}
    assert {candidate.name for candidate in present} == {"depthwise", "torch", "dense"} | installed
    assert {peer.name for peer in absent} == set(peers.PEERS) - installed
