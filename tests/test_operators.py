"""The operators as torch sees them: fakes, transforms, compilation, export, autocast, FLOPs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from depthwise import functional
from depthwise.backends import Choice, observed_choices
from depthwise.backends.cpu import machine

needs_machine = pytest.mark.skipif(machine.host() is None, reason="no generator serves this machine")
W, P, B = torch.randn(8, 1, 3, 3), torch.randn(6, 8, 1, 1), torch.randn(6)
OPERATORS = torch.ops.depthwise


def separable(x: Tensor, **window: Any) -> Tensor:
    return functional.separable_conv2d(x, W, P, pointwise_bias=B, pointwise_activation="relu6", **window)


@pytest.mark.parametrize("requires_grad", [False, True])
def test_opcheck(requires_grad: bool) -> None:
    x = torch.randn(2, 4, 9, 9, requires_grad=requires_grad)
    w, p = (t.clone().requires_grad_(requires_grad) for t in (W, P))
    window = ([2, 2], [0, 1, 1, 0], [1, 1])
    torch.library.opcheck(OPERATORS.depthwise_conv.default, (x, w, None, *window))
    rest = (None, B, None, *window, 1, "elu", 0.5, None, 0.0)
    torch.library.opcheck(OPERATORS.separable_conv.default, (x, w, p, *rest))


WINDOWS = [([1, 1], [0, 0, 0, 0], [1, 1]), ([2, 2], [0, 1, 1, 0], [1, 1]), ([1, 2], [2, 2, 1, 1], [2, 1])]
MEMORY_FORMATS = [torch.contiguous_format, torch.channels_last]


def norm(channels: int) -> list[Tensor]:
    return [torch.randn(channels), torch.rand(channels) + 0.1, torch.randn(channels), torch.randn(channels)]


@needs_machine
@pytest.mark.parametrize("memory_format", MEMORY_FORMATS)
@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_opcheck_of_the_cpu_operators(window: Any, memory_format: torch.memory_format) -> None:
    x, residual = torch.randn(2, 4, 9, 9).contiguous(memory_format=memory_format), None
    torch.library.opcheck(OPERATORS.cpu_depthwise_conv.default, (x, W, torch.randn(8), *window))
    rest = (None, B, residual, *window, 1, "elu", 0.5, None, 0.0)
    torch.library.opcheck(OPERATORS.cpu_separable_conv.default, (x, W, P, *rest))
    norms = (norm(8), 1e-5, norm(6)[:2], 1e-3)
    torch.library.opcheck(OPERATORS.cpu_separable_conv.default, (x, W, P, *rest, *norms))


@needs_machine
@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_opcheck_of_the_cpu_operators_gradients(window: Any) -> None:
    x, w, p, b = (t.clone().requires_grad_() for t in (torch.randn(2, 4, 9, 9), W, P, torch.randn(8)))
    torch.library.opcheck(OPERATORS.cpu_depthwise_conv.default, (x, w, b, *window))
    rest = (b, None, None, *window, 1, "silu", 0.0, None, 0.0)
    torch.library.opcheck(OPERATORS.cpu_separable_conv.default, (x, w, p, *rest))


@needs_machine
@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_the_cpu_operators_gradients_are_those_of_the_parts(window: Any) -> None:
    tensors = [torch.randn(2, 4, 9, 9), W, P, torch.randn(8), B]
    rest = (*window, 1, "silu", 0.0, "leaky_relu", 0.1)

    def gradients(operator: Any, *, autocast: bool = False) -> tuple[Tensor, ...]:
        x, w, p, b, c = inputs = [tensor.clone().requires_grad_() for tensor in tensors]
        loss = operator(x, w, p, b, c, None, *rest).square().sum()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            return torch.autograd.grad(loss, inputs)

    expected = gradients(OPERATORS.separable_conv)
    for autocast in (False, True):
        # The precision is that of the forward pass.
        found = gradients(OPERATORS.cpu_separable_conv, autocast=autocast)
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-3)


@needs_machine
@pytest.mark.parametrize("memory_format", MEMORY_FORMATS)
def test_fakes_have_the_strides_of_what_runs(memory_format: torch.memory_format) -> None:
    window = ([2, 1], [0, 1, 1, 0], [1, 1])
    for size in ((2, 4, 9, 9), (1, 4, 9, 9), (2, 4, 3, 3), (0, 4, 9, 9)):
        x = torch.randn(size).contiguous(memory_format=memory_format)
        real = OPERATORS.cpu_depthwise_conv(x, W, None, *window)
        with FakeTensorMode() as mode:
            fake = OPERATORS.cpu_depthwise_conv(mode.from_tensor(x), mode.from_tensor(W), None, *window)
        assert (fake.shape, fake.stride(), fake.dtype) == (real.shape, real.stride(), real.dtype)


@needs_machine
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_one_compiled_graph_serves_every_size(layout: torch.memory_format) -> None:
    torch._dynamo.reset()
    compiled: Any = torch.compile(separable, backend="aot_eager", fullgraph=True, dynamic=True)
    with torch.no_grad(), torch._dynamo.config.patch(error_on_recompile=True):
        for size in (9, 10, 13, 32):
            x = torch.randn(2, 4, size, size).contiguous(memory_format=layout)
            out, expected = compiled(x, padding=1), separable(x, padding=1)
            assert torch.equal(out, expected)
            assert out.stride() == expected.stride()


@pytest.mark.parametrize("dynamic", [False, True])
def test_compile_in_one_graph(dynamic: bool) -> None:
    compiled: Any = torch.compile(separable, backend="aot_eager", fullgraph=True, dynamic=dynamic)
    for size in (9, 10, 13):
        x = torch.randn(2, 4, size, size)
        assert torch.equal(compiled(x, stride=2, padding="same"), separable(x, stride=2, padding="same"))


def test_a_dynamic_graph_is_not_compiled_again_for_another_size() -> None:
    graphs: list[torch.fx.GraphModule] = []

    def count_graphs(graph: torch.fx.GraphModule, _: object) -> Any:
        graphs.append(graph)
        return graph

    torch._dynamo.reset()
    compiled: Any = torch.compile(separable, backend=count_graphs, fullgraph=True, dynamic=True)
    for size in (9, 10, 13, 32):
        compiled(torch.randn(2, 4, size, size), stride=2, padding="same")
    assert len(graphs) == 1
    assert "depthwise.separable_conv" in str(graphs[0].graph)


@pytest.mark.parametrize("strict", [False, True])
def test_export_keeps_the_sizes_open(strict: bool) -> None:
    class Model(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return separable(x, stride=2, padding="same")

    sizes = {0: torch.export.Dim("n"), 2: torch.export.Dim("h", min=4), 3: torch.export.Dim("w", min=4)}
    program = torch.export.export(Model(), (torch.randn(2, 4, 9, 9),), dynamic_shapes={"x": sizes}, strict=strict)
    called = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert "aten.conv2d.default" in called
    assert not any("depthwise" in target for target in called)
    x = torch.randn(3, 4, 12, 17)
    torch.testing.assert_close(program.module()(x), separable(x, stride=2, padding="same"))


def test_vmap_over_inputs_and_over_weights() -> None:
    xs, ws = torch.randn(5, 2, 4, 9, 9), torch.randn(5, 8, 1, 3, 3)
    together = torch.func.vmap(lambda x, w: functional.separable_conv2d(x, w, P, padding=1))(xs, ws)
    for x, w, out in zip(xs, ws, together, strict=True):
        torch.testing.assert_close(out, functional.separable_conv2d(x, w, P, padding=1))


def test_vmap_over_the_operators_themselves() -> None:
    xs = torch.randn(5, 2, 4, 9, 9)
    window = ([1, 1], [1, 1, 1, 1], [1, 1])
    together = torch.func.vmap(lambda x: OPERATORS.depthwise_conv(x, W, None, *window))(xs)
    torch.testing.assert_close(together[3], functional.depthwise_conv2d(xs[3], W, padding=1))


def test_per_sample_gradients() -> None:
    def loss(w: Tensor, x: Tensor) -> Tensor:
        return functional.depthwise_conv2d(x, w).square().sum()

    xs = torch.randn(3, 4, 9, 9)
    per_sample = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(W, xs)
    for x, gradient in zip(xs, per_sample, strict=True):
        torch.testing.assert_close(gradient, torch.func.grad(loss)(W, x))


def test_autocast() -> None:
    x = torch.randn(2, 4, 9, 9)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert separable(x).dtype == torch.bfloat16
        assert separable(x.bfloat16()).dtype == torch.bfloat16
    assert separable(x).dtype == torch.float32


def test_a_backend_is_asked_for_the_dtype_of_autocast() -> None:
    choices: list[Choice] = []
    x = torch.randn(2, 4, 9, 9)
    with observed_choices(choices.append), torch.autocast("cpu", dtype=torch.bfloat16):
        separable(x)
        functional.depthwise_conv2d(x.double(), W.double())
    assert [choice.problem.dtype for choice in choices] == [torch.bfloat16, torch.float64]


def test_meta() -> None:
    out = functional.depthwise_conv2d(torch.empty(2, 4, 9, 9, device="meta"), W.to("meta"), stride=2)
    assert out.device.type == "meta"
    assert out.shape == (2, 8, 4, 4)


def test_torchs_flop_counter_is_right() -> None:
    x, w, p = torch.randn(1, 3, 7, 7), torch.randn(3, 1, 3, 3), torch.randn(128, 3, 1, 1)
    with FlopCounterMode(display=False) as counter:
        functional.separable_conv2d(x, w, p)
    assert counter.get_total_flops() == 2 * 10_275


@needs_machine
def test_the_operators_register_their_flop_formulas() -> None:
    x, w, p, out = (2, 3, 7, 7), (6, 1, 3, 3), (128, 6, 1, 1), (2, 128, 5, 5)
    depthwise_macs, pointwise_macs = 2 * 6 * 9 * 25, 2 * 128 * 6 * 25
    # torch's registry wraps a formula so that it takes tensors where shapes are asked for; meta tensors do.
    meta = [torch.empty(shape, device="meta") for shape in (x, w, p)]
    middle, result = OPERATORS.depthwise_conv(*meta[:2], None, [1, 1], [0] * 4, [1, 1]), torch.empty(out, device="meta")
    assert flop_registry[OPERATORS.depthwise_conv](*meta[:2], out_val=middle) == 2 * depthwise_macs
    both = 2 * (depthwise_macs + pointwise_macs)
    assert flop_registry[OPERATORS.separable_conv](*meta, out_val=result) == both
    with FlopCounterMode(display=False) as counter:
        OPERATORS.cpu_depthwise_conv(torch.ones(x), torch.ones(w), None, [1, 1], [0] * 4, [1, 1])
    assert counter.get_total_flops() == 2 * depthwise_macs
