"""One budget of multiplications over all layers: spent where the next multiplication buys most error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

from ..errors import DepthwiseError
from .checks import shown
from .options import Option

# Of the squared error of the layers before it, what is left by a layer fitted to make up for them whose form is exact;
# docs/separate.md says where that was measured.
LEFT = 0.54


@dataclass(frozen=True, slots=True)
class Menu:
    """What one layer can be: its dense form, which is exact, and its separable forms."""

    name: str
    options: tuple[Option, ...]

    @property
    def dense(self) -> Option:
        return self.options[0]

    def hull(self) -> list[Option]:
        """The options on the lower convex hull of loss against multiplications, the cheapest first."""
        kept: list[Option] = []
        for option in sorted(self.options, key=lambda each: (each.form.multiplications, each.error)):
            if kept and loss_of(option) >= loss_of(kept[-1]):
                continue
            while len(kept) > 1 and self._slope(kept[-2], option) <= self._slope(kept[-2], kept[-1]):
                kept.pop()
            kept.append(option)
        return kept

    def _slope(self, cheap: Option, dear: Option) -> float:
        spent = dear.form.multiplications - cheap.form.multiplications
        return (loss_of(dear) - loss_of(cheap)) / max(spent, 1)

    def gain(self, cheap: Option, dear: Option) -> float:
        """Error that each further multiplication buys."""
        return -self._slope(cheap, dear)


def loss_of(option: Option) -> float:
    """The squared error at the network's output; at the layer's where that is all that is known."""
    return option.error**2 if option.arriving is None else option.arriving


def check_budget(budget: object, name: str = "budget") -> float:
    """`budget`, checked to be a share: more than 0, at most 1."""
    if isinstance(budget, bool) or not isinstance(budget, int | float) or not 0 < budget <= 1:
        raise DepthwiseError(f"{name} is a share, more than 0 and at most 1; got {shown(budget)}")
    return float(budget)


def least_budget(menus: Sequence[Menu]) -> float:
    """The share of the dense multiplications that the cheapest forms need."""
    dense = sum(menu.dense.form.multiplications for menu in menus)
    least = sum(min(option.form.multiplications for option in menu.options) for menu in menus)
    return least / dense if dense else 0.0


def allocate(menus: Sequence[Menu], budget: float) -> list[Option]:
    """An option for each layer, within `budget` of the dense multiplications, by marginal gains.

    Every layer starts at its cheapest option; the step along a layer's hull with the most gain per multiplication is
    taken next (Fox, Operations Research 14, 1966): the optimum for what is spent, as long as the next step fits. One
    that does not is passed over for those that do.
    """
    if least_budget(menus) > budget:
        raise DepthwiseError(
            f"budget={budget:g} is out of reach: the cheapest forms of the {len(menus)} layers that can be separated "
            f"need {least_budget(menus):.4f} of their dense multiplications"
        )
    hulls = [menu.hull() for menu in menus]
    at = [0] * len(menus)
    left = budget * sum(menu.dense.form.multiplications for menu in menus)
    left -= sum(hull[0].form.multiplications for hull in hulls)
    while True:
        steps = []
        for index, (menu, hull, place) in enumerate(zip(menus, hulls, at, strict=True)):
            if place + 1 < len(hull):
                cost = hull[place + 1].form.multiplications - hull[place].form.multiplications
                if cost <= left:
                    steps.append((menu.gain(hull[place], hull[place + 1]), -index, cost))
        if not steps:
            return [hull[place] for hull, place in zip(hulls, at, strict=True)]
        _, index, cost = max(steps)
        at[-index] += 1
        left -= cost


def within_error(menu: Menu, max_error: float) -> Option:
    """The cheapest option whose relative error is at most `max_error`: the dense one at worst."""
    fitting = (option for option in menu.options if option.error <= max_error)
    return min(fitting, key=lambda option: (option.form.multiplications, option.error))


def predicted(chosen: Sequence[Option]) -> float:
    """The relative error at the network's output of one option for each layer, in the order they run.

    Squares add up, and a fitted layer makes up for what came before it: the better, the nearer its form comes to it.
    """
    left = 0.0
    for option in chosen:
        if option.form.order != "dense" and option.arriving is not None:
            left *= LEFT + (1 - LEFT) * min(option.error, 1.0)
        left += loss_of(option)
    return sqrt(left)
