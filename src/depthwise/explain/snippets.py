"""The layer as code to copy: torch's own convolutions, and ours in one line."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from ..geometry import Geometry, Pairs

# Marks a piece of code as the value of an argument.
Mark = Callable[[str, str], str]


def snippets(g: Geometry, mark: Mark = lambda _, value: value) -> dict[str, str]:
    """Code by its kind: "dense", "separable" and "ours" in Python, and "command".

    >>> from depthwise.geometry import geometry
    >>> print(snippets(geometry((3, 7, 7), 3, out_channels=128))["separable"])
    separable = nn.Sequential(
        nn.Conv2d(3, 3, kernel_size=3, groups=3, bias=False),  # depthwise
        nn.Conv2d(3, 128, kernel_size=1, bias=False),  # pointwise
    )
    """
    conv, copies = f"nn.Conv{g.rank}d", g.depth_multiplier
    channels, filters = mark("in_channels", str(g.in_channels)), mark("out_channels", str(g.output_size[0]))
    middle = mark("depth_multiplier", str(g.depthwise_channels))
    kernel, options = mark("kernel_size", _short(g.kernel_size)), _options(g, mark)
    zeros = "" if _even(g) else f"    nn.ZeroPad{g.rank}d({mark('padding', _zeros(g))}),\n"
    grouped = f"groups={channels}, bias=False"
    whole = f"{conv}({channels}, {filters}, kernel_size={kernel}{options}, bias=False)"
    uneven = "" if _even(g) else f", padding={mark('padding', _pairs(g))}"
    return {
        "dense": f"dense = nn.Sequential(\n{zeros}    {whole},\n)" if zeros else f"dense = {whole}",
        "separable": f"separable = nn.Sequential(\n{zeros}"
        f"    {conv}({channels}, {middle}, kernel_size={kernel}{options}, {grouped}),  # depthwise\n"
        f"    {conv}({middle}, {filters}, kernel_size=1, bias=False),  # pointwise\n)",
        "ours": f"ours = depthwise.SeparableConv{g.rank}d({channels}, {filters}, {kernel}{options}{uneven}, bias=False"
        + (f", depth_multiplier={mark('depth_multiplier', str(copies))})" if copies > 1 else ")"),
        "command": f"depthwise explain {'x'.join(map(str, g.input_size))} --filters {filters}"
        f" --kernel {mark('kernel_size', joined(g.kernel_size))}{_flags(g, mark)}",
    }


def _options(g: Geometry, mark: Mark) -> str:
    """Stride, even padding and dilation, where they are not the plainest."""
    padding = [before for before, _ in g.padding] if _even(g) else [0]
    options = (("stride", g.stride, 1), ("padding", padding, 0), ("dilation", g.dilation, 1))
    return "".join(
        f", {name}={mark(name, _short(values))}" for name, values, plain in options if set(values) != {plain}
    )


def _flags(g: Geometry, mark: Mark) -> str:
    padding = joined([before for before, _ in g.padding]) if _even(g) else pairs(g.padding)
    options = (("stride", joined(g.stride), "1"), ("padding", padding, "0"), ("dilation", joined(g.dilation), "1"))
    flags = "".join(f" --{name} {mark(name, value)}" for name, value, plain in options if value != plain)
    copies = g.depth_multiplier
    return flags + (f" --multiplier {mark('depth_multiplier', str(copies))}" if copies > 1 else "")


def _even(g: Geometry) -> bool:
    return all(before == after for before, after in g.padding)


def _zeros(g: Geometry) -> str:
    """As torch's padding modules take it: the last dimension first."""
    return _tuple([str(amount) for pair in reversed(g.padding) for amount in pair])


def _pairs(g: Geometry) -> str:
    return _tuple([f"({before}, {after})" for before, after in g.padding])


def _tuple(values: Sequence[str]) -> str:
    return f"({values[0]},)" if len(values) == 1 else f"({', '.join(values)})"


def _short(values: Sequence[int]) -> str:
    """As Python takes it: one number where all are the same."""
    return str(values[0]) if len(set(values)) == 1 else _tuple([str(value) for value in values])


def joined(values: Iterable[int]) -> str:
    """As the command line takes it: one number where all are the same."""
    written = [str(value) for value in values]
    return written[0] if len(set(written)) == 1 else "x".join(written)


def pairs(padding: Pairs) -> str:
    """Uneven padding, as the command line takes it."""
    return "x".join(f"{before}:{after}" for before, after in padding)
