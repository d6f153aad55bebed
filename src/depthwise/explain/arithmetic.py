"""The arithmetic of a separable convolution, written out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from textwrap import wrap

from ..cost import Cost, separable_cost
from ..geometry import AXES, Geometry

LINE = 96

# The brackets of a product; each factor carries the name of the argument that it comes from.
Factors = tuple[tuple[tuple[str, int], ...], ...]


@dataclass(frozen=True, slots=True)
class Step:
    """One convolution on the way: what goes in, the kernels, what comes out, and its price."""

    name: str
    input_size: tuple[int, ...]
    kernels: int
    kernel_size: tuple[int, ...]  # (channels, *spatial) of one kernel
    output_size: tuple[int, ...]
    factors: Factors
    cost: Cost

    @property
    def formula(self) -> str:
        """The product that its multiplications are."""
        return product(*(tuple(value for _, value in group) for group in self.factors))


def steps(g: Geometry) -> tuple[Step, Step, Step]:
    """The dense convolution, the depthwise step and the pointwise step.

    >>> from depthwise.geometry import geometry
    >>> for step in steps(geometry((3, 7, 7), 3, out_channels=128)):
    ...     print(f"{step.name:9} {step.formula} = {step.cost.multiplications:,}")
    dense     128·(3·3·3)·(5·5) = 86,400
    depthwise 3·(3·3)·(5·5) = 675
    pointwise 128·3·(5·5) = 9,600
    """
    cost = separable_cost(g)
    out, ones = g.output_size[0], (1,) * g.rank
    pixels = tuple(("output_size", side) for side in g.out_spatial)
    kernel = tuple(("kernel_size", side) for side in g.kernel_size)
    channels, filters = ("in_channels", g.in_channels), ("out_channels", out)
    copies = (("depth_multiplier", g.depth_multiplier),) if g.depth_multiplier > 1 else ()
    each = tuple((copy,) for copy in copies)
    return (
        Step(
            "dense",
            g.input_size,
            out,
            (g.in_channels, *g.kernel_size),
            g.output_size,
            ((filters,), (*kernel, channels), pixels),
            cost.dense,
        ),
        Step(
            "depthwise",
            g.input_size,
            g.depthwise_channels,
            (1, *g.kernel_size),
            g.depthwise_size,
            ((channels,), *each, kernel, pixels),
            cost.depthwise,
        ),
        Step(
            "pointwise",
            g.depthwise_size,
            out,
            (g.depthwise_channels, *ones),
            g.output_size,
            ((filters,), (channels, *copies), pixels),
            cost.pointwise,
        ),
    )


def text(g: Geometry, note: str = "", more: Sequence[tuple[str, list[str]]] = ()) -> str:
    """The whole arithmetic as plain text; `note` says how the input's size was read, `more` follows as sections."""
    dense, depthwise, pointwise = steps(g)
    sections = (
        ("size of the output", output_sizes(g)),
        ("dense convolution", story(dense)),
        ("depthwise separable convolution, step 1: depthwise", story(depthwise)),
        ("depthwise separable convolution, step 2: pointwise", story(pointwise)),
        ("together", summary(g)),
        *more,
    )
    lines = [f"{phrase(g)}, dense and separable", *wrap(", ".join(settings(g)), LINE), *wrap(note, LINE)]
    lines.append(f"(shapes are (channels, {', '.join(AXES[g.rank])}))")
    for name, content in sections:
        lines += ["", name, *(f"    {line}" for line in content)]
    return "\n".join(lines)


def headline(g: Geometry) -> str:
    """The convolution and its settings in one line.

    >>> from depthwise.geometry import geometry
    >>> headline(geometry((3, 7, 7), 3, out_channels=128, stride=2))
    'A 3×3 convolution from 3 to 128 channels, stride 2'
    """
    return ", ".join([phrase(g), *settings(g)])


def phrase(g: Geometry) -> str:
    article = "An" if g.kernel_size[0] in (11, 18) or str(g.kernel_size[0])[0] == "8" else "A"
    kind = (
        f"{article} {times(g.kernel_size)} convolution"
        if g.rank > 1
        else f"A 1-d convolution of kernel {g.kernel_area}"
    )
    return f"{kind} from {g.in_channels:,} to {channels(g.output_size[0])}"


def settings(g: Geometry) -> list[str]:
    """Stride, padding, dilation and depth multiplier, where they are not the plainest."""
    padding = [str(before) if before == after else f"{before} before and {after} after" for before, after in g.padding]
    named = (
        ("stride", [str(s) for s in g.stride], "1"),
        ("padding", padding, "0"),
        ("dilation", [str(d) for d in g.dilation], "1"),
    )
    found = []
    for name, values, plain in named:
        if set(values) != {plain}:
            found.append(f"{name} {values[0] if len(set(values)) == 1 else '(' + ', '.join(values) + ')'}")
    return found + ([f"depth multiplier {g.depth_multiplier}"] if g.depth_multiplier > 1 else [])


def output_sizes(g: Geometry) -> list[str]:
    """How each side of the output follows from the input's, equal sides together.

    >>> from depthwise.geometry import geometry
    >>> output_sizes(geometry((3, 224, 224), 3, stride=2, padding="same", out_channels=32))
    ['height, width: floor((224 + 0 + 1 - 3) / 2) + 1 = 112']
    """
    sides = zip(g.input_size[1:], g.kernel_size, g.stride, g.padding, g.dilation, g.out_spatial, strict=True)
    named = zip(AXES[g.rank], sides, strict=True)
    lines = []
    for (n, k, s, pads, d, out), same in groupby(named, key=lambda pair: pair[1]):
        names = ", ".join(name for name, _ in same)
        padded = " + ".join(str(part) for part in (n, *(pads if any(pads) else ())))
        span = str(k) if d == 1 else f"({d}·({k} - 1) + 1)"
        positions = f"{padded} - {span}"
        lines.append(f"{names}: {f'floor(({positions}) / {s})' if s > 1 else positions} + 1 = {out}")
    return lines


def story(step: Step) -> list[str]:
    """Shapes, kernels and price of one step."""
    return [
        f"{step.input_size} -> {step.output_size}",
        f"{plural(step.kernels, 'kernel')} of {shape(step.kernel_size)}; {_reach(step)}",
        f"{step.formula} = {step.cost.multiplications:,} multiplications",
    ]


def _reach(step: Step) -> str:
    """Which channels a kernel sees."""
    each = "each" if step.kernels > 1 else "it"
    if step.name == "depthwise":
        copies = step.kernels // step.input_size[0]
        return f"{plural(copies, 'kernel')} for each channel, and each sees that channel alone"
    return f"{each} spans {all_of(step.input_size[0])}" + (" of one pixel" if step.name == "pointwise" else "")


def summary(g: Geometry) -> list[str]:
    """The sum, the ratio, its closed form and the parameters; plainly so where nothing is saved."""
    cost = separable_cost(g)
    dense, one, two = cost.dense, cost.depthwise, cost.pointwise
    together = cost.separable.multiplications
    factors = f"{g.depth_multiplier}·(1/{g.output_size[0]} + 1/{g.kernel_area})"
    lines = [
        f"{one.multiplications:,} + {two.multiplications:,} = {together:,} multiplications",
        f"{together:,} / {dense.multiplications:,} = {percent(together, dense.multiplications)} of the multiplications",
        f"depth_multiplier·(1/out_channels + 1/kernel area) = {factors} = {closed_form(g)}",
        f"parameters: {one.parameters:,} + {two.parameters:,} = {one.parameters + two.parameters:,}, "
        f"dense {dense.parameters:,}",
    ]
    return [*lines, *warning(g)]


def warning(g: Geometry) -> list[str]:
    """A line where the separable form is not cheaper, else none."""
    cost = separable_cost(g)
    if cost.separable.multiplications < cost.dense.multiplications:
        return []
    needed = decimal(cost.separable.multiplications, cost.dense.multiplications, 2)
    return [f"NOT cheaper: here the separable form needs {needed} times the multiplications of the dense one"]


def closed_form(g: Geometry) -> str:
    """depth_multiplier·(1/out_channels + 1/kernel area), to four decimals."""
    filters, area = g.output_size[0], g.kernel_area
    return decimal(g.depth_multiplier * (filters + area), filters * area, 4)


def product(*factors: int | tuple[int, ...]) -> str:
    """Factors with multiplication dots between them, tuples in brackets.

    >>> product(128, (3, 3, 3), (5,))
    '128·(3·3·3)·5'
    """
    return "·".join(_bracketed(factor) for factor in factors)


def times(sizes: Iterable[int]) -> str:
    return "×".join(str(size) for size in sizes)


def plural(count: int, thing: str) -> str:
    return f"{count:,} {thing}{'s' * (count != 1)}"


def channels(count: int) -> str:
    return plural(count, "channel")


def all_of(count: int) -> str:
    return {1: "the one channel", 2: "both channels"}.get(count, f"all {channels(count)}")


def shape(size: Iterable[int]) -> str:
    """(channels, *spatial), as everywhere."""
    return f"({', '.join(map(str, size))})"


def signed(value: int | None) -> str:
    """With a minus sign that is one; dots for what is not added up."""
    return "…" if value is None else str(value).replace("-", "−")


def percent(part: int, whole: int) -> str:
    """One decimal, or two digits of what is below 1 %.

    >>> percent(10275, 86400), percent(153, 100_000)
    ('11.9 %', '0.15 %')
    """
    digits = 1
    while 0 < part * 10 ** (digits + 1) < whole:
        digits += 1
    return f"{decimal(100 * part, whole, digits)} %"


def decimal(part: int, whole: int, digits: int) -> str:
    """Part / whole, rounded; a half goes up.

    >>> decimal(1, 8, 2), decimal(12345, 10, 1)
    ('0.13', '1,234.5')
    """
    units, rest = divmod((2 * part * 10**digits + whole) // (2 * whole), 10**digits)
    return f"{units:,}.{rest:0{digits}d}"


def _bracketed(factor: int | tuple[int, ...]) -> str:
    if isinstance(factor, int):
        return str(factor)
    joined = "·".join(str(f) for f in factor)
    return f"({joined})" if len(factor) > 1 else joined
