"""The layers inside what torch does to modules: compile, export, ONNX, autocast, transforms, data parallel."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from depthwise import (
    DepthwiseConv1d,
    DepthwiseConv2d,
    DepthwiseError,
    SeparableConv1d,
    SeparableConv2d,
    SeparableConv3d,
    SeparableConvTranspose2d,
    optimize,
    separate_,
)
from depthwise.backends.cpu import machine
from depthwise.blocks import BlueprintConv2d, ConvNeXtBlock, InvertedResidual, MobileNetV1Block, XceptionBlock
from depthwise.doctor import model_report
from tests.support.dense import convolutional, images

# torch's own exporters and compiler, at the pinned version, use what they deprecate.
pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


def network() -> nn.Sequential:
    return nn.Sequential(
        SeparableConv2d(3, 8, 3, 2, "same", pointwise_activation=nn.ReLU),
        MobileNetV1Block(8, 12),
        SeparableConv2d(12, 6, 3, padding=((1, 0), (0, 2)), depthwise_activation=nn.Hardswish, groups=2),
        DepthwiseConv2d(6, 3, padding=1, padding_mode="reflect", depth_multiplier=2),
    )


X = torch.randn(2, 3, 17, 16)


@pytest.mark.parametrize("dynamic", [False, True])
def test_compile_in_one_graph(dynamic: bool) -> None:
    net = network().eval()
    compiled: Any = torch.compile(net, backend="aot_eager", fullgraph=True, dynamic=dynamic)
    for height in (17, 18, 25):
        x = torch.randn(2, 3, height, 16)
        torch.testing.assert_close(compiled(x), net(x))


def test_compiled_training_gives_the_same_gradients() -> None:
    net = network()
    expected = torch.autograd.grad(net(X).square().sum(), list(net.parameters()))
    compiled: Any = torch.compile(net, backend="aot_eager", fullgraph=True)
    actual = torch.autograd.grad(compiled(X).square().sum(), list(net.parameters()))
    for ours, theirs in zip(actual, expected, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.skipif(shutil.which("g++") is None, reason="Inductor's CPU code needs a C++ compiler, and there is no g++")
@pytest.mark.filterwarnings("ignore")
def test_inductor() -> None:
    layer = SeparableConv2d(3, 6, 3, 2, "same", depthwise_activation=nn.ReLU).eval()
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(layer, fullgraph=True)(X), layer(X))


@pytest.mark.skipif(shutil.which("g++") is None, reason="Inductor's CPU code needs a C++ compiler, and there is no g++")
@pytest.mark.filterwarnings("ignore")
def test_inductor_trains_a_strided_same_at_every_size() -> None:
    net = nn.Sequential(DepthwiseConv2d(3, 3, stride=2, padding="same"), nn.BatchNorm2d(3)).double()
    compiled: Any = torch.compile(net)
    # A program for sizes of either parity and each remainder, of which the second and the third are new to it.
    for size in (33, 40, 47):
        x = torch.randn(2, 3, size, 9, dtype=torch.float64)
        torch._dynamo.mark_dynamic(x, 2)
        actual = torch.autograd.grad(compiled(x).relu().square().sum(), list(net.parameters()))
        expected = torch.autograd.grad(net(x).relu().square().sum(), list(net.parameters()))
        for ours, theirs in zip(actual, expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("strict", [False, True])
def test_export(strict: bool) -> None:
    net = network().eval()
    program = torch.export.export(net, (X,), strict=strict)
    called = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert not any("depthwise" in target for target in called)
    torch.testing.assert_close(program.module()(X), net(X))


def run_onnx(path: Path, x: Tensor) -> np.ndarray[Any, Any]:
    session = onnxruntime.InferenceSession(path)
    result: np.ndarray[Any, Any] = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
    return result


def operators(path: Path) -> set[str]:
    return {node.op_type if not node.domain else f"{node.domain}.{node.op_type}" for node in onnx.load(path).graph.node}


def test_onnx_of_a_separated_network(tmp_path: Path) -> None:
    net = convolutional(bias=True)
    x = images(8)
    report = separate_(net, x, budget=0.3)
    assert report.separated
    program = torch.onnx.export(net, (x,), dynamo=True, verbose=False)
    assert program is not None
    program.save(tmp_path / "net.onnx")
    with torch.no_grad():
        np.testing.assert_allclose(run_onnx(tmp_path / "net.onnx", x), net(x).numpy(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_onnx_holds_plain_convolutions(rank: int, tmp_path: Path) -> None:
    make: Any = {1: SeparableConv1d, 2: SeparableConv2d, 3: SeparableConv3d}[rank]
    layer = make(4, 6, 3, 2, "same", groups=2, depth_multiplier=2, pointwise_activation=nn.ReLU).eval()
    x = torch.randn(2, 4, *(8,) * rank)
    path = tmp_path / "layer.onnx"
    program = torch.onnx.export(layer, (x,), dynamo=True, verbose=False, dynamic_shapes=({0: torch.export.Dim("n")},))
    assert program is not None
    program.save(path)
    assert operators(path) <= {"Conv", "Relu", "Pad"}
    again = torch.randn(5, *x.shape[1:])
    np.testing.assert_allclose(run_onnx(path, again), layer(again).detach().numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("dynamo", [False, True])
def test_onnx_of_a_network(dynamo: bool, tmp_path: Path) -> None:
    net = nn.Sequential(
        network(), InvertedResidual(12, 12, squeeze_channels=4), ConvNeXtBlock(12), XceptionBlock(12, 8)
    )
    net.eval()
    path = tmp_path / "network.onnx"
    torch.onnx.export(net, (X,), path, dynamo=dynamo, verbose=False)
    assert not any("depthwise" in name for name in operators(path))
    np.testing.assert_allclose(run_onnx(path, X), net(X).detach().numpy(), rtol=1e-4, atol=1e-5)


def test_autocast() -> None:
    net = network()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = net(X)
    assert out.dtype == torch.bfloat16
    out.float().sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in net.parameters())


def test_functional_call_and_an_ensemble_through_vmap() -> None:
    layers = [SeparableConv2d(3, 5, 3, padding="same", pointwise_activation=nn.ReLU) for _ in range(4)]
    parameters, buffers = torch.func.stack_module_state(layers)

    def call(parameters: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor) -> Any:
        return torch.func.functional_call(layers[0], (parameters, buffers), (x,))

    together = torch.func.vmap(call, in_dims=(0, 0, None))(parameters, buffers, X)
    for layer, out in zip(layers, together, strict=True):
        torch.testing.assert_close(out, layer(X), rtol=1e-4, atol=1e-5)


TRAINING_SCRIPT = """
import torch, torch.distributed as dist
from torch import nn
from depthwise import SeparableConv2d

dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()
torch.manual_seed(0)
net = nn.Sequential(SeparableConv2d(3, 8, 3, padding=1, depthwise_activation=nn.ReLU), SeparableConv2d(8, 2, 3))
x = torch.randn(8, 3, 9, 9)
alone = torch.autograd.grad(net(x).square().mean(), list(net.parameters()))
together = nn.parallel.DistributedDataParallel(net)
together(x.chunk(world)[rank]).square().mean().backward()
for parameter, expected in zip(net.parameters(), alone):
    torch.testing.assert_close(parameter.grad, expected)
print(f"rank {rank} of {world}: gradients agree")
dist.destroy_process_group()
"""


def test_data_parallel_on_two_processes(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(TRAINING_SCRIPT)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    done = subprocess.run(launcher, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    for rank in range(2):
        assert f"rank {rank} of 2: gradients agree" in done.stdout


def test_symbolic_trace_takes_layers_as_nodes() -> None:
    net = nn.Sequential(
        network(), InvertedResidual(12, 12), BlueprintConv2d(12, 4, 3), SeparableConvTranspose2d(4, 4, 2, stride=2)
    )
    net.eval()
    traced = torch.fx.symbolic_trace(net)
    torch.testing.assert_close(traced(X), net(X))
    kinds = {type(module) for name, module in traced.named_modules() if name}
    assert {SeparableConv2d, DepthwiseConv2d, SeparableConvTranspose2d} <= kinds
    with pytest.raises(DepthwiseError, match="symbolic_trace takes a DepthwiseConv2d as one node of a network; trace"):
        torch.fx.symbolic_trace(DepthwiseConv2d(3, 3))


def test_an_export_of_a_causal_layer() -> None:
    layer = DepthwiseConv1d(4, 3, padding="causal").eval()
    x = torch.randn(1, 4, 9)
    torch.testing.assert_close(torch.export.export(layer, (x,)).module()(x), layer(x))


@pytest.mark.parametrize("part", ["depthwise", "pointwise"])
@pytest.mark.parametrize(
    "wrap", [torch.nn.utils.parametrizations.weight_norm, torch.nn.utils.parametrizations.spectral_norm]
)
def test_parametrisations_stand_on_the_parts(wrap: Any, part: str) -> None:
    layer = SeparableConv2d(3, 4, 3)
    with pytest.raises(ValueError, match=r"(does not have a|has no) parameter.* with name 'weight'"):
        wrap(layer)
    wrap(getattr(layer, part))
    layer(X).sum().backward()
    assert all(parameter.grad is not None for parameter in layer.parameters())


def test_a_swapped_average_and_pruning() -> None:
    net = network()
    average = torch.optim.swa_utils.AveragedModel(net)
    average.update_parameters(net)
    torch.testing.assert_close(average.eval()(X), net.eval()(X))
    pointwise: Any = net[0].pointwise
    prune.l1_unstructured(pointwise, "weight", amount=0.5)
    before = net(X)
    prune.remove(pointwise, "weight")
    torch.testing.assert_close(net(X), before)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("training", [False, True])
def test_eager_quantisation_of_torchs_own_convolutions(training: bool) -> None:
    import torch.ao.quantization as ao

    torch.manual_seed(0)
    x = torch.randn(X.shape)
    parts: Any = {"depthwise_norm": nn.BatchNorm2d, "depthwise_activation": nn.ReLU, "pointwise_norm": nn.BatchNorm2d}
    layer = SeparableConv2d(3, 6, 3, bias=False, **parts)
    net: Any = nn.Sequential(ao.QuantStub(), layer, ao.DeQuantStub())
    layer.depthwise = layer.depthwise.to_torch()  # type: ignore[operator]
    net.train(training)
    names = [["1.depthwise", "1.depthwise_norm", "1.depthwise_activation"], ["1.pointwise", "1.pointwise_norm"]]
    expected = net(x)
    if training:
        net.qconfig = ao.get_default_qat_qconfig("x86")
        prepared = ao.prepare_qat(ao.fuse_modules_qat(net, names))
        prepared(x).sum().backward()
        prepared.eval()
        # The ranges that it observes move by a hundredth of the way at each call.
        for _ in range(500):
            expected = prepared(x)
    else:
        net.qconfig = ao.get_default_qconfig("x86")
        prepared = ao.prepare(ao.fuse_modules(net, names))
        prepared(x)
    quantised = ao.convert(prepared)
    assert type(quantised[1].depthwise).__module__.startswith("torch.ao.nn")
    assert float((quantised(x) - expected).abs().max()) < 0.1 * float(expected.abs().max())


@pytest.mark.filterwarnings("ignore")
def test_fx_quantisation_leaves_our_layers_as_they_are() -> None:
    from torch.ao.quantization import get_default_qconfig_mapping, quantize_fx

    net = nn.Sequential(nn.Conv2d(3, 4, 1), SeparableConv2d(4, 6, 3)).eval()
    prepared = quantize_fx.prepare_fx(net, get_default_qconfig_mapping("x86"), (X,))
    prepared(X)
    quantised = quantize_fx.convert_fx(prepared)
    assert any(type(module) is SeparableConv2d for module in quantised.modules())
    assert float((quantised(X) - net(X)).abs().max()) < 0.1


def profiled(call: Callable[[], Any]) -> list[str]:
    """What our kernels are called in the profiler's table."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as recorded:
        call()
    return [row.key for row in recorded.key_averages() if row.key.startswith("depthwise: ")]


@pytest.mark.skipif(machine.host() is None, reason="no generator serves this machine")
def test_the_profiler_names_our_kernels() -> None:
    planes = torch.randn(2, 16, 9, 9)
    x = planes.contiguous(memory_format=torch.channels_last)
    parts: Any = {"depthwise_norm": nn.BatchNorm2d, "depthwise_activation": nn.ReLU}
    layer = SeparableConv2d(16, 16, 3, padding=1, **parts)
    layer.eval()
    (row,) = model_report(layer, (16, 9, 9))
    assert row.kernel
    with torch.no_grad():
        layer(planes)
        # The second call goes the short way.
        assert profiled(lambda: layer(planes)) == [f"depthwise: {row.kernel}"]
    layer.train()
    rows = profiled(lambda: layer(x).square().sum().backward())
    title = "depthwise: depthwise 3x3 16 to 16, with batch norms"
    assert {title, f"{title}, backward"} < {*rows}
    for kernel in ("pw_f32_n16k16", "pw_weight_gradient_f32_n16k16"):
        assert any(kernel in row for row in rows), rows
    fast = optimize(nn.Sequential(*(SeparableConv2d(16, 16, 3, padding=1, **parts) for _ in range(5))).eval(), x)
    (title,) = profiled(lambda: fast(x))
    assert re.fullmatch(r"depthwise: \d+ stages", title)
