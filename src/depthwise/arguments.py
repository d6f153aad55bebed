"""What the words of the command line mean: sizes, paddings, inputs."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import typer

from .geometry import Padding, check_countable, positive


def parse_size(text: str) -> tuple[int, ...]:
    """(3, 224, 224) from "3x224x224"; one number is a tuple of one."""
    try:
        return tuple(_integer(part) for part in text.lower().split("x"))
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not numbers joined by x, such as 3x224x224") from None


def _integer(text: str) -> int:
    if not re.fullmatch("-?[0-9]{1,40}", text):
        raise ValueError
    return int(text)


class Input(NamedTuple):
    """What --input says: a size, the keyword it goes by, and a dtype where it is not the model's own."""

    keyword: str | None
    size: tuple[int, ...]
    dtype: str | None


DTYPES = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "uint8", "bool")


def parse_input(text: str) -> Input:
    """Input from "3x224x224", "pixels=3x224x224" or "tokens=128:int64"."""
    keyword, equals, rest = text.rpartition("=")
    size, colon, dtype = rest.partition(":")
    if (equals and not keyword.isidentifier()) or (colon and dtype not in DTYPES):
        kinds = ", ".join(DTYPES)
        raise typer.BadParameter(f"{text!r} is not 3x224x224, pixels=3x224x224 or 128:int64 (or {kinds})")
    return Input(keyword or None, parse_size(size), dtype or None)


def parse_padding(text: str) -> Padding:
    """Padding from "1", "1x2", "same", "valid", or "3:0" for 3 before and none after."""
    if text in ("same", "valid"):
        return text
    try:
        ends = [tuple(_integer(amount) for amount in part.split(":")) for part in text.lower().split("x")]
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not 1, 1x2, 3:0 (before:after), same or valid") from None
    # One number is both ends.
    return tuple((*end, *end) if len(end) == 1 else end for end in ends) if ":" in text else parse_size(text)


def inputs_given(inputs: list[Input] | None) -> Any:
    """The inputs as `count` takes them."""
    if not inputs:
        raise typer.BadParameter("needs the model's input, such as --input 3x224x224", param_hint="--input")
    named = [each for each in inputs if each.keyword is not None]
    if named and len({each.keyword for each in named}) < len(inputs):
        raise typer.BadParameter("give every input a keyword of its own, or none", param_hint="--input")
    if named:
        return {each.keyword: _example(each) for each in named}
    sizes = tuple(map(_example, inputs))
    return sizes[0] if len(sizes) == 1 else sizes


def plain_sizes(inputs: list[Input] | None) -> tuple[tuple[int, ...], ...]:
    """Sizes of inputs of floating-point numbers, in the order the model takes them."""
    inputs_given(inputs)
    for each in inputs or ():
        if each.keyword is not None or each.dtype is not None:
            raise typer.BadParameter("takes sizes alone here, such as --input 3x224x224", param_hint="--input")
    return tuple(_checked(each.size) for each in inputs or ())


def _example(given: Input) -> Any:
    """A size, or where its dtype is given a tensor of it without numbers."""
    if given.dtype is None:
        return given.size
    import torch

    return torch.empty((1, *_checked(given.size)), dtype=getattr(torch, given.dtype), device="meta")


def _checked(size: tuple[int, ...]) -> tuple[int, ...]:
    for n in size:
        positive(n, "input_size")
    check_countable("the input", *size)
    return size
