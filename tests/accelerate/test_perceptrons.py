"""Multilayer perceptrons of timm, accelerated."""

from __future__ import annotations

import copy
from collections.abc import Callable
from importlib import import_module
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from depthwise import accelerate_, restore_
from depthwise.backends.cpu import machine
from tests.layers.test_turns import nodes
from tests.support.networks import timm_model

pytestmark = pytest.mark.skipif(machine.host() is None, reason="no generator serves this machine")


def made(**options: Any) -> Any:
    timm_model("mobilenetv2_100")
    from timm.layers.mlp import Mlp

    torch.manual_seed(0)
    return Mlp(12, 40, **options)


def gradients(model: nn.Module, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    given = x.clone().requires_grad_()
    out = model(given)
    torch.manual_seed(1)
    return out, list(torch.autograd.grad(out, [given, *model.parameters()], torch.randn_like(out)))


def assert_same(model: nn.Module, theirs: nn.Module, x: Tensor, *expected: str) -> None:
    """Result and gradients are theirs within rounding; so many kernels of ours were among what was recorded."""
    (out, found), (wanted, best) = gradients(model, x), gradients(theirs, x)
    assert out.stride() == wanted.stride()
    torch.testing.assert_close(out, wanted, atol=1e-5, rtol=1e-4)
    for mine, other in zip(found, best, strict=True):
        assert mine.stride() == other.stride()
        torch.testing.assert_close(mine, other, atol=1e-4, rtol=1e-4)
    for name in ("_Recorded", "_Activation"):
        assert (name in nodes(out)) is (name in expected), name


def test_they_train_as_before() -> None:
    model = made()
    theirs, kind = copy.deepcopy(model), type(model)
    assert accelerate_(model).summary == "1 multilayer perceptron; 0 left as they were"
    assert_same(model, theirs, torch.randn(2, 5, 6, 12), "_Recorded", "_Activation")
    # Of sequences the linear layers are torch's.
    assert_same(model, theirs, torch.randn(2, 5, 12), "_Activation")
    x = torch.randn(2, 5, 6, 24)[..., ::2]
    torch.testing.assert_close(model(x), theirs(x))
    assert restore_(model) == 1
    assert type(model) is kind


@pytest.mark.parametrize("act", [nn.GELU, nn.SiLU, lambda: nn.GELU(approximate="tanh")], ids=["GELU", "SiLU", "tanh"])
def test_other_activations_and_no_bias(act: Any) -> None:
    model = made(act_layer=act, bias=False)
    theirs = copy.deepcopy(model)
    accelerate_(model)
    expected = ("_Recorded", "_Activation") if act is nn.GELU else ("_Recorded",)
    assert_same(model, theirs, torch.randn(2, 5, 6, 12), *expected)


def test_hooks_on_the_parts_still_run() -> None:
    model, seen = made(norm_layer=nn.LayerNorm, drop=0.5), []
    accelerate_(model)
    parts = [part for _, part in model.named_children()]
    for part in parts:
        part.register_forward_hook(lambda module, *_: seen.append(module))
    model(torch.randn(2, 5, 6, 12))
    assert seen == [model.fc1, model.act, model.drop1, model.norm, model.fc2, model.drop2]


def test_a_hook_on_all_modules_sees_the_parts() -> None:
    model, seen = made(), []
    accelerate_(model)
    handle = nn.modules.module.register_module_forward_hook(lambda module, *_: seen.append(module))
    try:
        model(torch.randn(2, 5, 6, 12))
    finally:
        handle.remove()
    assert seen[:2] == [model.fc1, model.act]


def test_pointwise_convolutions_in_the_place_of_linear_layers() -> None:
    model = made(use_conv=True)
    theirs = copy.deepcopy(model)
    accelerate_(model)
    x = torch.randn(2, 12, 5, 6).contiguous(memory_format=torch.channels_last)
    assert_same(model, theirs, x, "_Recorded", "_Activation")


@pytest.mark.parametrize("features", [1, 12])
def test_results_lie_as_before_where_an_axis_has_size_one(features: int) -> None:
    model = made(drop=0.5)
    model.fc1 = nn.Linear(features, 40)
    theirs = copy.deepcopy(model)
    accelerate_(model)
    for size in ((1, 1, 6), (1, 5, 1), (1, 5, 6), (2, 1, 6), (2, 5, 1)):
        rows = [axis for axis in range(3) if size[axis] == 1]
        for axis in rows:
            # Contiguous, whatever the stride of an axis of size 1.
            strides = list(torch.empty(*size, features).stride())
            strides[axis] = features
            x = torch.randn(*size, features).as_strided((*size, features), strides)
            assert x.is_contiguous()
            outs = []
            for each in (model, theirs):
                torch.manual_seed(2)
                outs.append(each(x))
            assert outs[0].is_contiguous()
            torch.testing.assert_close(*outs)


def test_without_gradients_the_linear_layers_are_torchs() -> None:
    model = made()
    theirs = copy.deepcopy(model)
    accelerate_(model)
    x = torch.randn(2, 5, 6, 12)
    with torch.no_grad():
        torch.testing.assert_close(model(x), theirs(x))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = model(x)
        assert torch.equal(out, theirs(x))
        assert out.dtype == torch.bfloat16


def test_gradients_of_gradients_and_a_compiled_step() -> None:
    model = made()
    theirs = copy.deepcopy(model)
    accelerate_(model)
    results = []
    for each in (model, theirs):
        x = torch.linspace(-2, 2, 2 * 2 * 3 * 12).view(2, 2, 3, 12).requires_grad_()
        (dx,) = torch.autograd.grad(each(x).square().sum(), x, create_graph=True)
        results.append(torch.autograd.grad(dx.square().sum(), x)[0])
    torch.testing.assert_close(*results, atol=1e-5, rtol=1e-4)
    compiled: Any = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(torch.ones(1, 2, 2, 12)), theirs(torch.ones(1, 2, 2, 12)))


def test_transforms_of_functions() -> None:
    model = made()
    theirs = copy.deepcopy(model)
    accelerate_(model)
    x = torch.randn(2, 3, 4, 12)
    found, expected = (torch.func.grad(lambda one, each=each: each(one).sum())(x) for each in (model, theirs))
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.vmap(model)(x[None])[0], theirs(x))


def test_a_forward_of_its_own_stays() -> None:
    model = made()
    model.forward = model.forward
    assert [row.reason for row in accelerate_(model).left] == ["has a forward of its own"]


def convnext_block(**options: Any) -> Any:
    timm_model("mobilenetv2_100")
    from timm.models.convnext import ConvNeXtBlock

    torch.manual_seed(0)
    return ConvNeXtBlock(16, ls_init_value=0.5, **options)


def torchvision_block(drop_path: float = 0.0) -> Any:
    timm_model("mobilenetv2_100")
    module: Any = import_module("torchvision.models.convnext")
    torch.manual_seed(0)
    return module.CNBlock(16, 0.5, drop_path)


BLOCKS = pytest.mark.parametrize("block", [convnext_block, torchvision_block])
GAINED: dict[Callable[..., Any], str] = {
    convnext_block: "1 ConvNeXt block, 1 depthwise, 1 multilayer perceptron",
    torchvision_block: "1 ConvNeXt block, 1 depthwise",
}


def images() -> Tensor:
    return torch.randn(2, 16, 9, 8).contiguous(memory_format=torch.channels_last)


@BLOCKS
def test_a_block_of_convnext_scales_and_adds_within_its_last_product(block: Callable[..., Any]) -> None:
    model = block()
    theirs = copy.deepcopy(model)
    assert accelerate_(model).gained == GAINED[block]
    x = images()
    (out, found), (wanted, best) = gradients(model, x), gradients(theirs, x)
    assert "AddBackward0" not in nodes(out)
    assert out.stride() == wanted.stride()
    torch.testing.assert_close(out, wanted, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found, best, atol=1e-4, rtol=1e-4)
    with torch.no_grad():
        torch.testing.assert_close(model(x), theirs(x))


@BLOCKS
@pytest.mark.parametrize("training", [True, False])
def test_stochastic_depth_of_a_block(block: Callable[..., nn.Module], training: bool) -> None:
    model = block(drop_path=0.5).train(training)
    theirs = copy.deepcopy(model)
    accelerate_(model)
    outs, x = [], images()
    for each in (model, theirs):
        torch.manual_seed(3)
        outs.append(each(x))
    torch.testing.assert_close(*outs)


@pytest.mark.parametrize("options", [{"conv_mlp": True}, {"use_grn": True}, {"stride": 2, "out_chs": 32}], ids=str)
def test_other_blocks_of_convnext(options: dict[str, Any]) -> None:
    model = convnext_block(**options)
    theirs = copy.deepcopy(model)
    accelerate_(model)
    x = images()
    (out, found), (wanted, best) = gradients(model, x), gradients(theirs, x)
    torch.testing.assert_close(out, wanted, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found, best, atol=1e-4, rtol=1e-4)


PARTS: dict[Callable[..., Any], tuple[str, ...]] = {
    convnext_block: ("mlp", "mlp.fc2", "mlp.drop2", "drop_path", "shortcut", "norm"),
    torchvision_block: ("block", *(f"block.{number}" for number in range(7)), "stochastic_depth"),
}


def longer(model: Any) -> None:
    model.block.append(nn.Tanh())


def scaled_by_place(model: Any) -> None:
    model.layer_scale = nn.Parameter(torch.rand(16, 9, 8))


@pytest.mark.parametrize("change", [longer, scaled_by_place])
def test_another_block_runs_layer_by_layer(change: Callable[[nn.Module], None]) -> None:
    model = torchvision_block()
    change(model)
    theirs, x = copy.deepcopy(model), images()
    accelerate_(model)
    torch.testing.assert_close(model(x), theirs(x), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("block", "part"), [(block, part) for block, parts in PARTS.items() for part in parts])
def test_hooks_on_a_blocks_parts_see_their_calls(block: Callable[[], nn.Module], part: str) -> None:
    model, seen = block(), []
    theirs = copy.deepcopy(model)
    accelerate_(model)
    for each in (model, theirs):
        each.get_submodule(part).register_forward_hook(lambda _, given, out: seen.append(out.detach().clone()))
        torch.manual_seed(0)
        each(torch.ones(1, 16, 4, 4).contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(*seen)
