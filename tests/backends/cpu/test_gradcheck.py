"""Gradients of the kernels by differences of their results, and in memory that was NaN before."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.gradcheck import GradcheckError

from depthwise import accelerate_, functional
from depthwise.backends.cpu import machine, norms
from depthwise.backends.cpu.run import memory
from depthwise.norms import batch_norm

pytestmark = pytest.mark.skipif(machine.host() is None, reason="no generator serves this machine")


def whole(*size: int) -> Tensor:
    """Small whole numbers, channels-last: what is computed of them is exact."""
    torch.manual_seed(sum(size))
    numbers = torch.randint(-3, 4, size).float()
    if len(size) == 4:
        numbers = numbers.contiguous(memory_format=torch.channels_last)
    return numbers.requires_grad_()


def checked(function: Callable[..., Tensor], inputs: tuple[Tensor, ...], **options: Any) -> bool:
    """What gradcheck says, which would rather have float64; twice the same gradients must be the same bits."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Input #. requires gradient and is not a double precision", UserWarning)
        return torch.autograd.gradcheck(function, inputs, nondet_tol=0.0, **options)


CONVOLUTIONS: dict[str, tuple[Callable[..., Tensor], tuple[Tensor, ...]]] = {
    "depthwise": (
        lambda x, w, b: functional.depthwise_conv2d(x, w, b, padding=1),
        (whole(2, 5, 4, 3), whole(5, 1, 3, 3), whole(5)),
    ),
    "strided, dilated, two filters a channel": (
        lambda x, w, b: functional.depthwise_conv2d(x, w, b, stride=2, padding=(1, 2), dilation=(1, 2)),
        (whole(1, 3, 5, 6), whole(6, 1, 3, 2), whole(6)),
    ),
    "sequence": (
        lambda x, w: functional.depthwise_conv1d(x, w, padding=((3, 0),)),
        (whole(2, 3, 7), whole(3, 1, 4)),
    ),
    "volume": (
        lambda x, w: functional.depthwise_conv3d(x, w, padding=1),
        (whole(1, 2, 3, 3, 3), whole(2, 1, 3, 3, 3)),
    ),
    "pointwise": (
        lambda x, w, b: functional.pointwise_conv(2, x, w, b, 1),
        (whole(2, 5, 3, 2), whole(7, 5, 1, 1), whole(7)),
    ),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions(name: str) -> None:
    function, inputs = CONVOLUTIONS[name]
    # Linear in each input: any step gives the derivative, a whole one without rounding.
    assert checked(function, inputs, eps=1.0, atol=0.0, rtol=0.0)


def test_a_separable_convolution_with_activations() -> None:
    def convolve(x: Tensor, depthwise: Tensor, pointwise: Tensor) -> Tensor:
        activations = {"depthwise_activation": "silu", "pointwise_activation": "hardswish"}
        return functional.separable_conv2d(x, depthwise, pointwise, padding=1, **activations)  # type: ignore[arg-type]

    inputs = whole(1, 4, 3, 3), whole(4, 1, 3, 3), whole(5, 4, 1, 1)
    small = tuple((each / 4).detach().requires_grad_() for each in inputs)
    assert checked(convolve, small, eps=3e-3, atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize("activation", [None, ("silu", 0.0)], ids=str)
def test_batch_norms(activation: Any) -> None:
    def normalize(x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor) -> Tensor:
        out = batch_norm(x, None, weight, bias, 0.0, 1e-2, activation, residual)
        assert out is not None
        return out

    torch.manual_seed(0)
    images = tuple(torch.randn(2, 4, 3, 2).contiguous(memory_format=torch.channels_last) for _ in range(2))
    numbers = torch.rand(4) + 0.5, torch.randn(4)
    inputs = tuple(each.requires_grad_() for each in (images[0], *numbers, images[1]))
    assert checked(normalize, inputs, eps=3e-3, atol=2e-2, rtol=2e-2)


def test_a_wrong_gradient_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    right = norms.NormActivation.backward
    monkeypatch.setattr(norms.NormActivation, "backward", lambda ctx, dy, _: right(ctx, 1.1 * dy, _))
    with pytest.raises(GradcheckError, match="Jacobian mismatch"):
        test_batch_norms(None)


def test_no_gradient_of_a_block_is_left_unwritten(monkeypatch: pytest.MonkeyPatch) -> None:
    def filled(size: tuple[int, ...], stride: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return torch.empty_strided(size, stride, dtype=dtype).fill_(torch.nan)

    monkeypatch.setattr(memory, "new_result", filled)
    model = nn.Sequential(
        *(nn.Conv2d(11, 19, 1), nn.BatchNorm2d(19), nn.SiLU()),
        *(nn.Conv2d(19, 19, 5, stride=2, padding=2, groups=19), nn.BatchNorm2d(19), nn.ReLU6()),
        *(nn.Conv2d(19, 7, 1, bias=False), nn.BatchNorm2d(7)),
    )
    accelerate_(model)
    x = torch.randn(3, 11, 9, 7).contiguous(memory_format=torch.channels_last).requires_grad_()
    out = model(x)
    found = [out, *torch.autograd.grad(out.square().sum(), [x, *model.parameters()])]
    assert not any(tensor.isnan().any() for tensor in found)
