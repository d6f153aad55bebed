"""Who else does the same work, and why one is absent.

PyTorch's own operators and its dense convolution are `depthwise.bench.candidates.STANDARD`. ONNX Runtime and OpenVINO
run one model per case, on contiguous input, the layout they are given in practice; they lay it out inside as they like.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch

from depthwise.bench.calls import Call
from depthwise.bench.candidates import STANDARD, Candidate
from depthwise.bench.cases import Case, Tensors
from depthwise.errors import DepthwiseError

from .onnx_model import onnx_model


@dataclass(frozen=True, slots=True)
class Absent:
    """A peer that is not measured here."""

    name: str
    reason: str


def onnxruntime_call(case: Case, tensors: Tensors, _layout: str, threads: int) -> Call:
    """ONNX Runtime on the CPU, all its graph optimisations on."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Its threads would spin on while the next candidate's turn has begun.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    model = onnx_model(case, tensors)
    states = onnxruntime.capi.onnxruntime_pybind11_state
    try:
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    # They derive from Exception alone.
    except (states.Fail, states.InvalidGraph, states.NotImplemented) as error:
        raise DepthwiseError(str(error)) from error
    return _numpy_call(tensors, lambda feeds: session.run(None, feeds)[0])


def openvino_call(case: Case, tensors: Tensors, _layout: str, threads: int) -> Call:
    """OpenVINO on the CPU, in float32, tuned for latency."""
    import openvino

    settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(onnx_model(case, tensors)), "CPU", settings)
    request = compiled.create_infer_request()
    return _numpy_call(tensors, lambda feeds: request.infer(feeds, share_inputs=True, share_outputs=True)[0])


PEERS: dict[str, Callable[[Case, Tensors, str, int], Call]] = {
    "onnxruntime": onnxruntime_call,
    "openvino": openvino_call,
}


def candidates() -> tuple[tuple[Candidate, ...], tuple[Absent, ...]]:
    """Who takes part here, and who does not."""
    present, absent = list(STANDARD), []
    for name, build in PEERS.items():
        missing = [module for module in (name, "onnx") if find_spec(module) is None]
        if missing:
            absent.append(Absent(name, f"not installed: {', '.join(missing)}"))
        else:
            present.append(Candidate(name, build, layouts=("contiguous",)))
    return tuple(present), tuple(absent)


def _numpy_call(tensors: Tensors, run: Callable[[dict[str, Any]], Any]) -> Call:
    feeds = {"x": tensors.x.numpy()}
    if tensors.residual is not None:
        feeds["residual"] = tensors.residual.numpy()
    return lambda: torch.from_numpy(run(feeds))
