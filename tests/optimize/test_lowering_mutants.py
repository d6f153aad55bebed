"""Planted faults in how nodes are lowered: each must show, or the checks would let such a fault by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from depthwise.backends.cpu import sums
from depthwise.backends.cpu.lower import mean
from depthwise.backends.cpu.plan.mean import total_plan
from depthwise.backends.pixels import Mean
from depthwise.optimize import frozen
from depthwise.optimize.lowering import context, elementwise, moving, padding, reductions
from depthwise.optimize.lowering.context import Lie, Lowering, Piece
from tests.support.networks import Calls
from tests.support.whole import difference

Patch = pytest.MonkeyPatch


def forward(x: Tensor, conv: nn.Module) -> tuple[Tensor, ...]:
    y = conv(x)
    z = F.pad(y, (2, -1, 0, 1), mode="reflect") + F.pad(y, (2, -1, 0, 1), value=0.5)
    return (
        y.mean((2, 3)) + y.norm(2, (2, 3)),
        1 - z.transpose(1, 2).softmax(1),
        torch.stack([y, y.relu()], 1).sum(1),
        y[:, 1::2] * y.mean(3, keepdim=True)[:, :8].expand(-1, 8, -1, 7),
        torch.addcmul(y, y[:, :1], y[:, :, :1], value=0.5),
        torch.cat([a * number for number, a in enumerate(y.unbind(2))], 2),
    )


def worst() -> float:
    torch.manual_seed(0)
    model = Calls(forward, conv=nn.Conv2d(17, 17, 3, padding=1, groups=17)).eval()
    return difference(frozen.optimize(model, torch.zeros(1, 17, 6, 7)), model, torch.randn(3, 17, 6, 7))


def sums_squared(patch: Patch) -> None:
    whole = sums._is_of_all
    patch.setattr(sums, "_is_of_all", lambda norm, made: whole(replace(norm, result="mean"), made))


def sums_in_other_blocks(patch: Patch) -> None:
    patch.setattr(mean, "total_plan", lambda *given, block: total_plan(*given, block=block // 2))


def another_order_for_the_same(patch: Patch) -> None:
    patch.setattr(Lowering, "moved", lambda _, x, order: Lie(x.buffer, x.shape, order))


def the_first_number_everywhere(patch: Patch) -> None:
    whole = Lowering.copied
    patch.setattr(Lowering, "copied", lambda into, x, strides, *given: whole(into, x, (0,) * len(strides), *given))


def mirrored_with_the_edge(patch: Patch) -> None:
    whole = padding._stretches

    def stretches(size: int, before: int, after: int, mode: str) -> Any:
        for one in whole(size, before, after, mode):
            yield replace(one, x=one.x - 1) if one.step == -1 else one

    patch.setattr(padding, "_stretches", stretches)


def filled_with_nothing(patch: Patch) -> None:
    whole = context.boxed
    patch.setattr(padding, "boxed", lambda sizes, starts, steps, fill: whole(sizes, starts, steps, fill and 0.0))


def the_mean_of_a_sum(patch: Patch) -> None:
    patch.setattr(reductions, "Mean", lambda images, pixels, channels, _: Mean(images, pixels, channels))


def every_number(patch: Patch) -> None:
    whole = moving._piece
    patch.setattr(moving, "_piece", lambda node, piece, _, into: whole(node, piece, 1, into))


def pieces_one_further(patch: Patch) -> None:
    patch.setattr(moving, "Piece", lambda x, dimension, start, shape: Piece(x, dimension, max(start - 1, 0), shape))


def less_the_number(patch: Patch) -> None:
    whole: Any = elementwise._other
    turned = {"from": "sub"}
    patch.setattr(elementwise, "_other", lambda operation, *given: whole(turned.get(operation, operation), *given))


def without_its_factor(patch: Patch) -> None:
    whole = elementwise._steps
    patch.setattr(
        elementwise,
        "_steps",
        lambda node, x, others, into: whole(node, x, [one for one in others if one.term.value != 0.5], into),
    )


def test_without_a_fault_all_is_well() -> None:
    assert worst() <= 1


@pytest.mark.parametrize(
    "plant",
    [
        sums_squared,
        sums_in_other_blocks,
        another_order_for_the_same,
        the_first_number_everywhere,
        mirrored_with_the_edge,
        filled_with_nothing,
        the_mean_of_a_sum,
        every_number,
        pieces_one_further,
        less_the_number,
        without_its_factor,
    ],
    ids=lambda plant: plant.__name__,
)
def test_a_planted_fault_shows(plant: Callable[[Patch], None], monkeypatch: Patch) -> None:
    plant(monkeypatch)
    assert not worst() <= 1
