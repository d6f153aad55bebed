"""The allocation beside every possible one, and its limits."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from depthwise import DepthwiseError
from depthwise.separate.budget import (
    Menu,
    allocate,
    check_budget,
    least_budget,
    loss_of,
    predicted,
    within_error,
)
from depthwise.separate.options import Form, Option


def menu(name: str, dense: int, errors: dict[int, float], sensitivity: float = 1.0) -> Menu:
    forms = [
        Option(Form("depthwise first", m, m * dense // 10), error, sensitivity * error**2)
        for m, error in errors.items()
    ]
    return Menu(name, (Option(Form("dense", 1, dense), 0.0), *forms))


MENUS = [
    menu("a", 1000, {1: 0.5, 2: 0.3, 4: 0.1}),
    menu("b", 3000, {1: 0.6, 2: 0.2, 3: 0.19}, 2.0),
    menu("c", 500, {1: 0.05, 2: 0.04}, 0.1),
]


def loss(chosen: tuple[Option, ...] | list[Option]) -> float:
    return sum(map(loss_of, chosen))


def spent(chosen: tuple[Option, ...] | list[Option]) -> int:
    return sum(option.form.multiplications for option in chosen)


@pytest.mark.parametrize("budget", [0.1, 0.15, 0.2, 0.3, 0.5, 0.8, 1.0])
def test_nothing_that_costs_as_little_loses_much_less(budget: float) -> None:
    chosen = allocate(MENUS, budget)
    assert spent(chosen) <= budget * 4500
    least = min(loss(every) for every in product(*(menu.options for menu in MENUS)) if spent(every) <= spent(chosen))
    # Steps that do not fit are passed over, and what is left then goes to others: no longer the optimum.
    assert loss(chosen) <= 1.25 * least + 1e-12
    if budget not in (0.5, 0.8):
        assert loss(chosen) == pytest.approx(least)


def test_more_budget_never_loses_more() -> None:
    losses = [loss(allocate(MENUS, step / 20)) for step in range(2, 21)]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] == 0


def test_a_random_allocation_can_be_worse() -> None:
    worst = max(loss(every) for every in product(*(menu.options for menu in MENUS)) if spent(every) <= 2250)
    assert loss(allocate(MENUS, 0.5)) < worst


def test_the_cheapest_within_an_error() -> None:
    assert within_error(MENUS[0], 0.35).form.multiplier == 2
    assert within_error(MENUS[0], 0.01).form.order == "dense"


def test_errors() -> None:
    assert least_budget(MENUS) == pytest.approx(0.1)
    assert least_budget([]) == 0
    with pytest.raises(
        DepthwiseError, match=r"budget=0.09 is out of reach: the cheapest forms of the 3 .* need 0.1000"
    ):
        allocate(MENUS, 0.09)
    for wrong in (0, -1, 1.5, True, "half", float("nan"), torch.tensor(0.5)):
        with pytest.raises(DepthwiseError, match="budget is a share, more than 0 and at most 1; got"):
            check_budget(wrong)


def test_the_prediction_adds_up_squares_and_counts_on_later_fits() -> None:
    form = Form("depthwise first", 1, 10)
    alone, unseen, dense = Option(form, 0.5, 0.04), Option(form, 0.3), Option(Form("dense", 1, 90), 0.0, 0.0)
    assert predicted([dense, dense]) == 0
    # By the weights alone nothing is fitted.
    assert predicted([unseen, unseen]) == pytest.approx(0.3 * 2**0.5)
    assert predicted([alone, dense]) == pytest.approx(0.2)
    assert predicted([alone]) < predicted([alone, alone]) < 2**0.5 * predicted([alone])
    # What is lost early is made up for, and more by a layer that comes nearer to its own.
    near, rough = Option(form, 0.1, 0.01), Option(form, 0.9, 0.01)
    assert predicted([alone, near]) < predicted([near, alone])
    assert predicted([alone, near]) < predicted([alone, rough])
    assert predicted([alone, dense]) < predicted([alone, rough])
