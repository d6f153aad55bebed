"""Who else runs a whole network, each fed as it likes best, in float32; and why one is absent."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, redirect_stdout
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from shutil import which
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor, nn

from depthwise import optimize

OURS = "depthwise"
Call = Callable[[], Tensor]
LAYOUTS = {"contiguous": torch.contiguous_format, "channels-last": torch.channels_last}


@dataclass(frozen=True, slots=True)
class Engine:
    """One way to run a network; `build` makes the call for an input and a number of threads.

    needs: packages and programs without which it takes no part
    """

    name: str
    build: Callable[[nn.Module, Tensor, int], Call]
    needs: tuple[str, ...] = ()

    @property
    def missing(self) -> tuple[str, ...]:
        return tuple(name for name in self.needs if find_spec(name) is None and which(name) is None)


def ours(model: nn.Module, x: Tensor, _: int) -> Call:
    found = optimize(model, x)
    return lambda: found(x)


def eager(layout: str, model: nn.Module, x: Tensor, _: int) -> Call:
    laid_out, given = _laid_out(layout, model, x)
    return lambda: laid_out(given)


def compiled(layout: str, options: dict[str, str], model: nn.Module, x: Tensor, threads: int) -> Call:
    """torch.compile with weights frozen into the code; `options`: its other arguments."""
    import torch._inductor.config as inductor

    laid_out, given = _laid_out(layout, model, x)
    torch.set_num_threads(threads)
    with inductor.patch(freezing=True), torch.no_grad():
        torch._dynamo.reset()
        found = torch.compile(laid_out, **options)  # type: ignore[call-overload]
        found(given)
    return lambda: found(given)


def onnxruntime_call(model: nn.Module, x: Tensor, threads: int) -> Call:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    # Its threads would spin on while the next candidate's turn has begun.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    with _onnx_file(model, x) as path:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name, given = session.get_inputs()[0].name, x.numpy()
    return lambda: torch.from_numpy(session.run(None, {name: given})[0])


def openvino_call(hints: dict[str, str], model: nn.Module, x: Tensor, threads: int) -> Call:
    import openvino

    core = openvino.Core()
    with _onnx_file(model, x) as path:
        compiled = core.compile_model(core.read_model(path), "CPU", {"INFERENCE_NUM_THREADS": threads, **hints})
    request, given = compiled.create_infer_request(), x.numpy()
    return lambda: torch.from_numpy(request.infer([given], share_inputs=True, share_outputs=True)[0])


def ncnn_call(model: nn.Module, x: Tensor, threads: int) -> Call:
    """ncnn through pnnx, without its 16-bit storage and arithmetic."""
    import ncnn
    import pnnx

    net = ncnn.Net()
    net.opt.num_threads = threads
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    net.opt.use_bf16_storage = False
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.pt"
        with redirect_stdout(StringIO()):
            pnnx.export(model, str(path), x, fp16=False)
        net.load_param(str(Path(folder) / "model.ncnn.param"))
        net.load_model(str(Path(folder) / "model.ncnn.bin"))
    given = x[0].numpy()

    def call() -> Tensor:
        extractor = net.create_extractor()
        extractor.input("in0", ncnn.Mat(given))
        return torch.from_numpy(np.array(extractor.extract("out0")[1])).unsqueeze(0)

    return call


ENGINES = (
    Engine(OURS, ours),
    *(Engine(f"eager, {layout}", partial(eager, layout)) for layout in LAYOUTS),
    *(
        Engine(f"torch.compile{name}, {layout}", partial(compiled, layout, options), ("g++",))
        for name, options in {"": {}, " max-autotune": {"mode": "max-autotune"}}.items()
        for layout in LAYOUTS
    ),
    Engine("ONNX Runtime", onnxruntime_call, ("onnxruntime", "onnxscript")),
    Engine(
        "OpenVINO, float32",
        partial(openvino_call, {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}),
        ("openvino", "onnxscript"),
    ),
    Engine("OpenVINO, as it comes", partial(openvino_call, {}), ("openvino", "onnxscript")),
    Engine("ncnn", ncnn_call, ("ncnn", "pnnx")),
)


def _laid_out(layout: str, model: nn.Module, x: Tensor) -> tuple[nn.Module, Tensor]:
    memory_format = LAYOUTS[layout]
    # torch's annotation of Module.to leaves memory_format out.
    moved: nn.Module = deepcopy(model).to(memory_format=memory_format)  # type: ignore[call-overload]
    return moved, x.contiguous(memory_format=memory_format)


@contextmanager
def _onnx_file(model: nn.Module, x: Tensor) -> Iterator[Path]:
    """The network as an ONNX file, there for a while."""
    with TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder) / "model.onnx"
        torch.onnx.export(deepcopy(model), (x,), str(path), dynamo=True, verbose=False)
        yield path


# Asked for, and timed nowhere yet: what an engine would have to be installed for.
UNTRIED = {"zentorch": "no version of it was installable beside the pinned torch"}


def present(without: Collection[str] = ()) -> tuple[list[Engine], dict[str, str]]:
    """Who takes part here, and why the others do not.

    without: parts of the names of those that shall not
    """
    taking_part, absent = [], dict(UNTRIED)
    for engine in ENGINES:
        if any(word in engine.name for word in without):
            absent[engine.name] = "left out as asked"
        elif engine.missing:
            absent[engine.name] = f"not installed: {', '.join(engine.missing)}"
        else:
            taking_part.append(engine)
    return taking_part, absent
