"""What the words of the command line mean."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import typer

from depthwise.arguments import Input, inputs_given, parse_input, parse_padding, parse_size


def test_sizes_and_paddings() -> None:
    assert parse_size("3x224X224") == (3, 224, 224)
    assert parse_size("7") == (7,)
    assert [parse_padding(text) for text in ("same", "1", "1x2", "3:0", "1:0x2")] == [
        "same",
        (1,),
        (1, 2),
        ((3, 0),),
        ((1, 0), (2, 2)),
    ]


def test_inputs() -> None:
    assert parse_input("3x9x9") == Input(None, (3, 9, 9), None)
    assert parse_input("tokens=128:int64") == Input("tokens", (128,), "int64")
    assert inputs_given([parse_input("3x9x9")]) == (3, 9, 9)
    assert inputs_given([parse_input("3x9x9"), parse_input("4")]) == ((3, 9, 9), (4,))
    assert inputs_given([parse_input("x=3x9x9"), parse_input("y=4")]) == {"x": (3, 9, 9), "y": (4,)}
    example = inputs_given([parse_input("128:int64")])
    assert (example.shape, example.dtype, example.device.type) == ((1, 128), torch.int64, "meta")


@pytest.mark.parametrize(
    ("parse", "text", "message"),
    [
        *(
            (parse_size, text, "is not numbers joined by x")
            for text in ("", "x", "3xAx7", "3x9x", "1_0", "３", "3×9", " 3")
        ),
        (parse_size, "1" * 41, "is not numbers joined by x"),
        *((parse_padding, text, "is not 1, 1x2, 3:0") for text in ("much", "::", "1:", "")),
        *((parse_input, text, "is not") for text in ("=3x9", "a b=3x9", "3x9:int7", "3x9:", "x=", "3:int64:int64")),
        (inputs_given, None, "needs the model's input"),
        (inputs_given, [Input("a", (3,), None), Input(None, (3,), None)], "a keyword of its own, or none"),
        (inputs_given, [Input("a", (3,), None), Input("a", (3,), None)], "a keyword of its own, or none"),
    ],
)
def test_what_they_cannot_mean(parse: Callable[[Any], object], text: Any, message: str) -> None:
    with pytest.raises(typer.BadParameter, match=message):
        parse(text)
