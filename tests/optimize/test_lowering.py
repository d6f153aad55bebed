"""Operators that become problems of the backend: the same numbers, and why the others do not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from depthwise.optimize.frozen import optimized
from depthwise.optimize.lowering import Lie, lower_graph
from depthwise.optimize.lowering.context import order_of, strides_of
from depthwise.optimize.module import Optimized
from tests.support.networks import Calls
from tests.support.whole import difference, randomised

IMAGE, ROWS, TOKENS = (1, 12, 6, 5), (1, 12), (1, 7, 12)
GATE = torch.tensor([[[1.5]], [[-0.5]]]).repeat(6, 1, 1)
NUMBERS = torch.arange(12.0)

Function = Callable[..., Any]
# What is called, with an input of this size, and what its nodes are; all of them run on our kernels.
TAKEN: dict[str, tuple[Function, tuple[int, ...]]] = {
    "activations": (lambda x: F.gelu(F.leaky_relu(F.elu(x, 0.5), 0.2)) + F.hardtanh(x, 0.0, 6.0), IMAGE),
    "sigmoids": (lambda x: F.silu(x) * torch.sigmoid(x) - F.hardsigmoid(x) + F.hardswish(x) + F.relu6(x), IMAGE),
    "numbers": (lambda x: (2 * x + 1) / 4 - x.sub(2.0, alpha=0.5), IMAGE),
    "less than numbers": (lambda x: (1 - x.sigmoid()) * torch.rsub(x, 0.25, alpha=3), IMAGE),
    "numbers of rows": (lambda x: x * 2 + 1, ROWS),
    "number of one": (lambda x: x + 1, (1,)),
    "weights of channels": (lambda x: (x - GATE) * GATE + 2, IMAGE),
    "weights of rows": (lambda x: x.relu() * NUMBERS + NUMBERS, ROWS),
    "gate": (lambda x: x * x.mean((2, 3), keepdim=True).sigmoid(), IMAGE),
    "gate first": (lambda x: x.mean((-1, -2), keepdim=True) - x, IMAGE),
    "pool": (lambda x: F.adaptive_avg_pool2d(x, 1).flatten(1) * 2, IMAGE),
    "mean of rows": (lambda x: x.mean((2, 3)) + 1, IMAGE),
    "mean of tokens": (lambda x: x.mean(1) + x.mean(1, keepdim=True).squeeze(1), TOKENS),
    "mean of moved pixels": (lambda x: x.relu().permute(0, 2, 3, 1).mean((1, 2)), IMAGE),
    "unflattened": (lambda x: x.unflatten(1, (3, -1)).sum(2) + x.flatten(2).unflatten(-1, (6, -1))[:, 9:], IMAGE),
    "cat": (lambda x: torch.cat([x, x.relu(), x * 2], 1), IMAGE),
    "cat of rows": (lambda x: torch.cat([x, x.relu()], 1), ROWS),
    "split": (lambda x: [one.relu() for one in x.relu().split(5, 1)], IMAGE),
    "split with sizes": (lambda x: x.split([2, 1, 9], 1)[2] + 1, IMAGE),
    "chunk": (lambda x: (lambda a, b: a * b.sigmoid())(*x.chunk(2, 1)), IMAGE),
    "slice": (lambda x: x[:, 3:] + x[:, :-3], IMAGE),
    "max pool": (
        lambda x: F.max_pool2d(x, 3, 2, 1).relu() * F.max_pool2d(x, (2, 3), (2, 2), (0, 1), ceil_mode=True),
        IMAGE,
    ),
    "average pool": (
        lambda x: F.avg_pool2d(x, 3, 2, 1) + F.avg_pool2d(x, 3, 2, 1, count_include_pad=False, divisor_override=5),
        IMAGE,
    ),
    "larger": (lambda x: F.interpolate(x, scale_factor=2) + F.interpolate(x, scale_factor=(2.0, 2.0)), IMAGE),
    "of any size": (
        lambda x: [
            F.interpolate(x, scale_factor=1.7, mode="bilinear", align_corners=True),
            F.interpolate(x, scale_factor=(0.5, 2.0), mode="bilinear"),
            F.interpolate(x, size=(4, 9), mode="bilinear").relu(),
            F.interpolate(x, scale_factor=1.7, mode="bilinear", recompute_scale_factor=True),
        ],
        IMAGE,
    ),
    "norms over groups": (lambda x: [F.group_norm(x, 4), F.group_norm(x[:, :8], 8)], IMAGE),
    "norms over groups of rows": (lambda x: F.group_norm(x, 3, eps=0.1), ROWS),
    "factors of pixels": (lambda x: (x * x[:, :1].sigmoid() - x[:, 2:3]) / (x[:, :1].sigmoid() + 1), IMAGE),
    "factors of tokens": (lambda x: x * x[..., :1].sigmoid(), TOKENS),
    "softmax": (lambda x: x.softmax(1).softmax(1), ROWS),
    "softmax of channels": (lambda x: x.relu().softmax(1), IMAGE),
    "layer norm": (lambda x: F.layer_norm(x, (12,)) + x, TOKENS),
    "layer norm of pixels": (lambda x: F.layer_norm(x.permute(0, 2, 3, 1), (12,)).permute(0, 3, 1, 2) + x, IMAGE),
    "moved and back": (lambda x: x.relu().permute(0, 2, 3, 1).reshape(-1, 30, 12).transpose(1, 2) * 2, IMAGE),
    "factors of columns": (
        lambda x: x * x[:, :, :1].softmax(2) - x.mean(2, keepdim=True) * x.mean(3, keepdim=True),
        IMAGE,
    ),
    "divided by pixels": (lambda x: x.mean((2, 3), keepdim=True) / (x * x + 1), IMAGE),
    "divided by images": (lambda x: x.mean((2, 3)) / (x[:, :, 1, 1].relu() + 1), IMAGE),
    "another order": (lambda x: x.relu().transpose(2, 3) + x.relu(), (1, 12, 5, 5)),
    "a multiple": (lambda x: x.add(x.relu(), alpha=2) - torch.sub(x[:, :1], x, alpha=0.5), IMAGE),
    "rows of pieces": (lambda x: [one.relu() for one in x.relu().split(5, 2)], IMAGE),
    "steps": (lambda x: x[:, ::2] + x[:, 1::2, :, 1:2], IMAGE),
    "cat of images' rows": (lambda x: torch.cat([x, x.relu()[:, :, 1:]], 2), IMAGE),
    "sums": (
        lambda x: (x.sum(1), x.sum((1, 3), keepdim=True), x.mean(3), x.sum(2), x.sum((1, 2, 3))),
        IMAGE,
    ),
    "groups of channels": (
        lambda x: (lambda y: (y * y.sum(1).mean((2, 3), keepdim=True)[:, None].softmax(2)).sum(1))(
            x.relu().reshape(-1, 2, 6, *x.shape[2:])
        ),
        IMAGE,
    ),
    "stacked": (lambda x: (torch.stack([x, x.relu()], 1) * x.sigmoid()[:, None]).sum(1), IMAGE),
    "numbers of images stacked": (lambda x: torch.stack([x[:, 1], x[:, 2]], 1).relu().sum(1) + 1, ROWS),
    "stacked last": (lambda x: torch.stack([x, x.relu()], -1).softmax(-1), IMAGE),
    "softmax of moved channels": (
        lambda x: x.mean((2, 3)).view(-1, 2, 3, 2).transpose(1, 2).softmax(1).reshape(-1, 12),
        IMAGE,
    ),
    "norms": (
        lambda x: (lambda n: torch.addcmul(NUMBERS, NUMBERS + 1, x * n / (n.mean(-1, keepdim=True) + 1e-6)))(
            x.norm(2, (1, 2), keepdim=True)
        ),
        (1, 6, 5, 12),
    ),
    "products added": (
        lambda x: (
            torch.addcmul(x, x.mean((2, 3), keepdim=True), x, value=0.5)
            + torch.addcmul(x, x[:, :1].relu(), x[:, :, :1].relu())
        ),
        IMAGE,
    ),
    "zeros around": (lambda x: F.pad(x.relu(), (1, 2, 0, 1)) + F.pad(x, (4, -1, 2, -1), value=1.5), IMAGE),
    "channels around": (lambda x: F.pad(x, (0, 0, 0, 0, 1, 2)), IMAGE),
    "nothing left within": (lambda x: F.pad(x.relu(), (-5, 9, 1, 0), value=2.0), IMAGE),
    "cut off at one end": (
        lambda x: [F.pad(x, (-1, 2, 2, -1), mode=mode) for mode in ("reflect", "replicate", "circular")],
        IMAGE,
    ),
    "mirrored": (lambda x: F.pad(x, (1, 2, 3, 0), mode="reflect"), IMAGE),
    "edges": (lambda x: F.pad(x, (1, 2, 3, 0), mode="replicate") + F.pad(x, (1, 2, 3, 0), mode="circular"), IMAGE),
    "blocks into channels": (
        lambda x: x.reshape(-1, 12, 3, 2, 5, 1).permute(0, 3, 5, 1, 2, 4).reshape(-1, 24, 3, 5),
        IMAGE,
    ),
    "repeated": (lambda x: x[:, :1].expand(-1, 5, -1, -1).softmax(1) + x[:, :, :1].expand_as(x)[:, :5], IMAGE),
    "one by one": (lambda x: sum(a.relu() for a in x.unbind(2)) + x.select(2, -1), IMAGE),
    "copied": (lambda x: x.permute(0, 2, 1).contiguous().reshape_as(x).clone(), TOKENS),
    "a view is given": (lambda x: (x.relu().permute(0, 2, 3, 1), x), IMAGE),
    "used twice": (lambda x: (lambda y: (y + y, y * y, y))(x.relu()), IMAGE),
}
LEFT: dict[str, tuple[Function, tuple[int, ...], str]] = {
    "a dtype": (lambda x: x.mean((2, 3), dtype=torch.float64), IMAGE, "its result is of another dtype"),
    "whole numbers": (lambda x: x.argmax(1) + 1, IMAGE, "argmax"),
    "no kernel": (lambda x: x.relu().tanh(), IMAGE, "tanh has no kernel of ours"),
    "gelu by tanh": (lambda x: F.gelu(x, approximate="tanh"), IMAGE, "no code is generated for this gelu"),
    "larger by a part": (lambda x: F.interpolate(x.relu(), scale_factor=1.5), IMAGE, "larger by whole factors"),
    "half a norm": (lambda x: F.group_norm(x.relu(), 2, NUMBERS), IMAGE, "a norm has a weight and a bias, or neither"),
    "cat of images": (lambda x: torch.cat([x, x.relu()]), ROWS, "images are put beside images"),
    "stacked images": (lambda x: torch.stack([x, x.relu()]), ROWS, "images are put beside images"),
    "stacked numbers": (lambda x: torch.stack([x.sum(), x.sum() * 2]), (1,), "of no dimension"),
    "mean of all": (lambda x: x.mean() + x, ROWS, "images are taken together"),
    "sum of images": (lambda x: x.sum(0, keepdim=True) + x, ROWS, "images are taken together"),
    "images around images": (lambda x: F.pad(x.relu(), (0, 0, 1, 0)), ROWS, "images are put beside images"),
    "images last": (lambda x: x.relu().permute(1, 2, 3, 0), IMAGE, "the batch does not lie outermost"),
    "another root": (lambda x: x.norm(1, dim=1), IMAGE, "a norm is the root of a sum of squares"),
    "two repeats": (
        lambda x: torch.addcmul(x.mean((2, 3), keepdim=True), x, x.mean((1, 2, 3), keepdim=True)),
        IMAGE,
        "repeated along several dimensions",
    ),
    "many dimensions": (
        lambda x: x.reshape(-1, 2, 2, 3, 2, 3, 5).permute(0, 6, 5, 4, 3, 2, 1).reshape(-1, 360),
        IMAGE,
        "numbers of 7 dimensions change places",
    ),
    "softmax of images": (lambda x: x.relu().softmax(0), ROWS, "the batch does not lie innermost"),
    "some images": (lambda x: x.relu()[:1] + x, ROWS, "images are put beside images"),
    "the batch itself": (lambda x: x.relu() + len(x), IMAGE, "its arguments depend on the batch"),
    "half of the images": (
        lambda x: torch.cat([x, x * 2]).relu().chunk(2)[1],
        IMAGE,
        "its arguments depend on the batch",
    ),
}


def made(function: Function, size: tuple[int, ...]) -> tuple[nn.Module, Optimized]:
    torch.manual_seed(0)
    model = Calls(function).eval()
    # With no pass nothing is folded away.
    return model, optimized(model, torch.zeros(size), without=("constants", "norms", "identities"))


@pytest.mark.parametrize("name", TAKEN)
def test_what_is_taken(name: str) -> None:
    function, size = TAKEN[name]
    model, found = made(function, size)
    reasons = [layer.reason for layer in found.report.layers if layer.engine == "torch"]
    assert not reasons, found.report
    for threads in (1, 2):
        torch.set_num_threads(threads)
        assert difference(found, model, torch.randn(3, *size[1:])) <= 1
        assert difference(found, model, torch.randn(0, *size[1:])) <= 1


@pytest.mark.parametrize("name", LEFT)
def test_what_is_left_to_torch(name: str) -> None:
    function, size, why = LEFT[name]
    model, found = made(function, size)
    assert any(why in layer.reason for layer in found.report.layers), found.report
    for batch in (1, 2, 3, 0):
        x = torch.randn(batch, *size[1:])
        for ours, expected in zip(flat(found(x)), flat(model(x)), strict=True):
            torch.testing.assert_close(ours, expected)


def test_numbers_beyond_float32_are_infinite() -> None:
    conv = nn.Conv2d(12, 8, 1)
    model = Calls(lambda x, conv: (x * 1e39, x.relu() + -1e300, conv(x) * 1e39), conv=conv)
    found = optimized(model, torch.zeros(IMAGE))
    assert not [layer.reason for layer in found.report.layers if layer.engine == "torch"]
    x = torch.randn(IMAGE)
    with torch.no_grad():
        for ours, expected in zip(found(x), model(x), strict=True):
            assert torch.equal(ours, expected)


# Each starts with a kernel's result; dimension 0 is the batch, of one image dense along any dimension.
ALONG_THE_BATCH: dict[str, Function] = {
    "cat, then numbers of images": lambda x: (lambda y: y * y.mean(1, keepdim=True))(torch.cat([x, x * 2])),
    "cat, then a linear layer": lambda x: F.linear(torch.cat([x, x * 2]), torch.ones(3, x.shape[-1])),
    "softmax, then rows": lambda x: x.softmax(0) * torch.arange(1.0, 1 + x.shape[-1]),
    "pieces": lambda x: torch.cat(x.chunk(2, 0)[::-1]),
    "even pieces": lambda x: torch.cat(x.split(5)[::-1]),
    "squeezed": lambda x: x.squeeze(0).view(x.shape),
    "one of all": lambda x: x[:1] + x,
    "mean of all": lambda x: x - x.mean(0, keepdim=True),
}


@pytest.mark.parametrize("size", [(1, 1), (1, 8), (1, 8, 1), (1, 8, 1, 1), (1, 1, 3, 4)], ids=str)
@pytest.mark.parametrize("name", ALONG_THE_BATCH)
def test_what_goes_along_the_batch(name: str, size: tuple[int, ...]) -> None:
    model = Calls(lambda x: ALONG_THE_BATCH[name](x.relu()))
    found = optimized(model, torch.zeros(size))
    for batch in (1, 2, 3, 7):
        x = torch.randn(batch, *size[1:])
        torch.testing.assert_close(found(x), model(x))


@pytest.mark.parametrize("batch", [1, 2])
def test_a_plan_is_for_any_batch(batch: int) -> None:
    # Of one image alone the sum's operands are of one shape.
    found = optimized(Calls(lambda x: x.relu()[:1] + x.relu()), torch.zeros(batch, 12))
    assert {layer.operator for layer in found.report.layers if layer.engine == "torch"} == {"slice"}


def flat(result: Any) -> list[Tensor]:
    return [result] if isinstance(result, Tensor) else list(result)


LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "depthwise, residual, activation": (
        lambda: Calls(lambda x, conv: F.relu(conv(x) + x), conv=nn.Conv2d(12, 12, 3, padding=1, groups=12)),
        IMAGE,
    ),
    "depthwise, many read": (
        lambda: Calls(
            lambda x, conv: (
                lambda y: (y, y.sum((2, 3)), y.mean((2, 3)), y.norm(2, (2, 3)), y.norm(2, 3), y.mean(2), y.sum(1))
            )(conv(x).relu()),
            conv=nn.Conv2d(12, 12, 3, groups=12),
        ),
        IMAGE,
    ),
    "part of a concatenation, read after it": (
        lambda: Calls(
            lambda x, conv: (lambda y: (torch.cat([y, z := conv(y)], 1).relu(), conv(z)))(conv(x)),
            conv=nn.Conv2d(12, 12, 3, padding=1, groups=12),
        ),
        IMAGE,
    ),
    "depthwise multiplier": (lambda: nn.Sequential(nn.Conv2d(12, 24, 3, groups=12), nn.SiLU()), IMAGE),
    "pointwise, residual": (
        lambda: Calls(lambda x, conv: F.relu(conv(x) + x), conv=nn.Conv2d(12, 12, 1, groups=2)),
        IMAGE,
    ),
    "dense": (
        lambda: nn.Sequential(nn.Conv2d(12, 9, 3, stride=2), nn.ReLU(), nn.Conv2d(9, 4, 1, stride=2)),
        (1, 12, 16, 15),
    ),
    "linear": (lambda: nn.Sequential(nn.Linear(12, 33), nn.GELU(), nn.Linear(33, 5, bias=False)), TOKENS),
    "norms over groups": (lambda: nn.Sequential(nn.GroupNorm(1, 12), nn.ReLU(), nn.GroupNorm(6, 12, 0.1)), IMAGE),
    "norm alone": (lambda: nn.Sequential(nn.ReLU(), nn.BatchNorm2d(12), nn.SiLU()), IMAGE),
    "sequence": (
        lambda: nn.Sequential(nn.Conv1d(12, 12, 4, padding=2, groups=12), nn.ReLU(), nn.Conv1d(12, 12, 3, groups=12)),
        (1, 12, 30),
    ),
    "volume": (
        lambda: nn.Sequential(nn.Conv3d(4, 4, 3, padding=1, groups=4), nn.Conv3d(4, 9, 1), nn.ReLU()),
        (1, 4, 4, 5, 6),
    ),
}


@pytest.mark.parametrize("separable", [True, False])
@pytest.mark.parametrize("name", LAYERS)
def test_layers(name: str, separable: bool) -> None:
    make, size = LAYERS[name]
    torch.manual_seed(0)
    model = randomised(make())
    found = optimized(model, torch.zeros(size), without=() if separable else ("separable",))
    assert all(layer.engine == "cpu" for layer in found.report.layers), found.report
    for threads in (1, 2):
        torch.set_num_threads(threads)
        for given in (torch.randn(3, *size[1:]), torch.randn(2, *size[1:]).transpose(-1, -2)):
            if given.shape[1:] == size[1:] or name not in ("linear", "sequence"):
                assert difference(found, model, given) <= 1


def test_contiguous_images_are_read_as_they_come_by_dense_convolutions_alone() -> None:
    first, second = nn.Conv2d(3, 8, 3), nn.Conv2d(3, 8, 1)
    x = torch.zeros(1, 3, 9, 9)
    alone = optimized(first, x)
    both = optimized(Calls(lambda x, a, b: (a(x), b(x)), a=first, b=second), x)
    last = optimized(first, x.contiguous(memory_format=torch.channels_last))
    assert [_inner(network) for network in (alone, both, last)] == [3, 1, 1]


def _inner(found: Optimized) -> int:
    network = found._network
    return lower_graph(network, found._first.shapes, 1).lies["input_0"].inner


def test_how_values_lie() -> None:
    last, natural = (0, 2, 3, 1), (0, 1, 2, 3)
    assert strides_of((2, 3, 4, 5), last) == (60, 1, 15, 3)
    assert strides_of((2, 3, 4, 5), natural) == (60, 20, 5, 1)
    assert strides_of((), ()) == ()
    pixel = Lie("x", (2, 3, 1, 1), last)
    assert pixel.lies_as(natural)
    assert not Lie("x", (2, 3, 1, 2), last).lies_as(natural)
    assert pixel.elements == 6
    assert order_of((2, 3, 4, 5), (60, 1, 15, 3)) == last
    assert order_of((2, 2, 3, 4, 5), (120, 3, 1, 30, 6)) == (0, 3, 4, 1, 2)
    assert order_of((2, 3, 1), (3, 1, 7)) == (0, 1, 2)
    # With gaps between, or the batch inside.
    assert order_of((2, 3), (4, 1)) is None
    assert order_of((2, 3), (1, 2)) is None
