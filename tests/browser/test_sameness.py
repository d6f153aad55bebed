"""What the page's script computes and draws is what Python computes and draws, wrong layers' messages included."""

from __future__ import annotations

import random
import re
from typing import Any

import typer

from depthwise import DepthwiseError
from depthwise.arguments import parse_padding, parse_size
from depthwise.explain.bundle import modules
from depthwise.explain.scenes import scenes
from depthwise.explain.stage import Stage
from depthwise.explain.values import Values
from depthwise.explain.wording import layer_words, pixel_words
from depthwise.geometry import Geometry, geometry, positive
from tests.browser.conftest import Browser

CONFIGURATIONS = 300

DESCRIBE = """
return arguments[0].map(({ fields, at, filter }) => {
  try {
    const values = new Values(new Layer(fields)), stage = new Stage(values, at, filter);
    const drawn = Object.values(SCENES).map((draw) => draw(stage));
    const scenes = drawn.map(({ height, content, label }) => [height, content, label]);
    return { words: { ...layerWords(values.g), ...pixelWords(stage) }, scenes };
  } catch (error) {
    if (error instanceof LayerError) return { error: error.message };
    throw error;
  }
});
"""

Fields = dict[str, str]


def drawn(random: random.Random) -> Fields:
    """A layer as it stands in the fields: most are possible, some are not, and some are no layers at all."""
    rank = random.choice((1, 2, 2, 2, 3))

    def sides(least: int, most: int, *, single: bool = True) -> str:
        if single and random.random() < 0.6:
            return str(random.randint(least, most))
        return "x".join(str(random.randint(least, most)) for _ in range(rank))

    padding = [
        sides(0, 9),
        "same",
        "valid",
        "x".join(f"{random.randint(0, 5)}:{random.randint(0, 5)}" for _ in range(rank)),
        "1:0",
    ]
    large = random.random() < 0.3
    fields = {
        "channels": str(random.choice((1, 2, 3, 4, 7, 64, 512))),
        "size": sides(3, 300 if large else 14, single=False),
        "filters": str(random.choice((1, 2, 3, 4, 100, 128, 4096))),
        "kernel": sides(1, random.choice((3, 7, 31))),
        "stride": sides(1, random.choice((1, 3, 9))),
        "padding": random.choice(padding),
        "dilation": sides(1, random.choice((1, 1, 3, 40))),
        "multiplier": str(random.choice((1, 1, 1, 2, 3, 9, 32))),
    }
    if random.random() < 0.12:
        wrong = (
            "0",
            "-1",
            "",
            "a",
            "2.5",
            "1x2x3x4",
            "3:",
            "1:2:3",
            "1:2x3:4x5",
            "1x2",
            "'",
            "same",
            " 3 ",
            "1_0",
            "2X2",
        )
        fields[random.choice(list(fields))] = random.choice(wrong)
    return fields


def described(fields: Fields, choice: random.Random) -> tuple[dict[str, Any], dict[str, Any]]:
    """What is asked of the page, and Python's answer."""
    try:
        g = read(fields)
    except (DepthwiseError, typer.BadParameter) as error:
        return {"fields": fields, "at": 0, "filter": 0}, {"error": str(error)}
    stage = Stage(Values(g), choice.randrange(pixels(g)), choice.randrange(min(3, g.output_size[0])))
    answer = {
        "words": layer_words(g) | pixel_words(stage),
        "scenes": [[scene.height, scene.content, scene.label] for scene in scenes(stage)],
    }
    return {"fields": fields, "at": stage.at, "filter": stage.filter}, answer


def read(fields: Fields) -> Geometry:
    """As the command line and `explain` read it, in the order of the page's script."""
    size = parse_size(f"{fields['channels']}x{fields['size']}")
    kernel, stride, dilation = (parse_size(fields[name]) for name in ("kernel", "stride", "dilation"))
    padding = parse_padding(fields["padding"])
    filters = positive(whole(fields["filters"]), "out_channels")
    multiplier = whole(fields["multiplier"])
    return geometry(size, kernel, stride, padding, dilation, depth_multiplier=multiplier, out_channels=filters)  # type: ignore[arg-type]


def whole(text: str) -> int | str:
    return int(text) if re.fullmatch("-?[0-9]+", text) else text


def pixels(g: Geometry) -> int:
    count = 1
    for side in g.out_spatial:
        count *= side
    return count


def test_the_page_says_and_draws_what_python_does(browser: Browser) -> None:
    choice = random.Random(19)
    asked, expected = zip(*(described(drawn(choice), choice) for _ in range(CONFIGURATIONS)), strict=True)
    wrong = [answer for answer in expected if "error" in answer]
    assert 20 <= len(wrong) <= 150
    assert len({answer["error"].split()[0] for answer in wrong}) >= 6
    browser.open("<!DOCTYPE html><title>nothing</title>")
    for start in range(0, CONFIGURATIONS, 30):
        found = browser.run(modules() + DESCRIBE, asked[start : start + 30])
        for question, actual, answer in zip(asked[start:], found, expected[start:], strict=False):
            assert actual == answer, question


def test_the_comparison_can_fail(browser: Browser) -> None:
    browser.open("<!DOCTYPE html><title>nothing</title>")
    question, answer = described(drawn(random.Random(2)), random.Random(2))
    (found,) = browser.run(modules().replace("% 3 - 1", "% 3 - 2") + DESCRIBE, [question])
    assert found != answer
