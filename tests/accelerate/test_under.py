"""Accelerated models under what training goes through: checkpoints, compilers, autocast, transforms, accumulation."""

from __future__ import annotations

import copy
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo import compiled_autograd
from torch.utils.checkpoint import checkpoint

from depthwise import SeparableConv2d, accelerate_
from depthwise.backends.cpu import machine
from depthwise.blocks import SqueezeExcite
from tests.accelerate.test_norms import block, weighted
from tests.layers.test_turns import has_passes, image

pytestmark = pytest.mark.skipif(machine.host() is None, reason="no generator serves this machine")


def pair() -> tuple[nn.Module, nn.Module]:
    """An accelerated block and the same on torch's operators."""
    theirs = block()
    mine = copy.deepcopy(theirs)
    accelerate_(mine)
    return mine, theirs


def gradients(model: nn.Module) -> list[Tensor]:
    return [parameter.grad for parameter in model.parameters() if parameter.grad is not None]


def assert_same(mine: nn.Module, theirs: nn.Module, run: Callable[[nn.Module], object], rtol: float = 1e-3) -> None:
    torch.manual_seed(0)
    run(mine)
    torch.manual_seed(0)
    run(theirs)
    first, second = gradients(mine), gradients(theirs)
    assert len(first) == len(second) > 0
    # What a batch norm takes away is not zero to the bit.
    largest = max(float(each.abs().max()) for each in second)
    for a, b in zip(first, second, strict=True):
        torch.testing.assert_close(a, b, rtol=rtol, atol=rtol * largest)
    for a, b in zip(mine.buffers(), theirs.buffers(), strict=True):
        torch.testing.assert_close(a, b, rtol=rtol, atol=1e-5)


def test_checkpoints() -> None:
    def run(model: nn.Module) -> None:
        out = checkpoint(model, image(4, 8, 9, 9).requires_grad_(), use_reentrant=False)
        assert isinstance(out, Tensor)
        weighted(out).backward()

    assert_same(*pair(), run)


def test_a_compiled_step() -> None:
    def run(model: nn.Module) -> None:
        weighted(torch.compile(model, backend="aot_eager")(image(4, 8, 9, 9))).backward()

    assert_same(*pair(), run)


def test_a_backward_pass_that_is_compiled() -> None:
    separable = SeparableConv2d(8, 8, 3, depthwise_norm=nn.BatchNorm2d)
    theirs = nn.Sequential(*block(), SqueezeExcite(8, 4, gate=nn.Sigmoid), separable)
    mine = copy.deepcopy(theirs)
    accelerate_(mine)
    # What such tensors were read by is known then.
    weighted(copy.deepcopy(mine)(image(4, 8, 9, 9))).backward()

    def run(model: nn.Module) -> None:
        loss = weighted(model(image(4, 8, 9, 9)))
        # Theirs as it is.
        with compiled_autograd._enable(torch.compile(backend="eager")) if model is mine else nullcontext():
            loss.backward()

    assert_same(mine, theirs, run)


def test_autocast_with_a_scaler() -> None:
    def run(model: nn.Module) -> None:
        scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = model(image(4, 8, 9, 9))
        assert not has_passes(out)
        scaler.scale(weighted(out.float())).backward()
        scaler.step(optimizer)
        scaler.update()

    assert_same(*pair(), run, rtol=0.1)


def test_transforms_of_functions() -> None:
    theirs: nn.Module = nn.Sequential(
        *(nn.Conv2d(8, 8, 3, groups=8), nn.BatchNorm2d(8, track_running_stats=False), nn.ReLU6(), nn.Conv2d(8, 4, 1))
    )
    mine = copy.deepcopy(theirs)
    assert len(accelerate_(mine).accelerated) == 4
    x = image(4, 8, 9, 9)
    results = []
    for model in (mine, theirs):

        def loss(parameters: dict[str, Tensor], model: nn.Module = model) -> Tensor:
            return weighted(torch.func.functional_call(model, parameters, (x,)))

        results.append(torch.func.grad(loss)({name: value.detach() for name, value in model.named_parameters()}))
    for name, value in results[0].items():
        torch.testing.assert_close(value, results[1][name], rtol=1e-4, atol=1e-4)
    batches = torch.stack([x, x + 1])
    torch.testing.assert_close(torch.vmap(mine)(batches), torch.vmap(theirs)(batches), rtol=1e-4, atol=1e-4)


def test_gradients_are_accumulated() -> None:
    def run(model: nn.Module) -> None:
        model.zero_grad(set_to_none=True)
        for _ in range(3):
            weighted(model(image(4, 8, 9, 9))).backward()

    assert_same(*pair(), run)


@pytest.mark.parametrize("set_to_none", [True, False])
def test_gradients_are_set_to_zero_or_none_between_steps(set_to_none: bool) -> None:
    def run(model: nn.Module) -> None:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
        for _ in range(3):
            optimizer.zero_grad(set_to_none=set_to_none)
            weighted(model(image(4, 8, 9, 9))).backward()
            optimizer.step()

    assert_same(*pair(), run)


def test_threads_that_train_copies_get_the_bits_of_one() -> None:
    mine, _ = pair()
    x = image(4, 8, 9, 9)

    def trained(_: int) -> list[Tensor]:
        model = copy.deepcopy(mine)
        for _ in range(5):
            (model(x) * x).sum().backward()
        return gradients(model)

    expected = trained(0)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(trained, range(8)):
            assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_frozen_parameters_get_no_gradient() -> None:
    mine, _ = pair()
    for parameter in mine.parameters():
        parameter.requires_grad_(False)
    x = image(4, 8, 9, 9).requires_grad_()
    mine(x).square().sum().backward()
    assert x.grad is not None
    assert not gradients(mine)


def test_a_forward_without_gradients_keeps_nothing() -> None:
    mine, theirs = pair()
    x = image(4, 8, 9, 9)
    with torch.no_grad():
        out = mine(x)
        torch.testing.assert_close(out, theirs(x), rtol=1e-4, atol=1e-4)
    assert out.grad_fn is None


def test_gradients_of_gradients() -> None:
    results = []
    for model in pair():
        torch.manual_seed(0)
        x = image(2, 8, 5, 5).requires_grad_()
        (first,) = torch.autograd.grad(weighted(model(x)), x, create_graph=True)
        first.square().sum().backward()
        results.append(gradients(model))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-3 * float(b.abs().max()) + 1e-5)
