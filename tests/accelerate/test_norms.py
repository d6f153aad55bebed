"""Batch norms of accelerated models: in sequences, and in the blocks of timm and torchvision."""

from __future__ import annotations

import copy
from importlib import import_module
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from depthwise import accelerate_, restore_
from depthwise.backends.cpu import machine
from tests.layers.test_turns import has_passes, image
from tests.support.networks import timm_model

pytestmark = pytest.mark.skipif(machine.host() is None, reason="no generator serves this machine")
LAST = torch.channels_last


def block(channels: int = 8) -> nn.Sequential:
    return nn.Sequential(
        *(nn.Conv2d(channels, 16, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU6(inplace=True)),
        *(nn.Conv2d(16, 16, 3, padding=1, groups=16, bias=False), nn.BatchNorm2d(16), nn.SiLU()),
        *(nn.Conv2d(16, channels, 1, bias=False), nn.BatchNorm2d(channels)),
    )


def relative(a: Tensor, b: Tensor) -> float:
    return float(((a - b).norm() / b.norm().clamp(min=1e-12)).detach())


def weighted(out: Tensor) -> Tensor:
    """A sum whose gradient no batch norm takes away."""
    torch.manual_seed(3)
    return (out * torch.randn(out.shape).to(out)).sum()


def assert_trains_as_before(model: nn.Module, x: Tensor, passes: int) -> None:
    """Result, gradients and statistics near those in float64, as torch's own are; so many passes of ours."""
    exact, theirs = copy.deepcopy(model).double(), copy.deepcopy(model)
    accelerate_(model)
    outs = []
    for each, given in ((model, x), (theirs, x), (exact, x.double())):
        out = each(given)
        weighted(out).backward()
        outs.append(out)
    assert has_passes(outs[0])
    assert relative(outs[0], outs[2]) < max(1e-5, 4 * relative(outs[1], outs[2]))
    for (name, mine), other, best in zip(
        model.named_parameters(), theirs.parameters(), exact.parameters(), strict=True
    ):
        grads = [each.grad for each in (mine, other, best)]
        assert all(grad is not None for grad in grads), name
        scale = max(float(p.grad.norm()) for p in exact.parameters() if p.grad is not None)
        error, torchs = (float((grad - grads[2]).detach().norm()) / scale for grad in grads[:2])  # type: ignore[operator]
        assert error < max(1e-5, 4 * torchs), name
    for (name, kept), best_kept in zip(model.named_buffers(), exact.buffers(), strict=True):
        torch.testing.assert_close(kept.double(), best_kept.double(), atol=1e-5, rtol=1e-4, msg=name)
    assert sum("batch norm" in row.became for row in accelerate_(model).accelerated) >= passes


def test_a_sequence() -> None:
    model = block()
    report = accelerate_(copy.deepcopy(model))
    assert report.summary == (
        "1 chain of convolutions and batch norms, 2 pointwise, 3 batch norm, 1 depthwise; 0 left as they were"
    )
    assert_trains_as_before(model, image(4, 8, 9, 9), 4)


def timm_blocks() -> list[tuple[str, nn.Module, int]]:
    timm_model("mobilenetv2_100")
    from timm.layers.conv_bn_act import ConvNormAct
    from timm.models._efficientnet_blocks import DepthwiseSeparableConv, InvertedResidual

    return [
        ("ConvNormAct", ConvNormAct(8, 8, 3, groups=8, act_layer=nn.ReLU6), 1),
        ("DepthwiseSeparableConv", DepthwiseSeparableConv(8, 8, act_layer=nn.SiLU), 2),
        ("InvertedResidual", InvertedResidual(8, 8, exp_ratio=4.0, act_layer=nn.Hardswish), 3),
    ]


@pytest.mark.parametrize("index", range(3), ids=["ConvNormAct", "DepthwiseSeparableConv", "InvertedResidual"])
def test_blocks_of_timm(index: int) -> None:
    _, model, passes = timm_blocks()[index]
    assert_trains_as_before(model, image(4, 8, 9, 9), passes)


def test_blocks_of_torchvision() -> None:
    timm_model("mobilenetv2_100")
    blocks: Any = import_module("torchvision.models.mobilenetv2")

    model = blocks.Conv2dNormActivation(8, 8, 3, groups=8)
    assert any("chain" in row.became for row in accelerate_(copy.deepcopy(model)).accelerated)
    assert_trains_as_before(model, image(4, 8, 9, 9), 1)
    assert_trains_as_before(blocks.InvertedResidual(8, 8, 1, 4), image(4, 8, 9, 9), 3)


def test_the_same_state_and_back() -> None:
    model: Any = block()
    keys, kinds = list(model.state_dict()), [type(module) for module in model.modules()]
    accelerate_(model)
    assert list(model.state_dict()) == keys
    assert int(model[1].num_batches_tracked) == 0
    model(image(4, 8, 9, 9))
    assert int(model[1].num_batches_tracked) == 1
    assert restore_(model) == 7
    assert [type(module) for module in model.modules()] == kinds


def test_what_stays_part_by_part() -> None:
    model: Any = nn.Sequential(nn.SyncBatchNorm(4), nn.BatchNorm1d(4), nn.Identity())
    assert [row.reason for row in accelerate_(model).left] == [
        "adds its statistics up over processes",
        "is a batch norm of sequences",
    ]
    x, seen = image(4, 8, 9, 9), []
    model = block()
    accelerate_(model)
    model[1].register_forward_hook(lambda *_: seen.append(1))
    assert has_passes(model(x))
    assert seen == [1]
    for norm in (model[1], model[4], model[7]):
        norm.momentum = None
    assert not has_passes(model(x))
    for norm in (model[1], model[4], model[7]):
        norm.momentum = 0.1
        norm.eval()
    assert not has_passes(model(x))


def test_evaluation_is_torchs_within_rounding() -> None:
    model = block()
    model(image(4, 8, 9, 9))
    theirs = copy.deepcopy(model).eval()
    accelerate_(model)
    model.eval()
    with torch.no_grad():
        torch.testing.assert_close(model(image(2, 8, 9, 9)).shape, theirs(image(2, 8, 9, 9)).shape)
        x = image(2, 8, 9, 9)
        torch.testing.assert_close(model(x), theirs(x), atol=1e-5, rtol=1e-5)


def act_block(**options: Any) -> Any:
    timm_model("mobilenetv2_100")
    from timm.layers.norm_act import BatchNormAct2d

    return BatchNormAct2d(8, **options)


@pytest.mark.parametrize("part", ["act", "drop"])
def test_a_hook_on_a_part_of_a_norm_with_its_activation(part: str) -> None:
    model, x, seen = act_block(), image(4, 8, 9, 9), []
    accelerate_(model)
    handle = getattr(model, part).register_forward_hook(lambda *_: seen.append(part))
    theirs = copy.deepcopy(model)
    restore_(theirs)
    torch.testing.assert_close(model(x), theirs(x))
    assert seen == [part, part]
    handle.remove()
    assert has_passes(model(x))


def test_a_hook_on_all_modules_sees_the_parts_of_a_norm() -> None:
    model, x, seen = act_block(), image(4, 8, 9, 9), []
    accelerate_(model)
    handle = nn.modules.module.register_module_forward_hook(lambda module, *_: seen.append(module))
    try:
        out = model(x)
    finally:
        handle.remove()
    assert seen == [model.drop, model.act, model]
    assert float(out.detach().min()) == 0.0


def test_why_a_norm_stays_is_told() -> None:
    own, act = nn.BatchNorm2d(4), act_block()
    own.forward = own.forward  # type: ignore[method-assign]
    act.forward = act.forward
    model = nn.Sequential(nn.LazyBatchNorm2d(), own, act)
    assert [row.reason for row in accelerate_(model).left] == [
        "is lazy; call the model once before",
        "has a forward of its own",
        "has a forward of its own",
    ]
