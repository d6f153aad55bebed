"""The CPU backend behind the public doors: what it refuses, gradients, norms, transforms, layouts, failures."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._functorch._aot_autograd.utils import make_boxed_func
from torch._functorch.aot_autograd import aot_module_simplified
from torch.utils.flop_counter import FlopCounterMode

import depthwise
from depthwise import DepthwiseConv2d, DepthwiseError, SeparableConv1d, SeparableConv2d, SeparableConv3d, functional
from depthwise.backends import CPU, EAGER, Choice, choose, observed_choices
from depthwise.backends.base import Norm
from depthwise.backends.cpu import launch, machine, machine_refusal
from depthwise.backends.cpu.emit.activations import EMITTERS
from depthwise.backends.cpu.run import jit
from depthwise.backends.problem import Problem
from depthwise.doctor import machine_report, model_report
from depthwise.geometry import geometry
from tests.support.cases import LAYOUTS

pytestmark = pytest.mark.skipif(machine.host() is None, reason="no generator serves this machine")

X, WEIGHT, POINTWISE = torch.randn(2, 8, 9, 9), torch.randn(8, 1, 3, 3), torch.randn(6, 8, 1, 1)
NO_LLVMLITE = "llvmlite cannot be imported: No module named 'llvmlite'"
NO_MACHINE = "this CPU has neither AVX2 with FMA, nor AVX-512, nor NEON"


def call(dtype: torch.dtype = torch.float32, device: str = "cpu") -> Problem:
    return Problem("depthwise", geometry((8, 9, 9), 3), dtype, device)


def chosen(function: Any, *arguments: Any, **options: Any) -> list[Choice]:
    """The choices made inside one call, each once."""
    choices: list[Choice] = []
    with observed_choices(choices.append):
        function(*arguments, **options)
    return list(dict.fromkeys(choices))


class TestRefusals:
    @pytest.fixture(autouse=True)
    def _asked_anew(self) -> Iterator[None]:
        machine_refusal.cache_clear()
        depthwise.repack_()
        yield
        machine_refusal.cache_clear()

    def test_the_device(self) -> None:
        assert CPU.refusal(call(device="meta")) == "the tensors are on meta"
        x, weight = X.to("meta"), WEIGHT.to("meta")
        assert functional.depthwise_conv2d(x, weight).shape == (2, 8, 7, 7)
        with (
            depthwise.backend("cpu"),
            pytest.raises(DepthwiseError, match="'cpu' was asked for and refuses: the tensors are on meta; ask for"),
        ):
            functional.depthwise_conv2d(x, weight)

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
    def test_other_dtypes_run_eager(self, dtype: torch.dtype) -> None:
        why = f"{dtype} is not supported, only torch.float32"
        assert CPU.refusal(call(dtype)) == why
        x, weight, pointwise = X.to(dtype), WEIGHT.to(dtype), POINTWISE.to(dtype)
        (choice,) = chosen(functional.separable_conv2d, x, weight, pointwise)
        assert (choice.backend, choice.reason) == (EAGER, f"cpu refuses: {why}")
        out = functional.separable_conv2d(x, weight, pointwise)
        assert torch.equal(out, F.conv2d(F.conv2d(x, weight, groups=8), pointwise))
        with depthwise.backend("cpu"), pytest.raises(DepthwiseError, match=f"refuses: {why}; ask for another or none"):
            functional.separable_conv2d(x, weight, pointwise)

    def test_a_default_dtype_does_no_harm(self) -> None:
        expected = functional.separable_conv2d(X, WEIGHT, POINTWISE)
        torch.set_default_dtype(torch.float64)
        try:
            depthwise.repack_()
            out = functional.separable_conv2d(X, WEIGHT, POINTWISE)
            double = functional.separable_conv2d(X.double(), WEIGHT.double(), POINTWISE.double())
            empty = functional.depthwise_conv2d(X[:0], WEIGHT)
        finally:
            torch.set_default_dtype(torch.float32)
        assert (out.dtype, double.dtype, empty.dtype) == (torch.float32, torch.float64, torch.float32)
        assert torch.equal(out, expected)

    def test_a_default_device_does_no_harm(self) -> None:
        bias = torch.randn(6)
        expected = functional.separable_conv2d(X, WEIGHT, POINTWISE, None, bias)
        last = X.to(memory_format=torch.channels_last)
        depthwise.repack_()
        torch.set_default_device("meta")
        try:
            outs = [functional.separable_conv2d(x, WEIGHT, POINTWISE, None, bias) for x in (X, last, X)]
            empty = functional.depthwise_conv2d(X[:0], WEIGHT)
        finally:
            torch.set_default_device(None)
        assert empty.device.type == "cpu"
        for out in outs:
            assert out.device.type == "cpu"
            torch.testing.assert_close(out, expected)

    def test_without_llvmlite(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in [name for name in sys.modules if name.partition(".")[0] == "llvmlite"]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setitem(sys.modules, "llvmlite", None)
        monkeypatch.delitem(sys.modules, "depthwise.backends.cpu.machine")
        # What knows llvmlite's version.
        monkeypatch.delitem(sys.modules, "depthwise.backends.cpu.disk.store")
        monkeypatch.delattr("depthwise.backends.cpu.disk.store")
        why = CPU.refusal(call())
        assert why is not None
        assert why.startswith("llvmlite cannot be imported: ")
        assert choose(call()).backend is EAGER
        report = {row.name: (row.runs, row.reason) for row in machine_report().backends}
        assert report["cpu"] == (False, why)
        with depthwise.backend("cpu"), pytest.raises(DepthwiseError, match="refuses: llvmlite cannot be imported"):
            functional.depthwise_conv2d(X, WEIGHT)

    @pytest.mark.parametrize("absent", ["llvmlite", "llvmlite.binding"])
    def test_a_process_without_llvmlite(self, absent: str, tmp_path: Path) -> None:
        script = (
            f"import sys; sys.modules['{absent}'] = None\n"
            "import torch, depthwise\n"
            "layer = depthwise.SeparableConv2d(3, 8, 3).eval()\n"
            "print(layer(torch.ones(1, 3, 9, 9)).shape)\n"
            "print(depthwise.backends.CPU.refusal(depthwise.doctor.EXAMPLE))\n"
        )
        script = script.replace("import torch, depthwise\n", "import torch, depthwise, depthwise.doctor\n")
        # With nothing on disk LLVM itself is asked.
        empty = os.environ | {"DEPTHWISE_CACHE_DIR": str(tmp_path / "kernels")}
        command = [sys.executable, "-c", script]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, env=empty)
        assert done.returncode == 0, done.stderr
        assert "torch.Size([1, 8, 7, 7])\nllvmlite cannot be imported: " in done.stdout

    def test_an_unsupported_machine(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(machine, "host", lambda: None)
        assert CPU.refusal(call()) == NO_MACHINE
        assert torch.equal(functional.depthwise_conv2d(X, WEIGHT), F.conv2d(X, WEIGHT, groups=8))
        assert f"cpu      refuses: {NO_MACHINE}" in str(machine_report())
        with depthwise.backend("cpu"), pytest.raises(DepthwiseError, match=f"refuses: {NO_MACHINE}; ask for another"):
            functional.depthwise_conv2d(X, WEIGHT)

    def test_no_machine_at_the_launch_itself(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(launch, "host", lambda: None)
        with pytest.raises(RuntimeError, match="no generator serves this CPU"):
            launch.machine()

    def test_an_activation_without_an_emitter(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delitem(EMITTERS, "gelu")
        g = geometry((8, 9, 9), 3, out_channels=8)
        problem = Problem("separable", g, torch.float32, "cpu", activations=(("relu", 0.0), ("gelu", 0.0)))
        assert CPU.refusal(problem) == "no code is generated for gelu"
        arguments = X, torch.randn(8, 1, 3, 3), torch.randn(5, 8, 1, 1)
        y = functional.separable_conv2d(*arguments)
        torch.testing.assert_close(functional.separable_conv2d(*arguments, pointwise_activation="gelu"), F.gelu(y))
        with depthwise.backend("cpu"), pytest.raises(DepthwiseError, match="refuses: no code is generated for gelu"):
            functional.separable_conv2d(*arguments, pointwise_activation="gelu")


WINDOWS: list[dict[str, Any]] = [
    {},
    {"padding": ((2, 0), (0, 1))},
    {"stride": 2, "padding": "same"},
    {"stride": (2, 3), "padding": 1, "dilation": (1, 2)},
]


@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
class TestGradients:
    def test_depthwise(self, window: dict[str, Any], layout: str) -> None:
        tensors: list[Any] = [LAYOUTS[layout](X), torch.randn(16, 1, 3, 3), torch.randn(16)]

        def gradients() -> list[Tensor]:
            inputs: list[Any] = [tensor.detach().requires_grad_() for tensor in tensors]
            out = functional.depthwise_conv2d(*inputs, **window)
            return [out, *torch.autograd.grad(out.square().sum(), inputs)]

        check(gradients)

    def test_separable(self, window: dict[str, Any], layout: str) -> None:
        tensors: list[Any] = [LAYOUTS[layout](X), WEIGHT, POINTWISE, torch.randn(8), torch.randn(6)]
        residual = torch.randn_like(functional.separable_conv2d(*tensors, **window))

        def gradients() -> list[Tensor]:
            *inputs, added = (tensor.detach().requires_grad_() for tensor in (*tensors, residual))
            out = functional.separable_conv2d(
                *inputs, **window, residual=added, depthwise_activation="silu", pointwise_activation="relu6"
            )
            return [out, *torch.autograd.grad(out.square().sum(), [*inputs, added])]

        check(gradients)

    def test_second_order(self, window: dict[str, Any], layout: str) -> None:
        tensors: list[Any] = [LAYOUTS[layout](X), WEIGHT, POINTWISE]

        def gradients() -> list[Tensor]:
            inputs: list[Any] = [tensor.detach().requires_grad_() for tensor in tensors]
            out = functional.separable_conv2d(*inputs, **window, depthwise_activation="silu")
            first = torch.autograd.grad(out.square().sum(), inputs, create_graph=True)
            return list(torch.autograd.grad(torch.stack([g.square().sum() for g in first]).sum(), inputs))

        check(gradients)


def check(gradients: Any) -> None:
    ours = gradients()
    with depthwise.backend("eager"):
        theirs = gradients()
    for one, other in zip(ours, theirs, strict=True):
        scale = float(other.detach().abs().max())
        torch.testing.assert_close(one / scale, other / scale, rtol=1e-4, atol=1e-5)


class TestUnfusedWhereAGradientIsNeeded:
    def test_the_reason_says_so(self) -> None:
        layer = SeparableConv2d(8, 6, 3)
        (with_gradient,) = chosen(layer, X)
        with torch.no_grad():
            (without,) = chosen(layer, X)
        assert with_gradient.backend is without.backend is CPU
        assert str(with_gradient.kernel).startswith("dw_f32_k3x3")
        assert str(with_gradient.kernel).endswith("and the other parts one by one: a gradient is needed")
        assert " + pw_f32_n6k8" in str(without.kernel)
        assert "gradient" not in str(without.kernel)

    def test_doctor_speaks_of_the_call_without_gradients(self) -> None:
        (row,) = model_report(SeparableConv2d(8, 6, 3).eval(), (8, 9, 9))
        assert " + pw_f32_n6k8" in str(row.kernel)

    def test_a_copy_is_told(self) -> None:
        x = LAYOUTS["strided"](X)
        (choice,) = chosen(functional.depthwise_conv2d, x, WEIGHT)
        why = "after a copy: neither channels nor columns lie side by side in strides (1296, 162, 18, 2)"
        assert str(choice.kernel).endswith(why)

    def test_what_runs(self, monkeypatch: pytest.MonkeyPatch) -> None:
        programs: list[str] = []
        original = launch.Launch.run

        def recording(self: Any, *arguments: Any) -> Tensor | None:
            programs.append(" + ".join(kernel.name.partition("_f32")[0] for kernel in self.decision.program.kernels))
            return original(self, *arguments)

        monkeypatch.setattr(launch.Launch, "run", recording)
        layer = SeparableConv2d(8, 6, 3)
        layer(X).sum().backward()
        assert programs == ["dw_fresh_weights + dw"]
        with torch.no_grad():
            layer(X)
        assert programs == ["dw_fresh_weights + dw", "dw + pw"]


NORMS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
LAYERS = {1: SeparableConv1d, 2: SeparableConv2d, 3: SeparableConv3d}


def normed(rank: int = 2, *, affine: bool = True) -> Any:
    def norm(channels: int) -> Any:
        made: Any = NORMS[rank](channels, affine=affine)
        for tensor in (made.running_mean, made.bias, made.weight):
            if tensor is not None:
                nn.init.normal_(tensor)
        nn.init.uniform_(made.running_var, 0.1, 4)
        return made

    options: Any = {"depthwise_norm": norm, "depthwise_activation": nn.ReLU6, "pointwise_norm": norm}
    return LAYERS[rank](8, 6, 3, 2, "same", **options, pointwise_activation=nn.Hardswish).eval()


def one_by_one(layer: Any, x: Tensor) -> Tensor:
    for _, module in layer.present_parts():
        x = module(x)
    return x


class TestNorms:
    @pytest.mark.parametrize("affine", [True, False])
    @pytest.mark.parametrize("rank", [1, 2, 3])
    def test_one_call_equals_the_parts(self, rank: int, affine: bool) -> None:
        layer, x = normed(rank, affine=affine), torch.randn(2, 8, *(9,) * rank)
        with torch.no_grad():
            (choice,) = chosen(layer, x)
            assert choice.problem.operation == "separable"
            assert "fused_f32" in str(choice.kernel) or " + pw_f32" in str(choice.kernel)
            exact = one_by_one(normed_like(layer), x.double())
            torch.testing.assert_close(layer(x).double(), exact, rtol=1e-5, atol=1e-5)

    def test_training_mode_runs_the_parts(self) -> None:
        layer = normed().train()
        with torch.no_grad():
            assert [choice.problem.operation for choice in chosen(layer, X)] == ["depthwise", "pointwise"]

    def test_norms_fold_in_float64(self) -> None:
        """A large mean that nearly cancels: rounded before it is folded, it would be off by many times this bound."""
        channels, mean, var, eps = 8, torch.full((8,), 1e4), torch.full((8,), 1e-4), 1e-5
        weight, bias = torch.full((8,), 0.3), torch.full((8,), 0.7)
        layer: Any = SeparableConv2d(channels, 8, 1, depthwise_norm=nn.BatchNorm2d, bias=False).eval()
        nn.init.ones_(layer.depthwise.weight)
        nn.init.dirac_(layer.pointwise.weight)
        norm = layer.depthwise_norm
        with torch.no_grad():
            for tensor, value in ((norm.running_mean, mean), (norm.running_var, var), (norm.weight, weight)):
                tensor.copy_(value)
            norm.bias.copy_(bias)
            out = layer(torch.zeros(1, channels, 3, 3))
        scale = weight.double() / (var.double() + eps).sqrt()
        exact = bias.double() - mean.double() * scale
        assert bool(((out[0, :, 0, 0].double() - exact).abs() <= 2 * torch.finfo().eps * exact.abs()).all())

    def test_hooks_on_children_still_see(self) -> None:
        layer = normed()
        with torch.no_grad():
            whole = layer(X)
            seen: list[Tensor] = []
            handle = layer.depthwise_norm.register_forward_hook(lambda _, __, out: seen.append(out))
            parts = layer(X)
            handle.remove()
            layer(X)
        assert [tuple(out.shape) for out in seen] == [(2, 8, 5, 5)]
        torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-4)

    def test_gradients_through_folded_norms(self) -> None:
        layer = normed()

        def gradients() -> list[Tensor]:
            x = X.detach().requires_grad_()
            out = layer(x)
            return [out, *torch.autograd.grad(out.square().sum(), [x, *layer.parameters()])]

        check(gradients)

    def test_a_norm_that_normalises_by_the_batch_alone(self) -> None:
        layer = SeparableConv2d(8, 6, 3, depthwise_norm=lambda c: nn.BatchNorm2d(c, track_running_stats=False)).eval()
        with torch.no_grad():
            torch.testing.assert_close(layer(X), one_by_one(layer, X))

    def test_a_norm_is_as_torch_has_it(self) -> None:
        norm = Norm(torch.ones(8), torch.ones(8), None, None, 1e-5)
        expected = F.batch_norm(X, norm.running_mean, norm.running_var, eps=norm.eps)
        torch.testing.assert_close((X - 1) / math.sqrt(1 + 1e-5), expected)


def normed_like(layer: Any) -> Any:
    """A float64 copy: eager runs it."""
    rank = layer.rank
    copied = normed(rank, affine=layer.depthwise_norm.affine).double()
    copied.load_state_dict(layer.state_dict())
    return copied


class TestTorch:
    def test_autocast(self) -> None:
        expected = functional.separable_conv2d(X, WEIGHT, POINTWISE)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = functional.separable_conv2d(X, WEIGHT, POINTWISE)
        assert out.dtype == torch.bfloat16
        torch.testing.assert_close(out.float(), expected, rtol=0.05, atol=0.3)
        assert torch.equal(functional.separable_conv2d(X, WEIGHT, POINTWISE), expected)

    def test_vmap(self) -> None:
        xs = torch.randn(3, 2, 8, 9, 9)
        layer = normed()
        with torch.no_grad():
            layer(xs[0])
            together = torch.func.vmap(layer)(xs)
            for x, out in zip(xs, together, strict=True):
                torch.testing.assert_close(out, layer(x), rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("requires_grad", [False, True])
    def test_flops_are_those_of_eager(self, requires_grad: bool) -> None:
        layer = normed().requires_grad_(requires_grad)

        def flops() -> int:
            with FlopCounterMode(display=False) as counter:
                out = layer(X)
                if requires_grad:
                    out.sum().backward()
            return int(counter.get_total_flops())

        ours = flops()
        with depthwise.backend("eager"):
            assert ours == flops() > 0

    # torch's own decompositions for forward mode are scripted.
    @pytest.mark.filterwarnings("ignore::DeprecationWarning")
    def test_forward_mode(self) -> None:
        def energy(weight: Tensor) -> Tensor:
            return functional.depthwise_conv2d(X, weight, padding=1).pow(3).sum()

        direction = torch.randn_like(WEIGHT)
        tangent: Any = torch.func.jvp(energy, (WEIGHT,), (direction,))[1]
        torch.testing.assert_close(tangent, (torch.func.grad(energy)(WEIGHT) * direction).sum(), rtol=1e-3, atol=1e-2)

    @pytest.mark.parametrize("rank", [1, 2, 3])
    def test_compiled_in_eval_mode_it_is_one_node(self, rank: int) -> None:
        layer, x = normed(rank), torch.randn(2, 8, *(9,) * rank)
        graphs: list[str] = []
        with torch.no_grad():
            compiled: Any = torch.compile(layer, backend=lowering_to(graphs), fullgraph=True)
            torch.testing.assert_close(compiled(x), layer(x))
        (graph,) = graphs
        assert graph.count("depthwise.cpu_separable_conv") == 1
        assert "aten." not in graph

    def test_compiled_with_gradients_each_part_is_a_node(self) -> None:
        graphs: list[str] = []
        layer = SeparableConv2d(8, 6, 3, padding=1, depthwise_activation=nn.ReLU)
        compiled = torch.compile(layer, backend=lowering_to(graphs), fullgraph=True)
        torch.testing.assert_close(compiled(X), layer(X), rtol=1e-4, atol=1e-4)
        x = X.clone().requires_grad_()
        found = torch.autograd.grad(compiled(x).square().sum(), [x, *layer.parameters()])
        for one, other in zip(
            found, torch.autograd.grad(layer(x).square().sum(), [x, *layer.parameters()]), strict=True
        ):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
        for node in ("cpu_depthwise_conv", "cpu_depthwise_conv_backward"):
            assert any(f"depthwise.{node}.default" in graph for graph in graphs)
        assert not any("depthwise.cpu_separable_conv" in graph for graph in graphs)

    def test_export_holds_plain_convolutions(self) -> None:
        with torch.no_grad():
            program = torch.export.export(SeparableConv2d(8, 6, 3).eval(), (X,))
        targets = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
        assert targets == {"aten.conv2d.default"}

    @pytest.mark.filterwarnings("ignore::DeprecationWarning")
    @pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
    def test_a_jit_trace_holds_plain_convolutions(self) -> None:
        layer = SeparableConv2d(8, 6, 3).eval()
        with torch.no_grad():
            trace: Any = torch.jit.trace
            traced = trace(layer, (X,))
            torch.testing.assert_close(traced(X), layer(X), rtol=1e-4, atol=1e-4)
        assert "depthwise::" not in str(traced.inlined_graph)


def lowering_to(graphs: list[str]) -> Any:
    """A compiler that writes down what a graph is lowered to, and runs it as it is."""

    def lowered(gm: torch.fx.GraphModule, example_inputs: object) -> Any:
        calls = [str(node.target) for node in gm.graph.nodes if node.op == "call_function"]
        graphs.append("\n".join(call for call in calls if "getitem" not in call))
        return make_boxed_func(gm.forward)

    def compiler(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Any:
        return aot_module_simplified(graph, inputs, fw_compiler=lowered)

    return compiler


def same_format(ours: Tensor, theirs: Tensor) -> bool:
    last = torch.channels_last if ours.dim() == 4 else torch.channels_last_3d
    formats = [torch.contiguous_format, last] if ours.dim() > 3 else [torch.contiguous_format]
    return all(ours.is_contiguous(memory_format=f) == theirs.is_contiguous(memory_format=f) for f in formats)


class TestLayouts:
    @pytest.mark.parametrize("layout", LAYOUTS)
    @pytest.mark.parametrize(
        "size",
        [(2, 8, 9, 9), (1, 8, 9, 9), (2, 1, 9, 9), (2, 8, 9, 3), (1, 8, 3, 3), (2, 8, 9), (2, 8, 5, 5, 5)],
        ids=str,
    )
    def test_the_result_has_the_format_of_torchs(self, layout: str, size: tuple[int, ...]) -> None:
        rank, channels = len(size) - 2, size[1]
        x = LAYOUTS[layout](torch.randn(size))
        weight, pointwise = torch.randn(channels, 1, *(3,) * rank), torch.randn(6, channels, *(1,) * rank)
        conv: Any = (F.conv1d, F.conv2d, F.conv3d)[rank - 1]
        depthwise_conv: Any = (
            functional.depthwise_conv1d,
            functional.depthwise_conv2d,
            functional.depthwise_conv3d,
        )[rank - 1]
        separable_conv: Any = (
            functional.separable_conv1d,
            functional.separable_conv2d,
            functional.separable_conv3d,
        )[rank - 1]
        for padding in (0, 1):
            theirs = conv(x, weight, padding=padding, groups=channels)
            ours = depthwise_conv(x, weight, padding=padding)
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
            assert same_format(ours, theirs), (padding, ours.stride(), theirs.stride())
            last = conv(theirs, pointwise)
            ours = separable_conv(x, weight, pointwise, padding=padding)
            torch.testing.assert_close(ours, last, rtol=1e-4, atol=1e-4)
            # On one thread torch's small 1x1x1 convolutions forget the format of what they read.
            assert same_format(ours, last), (padding, ours.stride(), last.stride())

    @pytest.mark.parametrize("layout", LAYOUTS)
    @pytest.mark.parametrize("residual_layout", LAYOUTS)
    def test_a_residual_in_any_layout(self, layout: str, residual_layout: str) -> None:
        x, residual = LAYOUTS[layout](X), LAYOUTS[residual_layout](torch.randn(2, 6, 9, 9))
        out = functional.separable_conv2d(x, WEIGHT, POINTWISE, padding=1, residual=residual)
        expected = functional.separable_conv2d(x, WEIGHT, POINTWISE, padding=1) + residual
        torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-4)

    def test_unbatched(self) -> None:
        out = functional.separable_conv2d(X[0], WEIGHT, POINTWISE, residual=torch.ones(6, 7, 7))
        assert out.shape == (6, 7, 7)
        torch.testing.assert_close(out, functional.separable_conv2d(X, WEIGHT, POINTWISE)[0] + 1)
        assert functional.depthwise_conv2d(X[0], WEIGHT).shape == (8, 7, 7)

    @pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
    def test_no_batch(self, memory_format: torch.memory_format) -> None:
        x = X[:0].contiguous(memory_format=memory_format)
        for _ in range(2):
            assert functional.depthwise_conv2d(x, WEIGHT).shape == (0, 8, 7, 7)
            assert functional.separable_conv2d(x, WEIGHT, POINTWISE).shape == (0, 6, 7, 7)
        weight = WEIGHT.clone().requires_grad_()
        functional.separable_conv2d(x, weight, POINTWISE).sum().backward()
        assert weight.grad is not None
        assert weight.grad.eq(0).all()

    def test_inputs_are_left_as_they_are(self) -> None:
        tensors: list[Any] = [X.clone(), WEIGHT.clone(), POINTWISE.clone(), torch.zeros(2, 6, 7, 7)]
        functional.separable_conv2d(*tensors[:3], residual=tensors[3], pointwise_activation="relu")
        for tensor, expected in zip(tensors, (X, WEIGHT, POINTWISE, torch.zeros(2, 6, 7, 7)), strict=True):
            assert torch.equal(tensor, expected)
            assert tensor._version == 0


class TestAFailingCompilation:
    @pytest.fixture(autouse=True)
    def _failing(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        def refuse(*_: object) -> jit.Code:
            raise jit.CompilationError("planted")

        monkeypatch.setattr(jit, "load", refuse)
        monkeypatch.setattr(launch, "_failed", set())
        depthwise.repack_()
        yield
        depthwise.repack_()

    def test_it_warns_once_and_eager_runs(self) -> None:
        weight, pointwise = torch.randn(8, 1, 2, 5), torch.randn(7, 8, 1, 1)
        with pytest.warns(UserWarning, match="pw_f32.*could not be compiled, PyTorch's operators run instead: planted"):
            out = functional.separable_conv2d(X, weight, pointwise)
        assert torch.equal(out, F.conv2d(F.conv2d(X, weight, groups=8), pointwise))
        assert torch.equal(functional.separable_conv2d(X, weight, pointwise), out)
        assert functional.separable_conv2d(X[:1], weight, pointwise).shape == (1, 7, 8, 5)

    def test_gradients_too(self) -> None:
        layer = DepthwiseConv2d(8, (2, 5))
        with pytest.warns(UserWarning, match="dw_.*could not be compiled"):
            out = layer(X)
        torch.testing.assert_close(out, F.conv2d(X, layer.weight, layer.bias, groups=8))
        with pytest.warns(UserWarning, match="dw_weight_gradient.*could not be compiled"):
            out.sum().backward()
        expected = torch.autograd.grad(F.conv2d(X, layer.weight, layer.bias, groups=8).sum(), layer.weight)[0]
        torch.testing.assert_close(layer.weight.grad, expected)

    def test_other_errors_are_not_swallowed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*_: object) -> jit.Code:
            raise ZeroDivisionError

        monkeypatch.setattr(jit, "load", fail)
        with pytest.raises(ZeroDivisionError):
            functional.depthwise_conv2d(X, torch.randn(8, 1, 2, 5))
