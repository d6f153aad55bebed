"""The report of a separation: what became of every convolution, what it costs and what it lost."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

from ..errors import DepthwiseError
from ..geometry import positive
from .budget import Menu, allocate, least_budget, predicted
from .fields import Fields, wrong
from .options import Form, Option, Order
from .whole import Rest

FORMAT = 1


@dataclass(frozen=True, slots=True)
class LayerSeparation:
    """What became of one convolution.

    multiplications_before, _after: of one sample
    relative_error:   of its output, this layer separated alone, as predicted when its form was chosen; norms
    cumulative_error: of its output as it is now, everything before it separated too; None without calibration
    svd_error:        what the plain SVD of the same form would leave there
    unseen:           directions of its inputs that the calibration data do not show; there it keeps the SVD's weights
    reason:           why it stays dense; "" where it does not
    options:          every form there was to choose from, the dense one first
    """

    name: str
    form: Form
    multiplications_before: int
    relative_error: float = 0.0
    cumulative_error: float | None = None
    svd_error: float | None = None
    unseen: int = 0
    reason: str = ""
    options: tuple[Option, ...] = ()

    @property
    def order(self) -> str:
        return self.form.order

    @property
    def multiplier(self) -> int:
        return self.form.multiplier

    @property
    def multiplications_after(self) -> int:
        return self.form.multiplications

    @property
    def separated(self) -> bool:
        return self.form.order != "dense"


def option_of(layer: LayerSeparation) -> Option:
    """The option of a layer with a choice that was taken."""
    return next(option for option in layer.options if option.form == layer.form)


@dataclass(frozen=True, slots=True)
class FrontierPoint:
    """One budget: the share asked for, the multiplications spent, and the error predicted at the network's output."""

    budget: float
    multiplications: int
    predicted_error: float


@dataclass(frozen=True, slots=True)
class Evaluated:
    """A separation at another budget, measured: the error that came, None without data, and what `evaluate` gave."""

    budget: float
    multiplications: int
    output_error: float | None
    value: float


@dataclass(frozen=True, slots=True, repr=False)
class Separation:
    """What `separate_` did: `print` it for a table; a notebook shows the plot too.

    layers:       every convolution, in the order of the model's modules
    per:          what multiplications are counted for: "sample", or "output position" where no sizes are known
    output_error: of the network's output, relative, on the calibration data; None without
    samples:      that were calibrated with, over all processes
    remarks:      sentences on the whole, such as that the samples were few
    elsewhere:    multiplications in all but the layers with a choice, by kind; None where they were not counted
    value_before, value_after: what `evaluate` gave for the dense and the separated network; None without
    evaluated:    what came at further budgets
    """

    layers: tuple[LayerSeparation, ...]
    per: str
    budget: float | None
    max_error: float | None
    output_error: float | None
    samples: int
    remarks: tuple[str, ...] = ()
    elsewhere: tuple[Rest, ...] | None = None
    value_before: float | None = None
    value_after: float | None = None
    evaluated: tuple[Evaluated, ...] = ()

    @property
    def separated(self) -> tuple[LayerSeparation, ...]:
        return tuple(layer for layer in self.layers if layer.separated)

    @property
    def touchable(self) -> tuple[LayerSeparation, ...]:
        """The layers that the budget is a share of: those with a choice."""
        return tuple(layer for layer in self.layers if layer.options)

    @property
    def multiplications_before(self) -> int:
        return sum(layer.multiplications_before for layer in self.touchable)

    @property
    def multiplications_after(self) -> int:
        return sum(layer.multiplications_after for layer in self.touchable)

    @property
    def share(self) -> float:
        """Multiplications now per multiplication before, over the layers with a choice."""
        return self.multiplications_after / self.multiplications_before if self.multiplications_before else 1.0

    @property
    def whole_before(self) -> int | None:
        """Multiplications of the whole dense network."""
        return None if self.elsewhere is None else self.multiplications_before + self._rest

    @property
    def whole_share(self) -> float | None:
        """Multiplications now per multiplication before, over the whole network; None where not counted."""
        if not self.whole_before:
            return None
        return (self.multiplications_after + self._rest) / self.whole_before

    @property
    def _rest(self) -> int:
        return sum(rest.multiplications for rest in self.elsewhere or ())

    @property
    def predicted_error(self) -> float:
        """At the network's output, as it was predicted when the forms were chosen."""
        return predicted([option_of(layer) for layer in self.touchable])

    @property
    def measured_per_predicted(self) -> float:
        """What came, of what was predicted; 1 where nothing was measured."""
        predicted = self.predicted_error
        return self.output_error / predicted if self.output_error and predicted > 0 else 1.0

    def frontier(self, points: int = 10, *, calibrated: bool = True) -> tuple[FrontierPoint, ...]:
        """What other budgets would give, from the least to all; nothing is fitted again.

        The error is that of the layers alone, each as it arrives at the network's output, added up; `calibrated` by
        what was measured of this network.
        """
        points = positive(points, "points")
        menus = self._menus
        least = least_budget(menus)
        factor = self.measured_per_predicted if calibrated else 1.0
        found: list[FrontierPoint] = []
        highest = 0.0
        for step in reversed(range(points if menus else 0)):
            budget = least + (1 - least) * step / max(points - 1, 1)
            # The least is met whatever its quotient rounds to.
            chosen = allocate(menus, budget * (1 + 1e-12))
            # What fewer multiplications could do, more can.
            highest = max(highest, factor * predicted(chosen))
            found.append(FrontierPoint(budget, sum(option.form.multiplications for option in chosen), highest))
        return tuple(reversed(found))

    @property
    def _menus(self) -> list[Menu]:
        return [Menu(layer.name, layer.options) for layer in self.touchable]

    def to_dict(self) -> dict[str, Any]:
        """The same as nested dicts and lists of strings and numbers; `from_dict` reads it."""
        totals = {
            "multiplications_before": self.multiplications_before,
            "multiplications_after": self.multiplications_after,
        }
        return json.loads(json.dumps({"format": FORMAT, **asdict(self), "totals": totals}))  # type: ignore[no-any-return]

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Separation:
        """The report that `to_dict` gave; every field is checked, and one that is wrong is named."""
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise DepthwiseError(f"this is no report of a separation in format {FORMAT}")
        fields = Fields(content)
        report = cls(
            per=fields.text("per", "sample", "output position"),
            budget=fields.share_or_none("budget"),
            max_error=fields.share_or_none("max_error"),
            output_error=fields.number_or_none("output_error"),
            samples=fields.whole("samples", 0),
            layers=tuple(_layer(layer) for layer in fields.objects("layers")),
            remarks=fields.texts("remarks") if fields.has_value("remarks") else (),
            value_before=_any_number_or_none(fields, "value_before"),
            value_after=_any_number_or_none(fields, "value_after"),
            evaluated=tuple(_evaluated(each) for each in fields.objects("evaluated"))
            if fields.has_value("evaluated")
            else (),
            elsewhere=tuple(_rest(rest) for rest in fields.objects("elsewhere"))
            if fields.has_value("elsewhere")
            else None,
        )
        names = [layer.name for layer in report.layers]
        for place, name in enumerate(names):
            if name in names[:place]:
                raise wrong(f"layers[{place}].name", "a layer that did not come before", name)
        if fields.has_value("totals"):
            totals = fields.object("totals")
            for name in ("multiplications_before", "multiplications_after"):
                if totals.whole(name, 0) != getattr(report, name):
                    raise wrong(f"totals.{name}", f"{getattr(report, name)}, the sum", totals.content[name])
        return report

    def save(self, path: str | Path) -> None:
        """Write the report as JSON, to stand beside the weights."""
        try:
            Path(path).write_text(json.dumps(self.to_dict(), indent=1) + "\n", encoding="utf-8")
        except (OSError, TypeError) as error:
            raise DepthwiseError(f"the report cannot be written to {path}: {error}") from error

    @classmethod
    def load(cls, path: str | Path) -> Separation:
        """The report that `save` wrote."""
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
        # JSON that is nested too deep ends in a RecursionError.
        except (OSError, ValueError, TypeError, RecursionError) as error:
            raise DepthwiseError(f"{path} does not load as the report of a separation: {error}") from error
        return cls.from_dict(content)

    def __repr__(self) -> str:
        return (
            f"Separation({len(self.separated)} of {len(self.layers)} convolutions, {self.share:.1%} of multiplications)"
        )

    def __str__(self) -> str:
        from .table import text_table

        return text_table(self)

    def _repr_html_(self) -> str:
        from .page import fragment

        return fragment(self)


def _layer(fields: Fields) -> LayerSeparation:
    options = tuple(_option(option) for option in fields.objects("options"))
    layer = LayerSeparation(
        name=fields.text("name"),
        form=_form(fields.object("form")),
        multiplications_before=fields.whole("multiplications_before", 0),
        relative_error=fields.number("relative_error"),
        cumulative_error=fields.number_or_none("cumulative_error"),
        svd_error=fields.number_or_none("svd_error"),
        unseen=fields.whole("unseen", 0),
        reason=fields.text("reason"),
        options=options,
    )
    dense = Form("dense", 1, layer.multiplications_before)
    forms = [option.form for option in options] or [dense]
    if forms[0] != dense:
        raise wrong(f"{fields.place}.options[0].form", f"the dense one, {dense}", asdict(forms[0]))
    if layer.form not in forms:
        raise wrong(f"{fields.place}.form", "one of its options, or the dense one without", asdict(layer.form))
    return layer


def _any_number_or_none(fields: Fields, name: str) -> float | None:
    return fields.any_number(name) if fields.has_value(name) else None


def _evaluated(fields: Fields) -> Evaluated:
    return Evaluated(
        fields.number("budget"),
        fields.whole("multiplications", 0),
        fields.number_or_none("output_error"),
        fields.any_number("value"),
    )


def _rest(fields: Fields) -> Rest:
    return Rest(fields.text("kind"), fields.whole("multiplications", 0))


def _option(fields: Fields) -> Option:
    arriving = fields.number("arriving") if fields.has_value("arriving") else None
    return Option(_form(fields.object("form")), fields.number("error"), arriving)


def _form(fields: Fields) -> Form:
    order: Any = fields.text("order", *get_args(Order))
    form = Form(order, fields.whole("multiplier", 1), fields.whole("multiplications", 0))
    if form.multiplier > 1 and order != "depthwise first":
        raise wrong(f"{fields.place}.multiplier", f"1, as it is {order}", form.multiplier)
    return form
