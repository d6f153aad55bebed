"""The explanation: its numbers against the cost formulas and the reference, its picture, its page, its code."""

import json
import re
import shlex
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from itertools import combinations, product
from math import dist, prod
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import depthwise as depthwise_package
from depthwise import DepthwiseError, reference
from depthwise.arguments import parse_padding, parse_size
from depthwise.cost import closed_form_ratio
from depthwise.explain import Explanation, explain
from depthwise.explain.arithmetic import decimal, output_sizes, percent, shape, signed, steps
from depthwise.explain.bundle import script
from depthwise.explain.cells import CELL
from depthwise.explain.scenes import dense, scenes
from depthwise.explain.snippets import snippets
from depthwise.explain.stage import WIDTH, Scene, Stage
from depthwise.explain.times import Measured, Times
from depthwise.explain.values import Values
from depthwise.page.document import source

SVG = "{http://www.w3.org/2000/svg}"
LINE_WIDTH = 100
ELEMENT_BOUND = 6000
# Font sizes of picture.css.
SIZES = {"title": 12.0, "head": 15.0, "name": 10.5, "note": 10.5, "part": 10.5, "small": 9.0, "sign": 20.0, "sum": 12.0}

Point = tuple[float, float]

EXAMPLES = {
    "standard": explain((3, 7, 7), 128, 3),
    "padded": explain((32, 112, 112), 64, 3, padding=1),
    "deep": explain((512, 14, 14), 512, 3, padding="same"),
    "strided small": explain((3, 9, 9), 5, 3, stride=2),
    "strided": explain((3, 224, 224), 32, 3, stride=2, padding="same"),
    "1d": explain((64, 100), 128, 5),
    "causal": explain((2, 12), 3, 4, padding=((3, 0),)),
    "3d": explain((16, 8, 28, 28), 32, 3),
    "3d padded": explain((3, 4, 6, 6), 5, (2, 3, 3), padding=1, depth_multiplier=2),
    "multiplied": explain((3, 7, 7), 128, 3, depth_multiplier=2),
    "many filters": explain((64, 9, 9), 2048, 3, depth_multiplier=32),
    "large kernel": explain((96, 56, 56), 96, 7, padding=3),
    "huge": explain((2048, 1000, 1000), 2048, 31),
    "dilated": explain((4, 12, 12), 8, 3, dilation=2, padding=2),
    "one of each": explain((1, 5, 5), 1, 3, padding=((1, 0), (0, 2))),
    "one pixel": explain((1, 1), 1, 1),
    "dearer": explain((8, 9, 9), 1, 1, depth_multiplier=4),
}

example = pytest.mark.parametrize("explanation", EXAMPLES.values(), ids=EXAMPLES.keys())


@st.composite
def explanations(draw: st.DrawFn) -> Explanation:
    rank = draw(st.integers(1, 3))

    def per_axis(least: int, most: int) -> list[int]:
        return draw(st.lists(st.integers(least, most), min_size=rank, max_size=rank))

    kernel, dilation, stride = per_axis(1, 7), per_axis(1, 3), per_axis(1, 3)
    larger = per_axis(0, draw(st.sampled_from([4, 300])))
    spatial = [d * (k - 1) + 1 + more for k, d, more in zip(kernel, dilation, larger, strict=True)]
    channels, out_channels = (draw(st.one_of(st.integers(1, 8), st.integers(1, 2048))) for _ in range(2))
    pairs = st.tuples(st.integers(0, 5), st.integers(0, 5))
    padding = draw(st.one_of(st.just("same"), st.integers(0, 4), st.lists(pairs, min_size=rank, max_size=rank)))
    multiplier = draw(st.integers(1, 9))
    size = (channels, *spatial)
    return explain(size, out_channels, kernel, stride, padding, dilation, depth_multiplier=multiplier)


class TestNumbers:
    def test_of_the_standard_example(self) -> None:
        text = EXAMPLES["standard"].text
        for line in (
            "128·(3·3·3)·(5·5) = 86,400 multiplications",
            "3·(3·3)·(5·5) = 675 multiplications",
            "128·3·(5·5) = 9,600 multiplications",
            "675 + 9,600 = 10,275 multiplications",
            "10,275 / 86,400 = 11.9 % of the multiplications",
            "depth_multiplier·(1/out_channels + 1/kernel area) = 1·(1/128 + 1/9) = 0.1189",
            "height, width: 7 - 3 + 1 = 5",
        ):
            assert f"    {line}\n" in text

    @given(explanations())
    @settings(deadline=None)
    def test_closed_form_is_the_ratio(self, explanation: Explanation) -> None:
        assert explanation.cost.ratio == pytest.approx(closed_form_ratio(explanation.geometry))

    @given(explanations())
    @settings(deadline=None)
    def test_formulas_come_out_as_the_cost(self, explanation: Explanation) -> None:
        for step in steps(explanation.geometry):
            assert value(step.formula) == step.cost.multiplications

    @given(explanations())
    @settings(deadline=None)
    def test_output_sizes_come_out_as_the_geometry(self, explanation: Explanation) -> None:
        found: list[int] = []
        for line in output_sizes(explanation.geometry):
            names, equation = line.split(": ")
            formula, result = equation.split(" = ")
            assert value(formula) == int(result)
            found += [int(result)] * len(names.split(", "))
        assert tuple(found) == explanation.geometry.out_spatial

    def test_floor_counts(self) -> None:
        assert value("floor((8 + 0 + 0 - 3) / 2) + 1") == 3

    def test_says_where_it_is_not_cheaper(self) -> None:
        dearer, standard = EXAMPLES["dearer"], EXAMPLES["standard"]
        for form in (dearer.text, dearer.svg, dearer.html):
            assert "NOT cheaper" in form
        for form in (standard.text, standard.svg, standard.html.split("<script")[0]):
            assert "NOT cheaper" not in form

    @given(st.integers(1, 10**9), st.integers(1, 10**9))
    def test_shares_are_rounded_as_a_person_would(self, part: int, whole: int) -> None:
        assert abs(float(decimal(part, whole, 3).replace(",", "")) - part / whole) <= 0.0005001 * (
            1 + 1e-9 * part / whole
        )
        share = percent(part, whole)
        assert float(share[:-2].replace(",", "")) == pytest.approx(100 * part / whole, rel=0.06, abs=0.0501)

    def test_equal_is_not_cheaper(self) -> None:
        equal = explain((2, 4, 4), 2, (1, 2))
        assert equal.cost.ratio == 1
        assert "NOT cheaper: here the separable form needs 1.00 times" in equal.text


class TestText:
    @given(explanations())
    @settings(deadline=None)
    def test_fits_a_terminal(self, explanation: Explanation) -> None:
        # Code is copied as it is, in one line.
        assert max(map(len, explanation.text.split("in code")[0].splitlines())) <= LINE_WIDTH

    def test_is_what_print_shows(self) -> None:
        assert str(EXAMPLES["1d"]) == EXAMPLES["1d"].text

    def test_shows_the_settings(self) -> None:
        explanation = explain((4, 9, 12), 8, 3, (2, 1), ((1, 0), (2, 2)), 2, depth_multiplier=3)
        lines = explanation.text.splitlines()
        assert lines[1] == "stride (2, 1), padding (1 before and 0 after, 2), dilation 2, depth multiplier 3"
        assert "    height: floor((9 + 1 + 0 - (2·(3 - 1) + 1)) / 2) + 1 = 3" in lines
        assert "    width: 12 + 2 + 2 - (2·(3 - 1) + 1) + 1 = 12" in lines
        assert "    12 kernels of (1, 3, 3); 3 kernels for each channel, and each sees that channel alone" in lines


class TestDict:
    @example
    def test_survives_json(self, explanation: Explanation) -> None:
        found = explanation.to_dict()
        assert json.loads(json.dumps(found)) == found

    def test_has_the_numbers(self) -> None:
        found = EXAMPLES["multiplied"].to_dict()
        assert found["depth_multiplier"] == 2
        assert found["ratio"] == pytest.approx(20550 / 86400)
        described = json.dumps(found["steps"])
        assert '"name": "pointwise", "input_size": [6, 5, 5], "kernels": 128, "kernel_size": [6, 1, 1]' in described


class TestValues:
    @pytest.mark.parametrize("name", ["standard", "strided small", "causal", "3d padded", "multiplied", "one of each"])
    def test_sums_are_those_of_the_convolutions(self, name: str) -> None:
        g = EXAMPLES[name].geometry
        values, rank, kernel = Values(g), g.rank, g.kernel_size
        spatial = g.input_size[1:]

        def tensor(size: Sequence[int], value: Callable[..., int]) -> torch.Tensor:
            flat = [float(value(*index)) for index in product(*map(range, size))]
            return torch.tensor(flat).reshape(tuple(size))

        def place(index: Sequence[int]) -> tuple[int, int, int]:
            z, y, x = (0,) * (3 - rank) + tuple(index)
            return z, y, x

        filters = min(g.output_size[0], 3)
        x = tensor((g.in_channels, *spatial), lambda c, *i: values.inputs(c, place(i)))[None]
        dense = tensor((filters, g.in_channels, *kernel), lambda f, c, *i: values.dense(f, c, place(i)))
        own = tensor((g.depthwise_channels, 1, *kernel), lambda j, _, *i: values.depthwise(j, place(i)))
        mix = tensor((filters, g.depthwise_channels, *(1,) * rank), lambda f, j, *_: values.pointwise(f, j))
        settings = (g.stride, g.padding, g.dilation)
        middle = reference.depthwise_conv(x, own, None, *settings)
        for f in range(filters):
            copies = reference.depthwise_conv(x, dense[f][:, None], None, *settings).sum(1)[0]
            for at in product(*map(range, g.out_spatial)):
                assert values.dense_sum(f, place(at)) == copies[at].item()
                mixed = mix[f].reshape(-1) @ torch.stack([channel[at] for channel in middle[0]])
                assert values.pointwise_sum(f, place(at)) == mixed.item()
                assert (
                    values.depthwise_sum(f % g.depthwise_channels, place(at))
                    == middle[0, f % g.depthwise_channels][at].item()
                )

    def test_what_would_take_too_long_is_not_added_up(self) -> None:
        values = Values(EXAMPLES["huge"].geometry)
        assert values.dense_sum(0, (0, 5, 5)) is None
        assert values.pointwise_sum(0, (0, 5, 5)) is None
        assert "dense …, separable …: two functions" in EXAMPLES["huge"].html


class TestPicture:
    @example
    def test_is_sound(self, explanation: Explanation) -> None:
        check_picture(explanation.svg)

    @given(explanations(), st.integers(0, 10**6), st.integers(0, 2))
    @settings(deadline=None, max_examples=60)
    def test_is_sound_anywhere(self, explanation: Explanation, at: int, at_work: int) -> None:
        g = explanation.geometry
        stage = Stage(Values(g), at % prod(g.out_spatial), at_work % min(3, g.output_size[0]))
        for scene in scenes(stage):
            check_picture(
                f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {scene.height}">{scene.content}</svg>'
            )

    @example
    def test_shows_every_size(self, explanation: Explanation) -> None:
        g = explanation.geometry
        for size in (
            g.input_size,
            g.depthwise_size,
            g.output_size,
            (g.in_channels, *g.kernel_size),
            (1, *g.kernel_size),
        ):
            assert f">{shape(size)}</text>" in explanation.svg

    @example
    def test_is_deterministic(self, explanation: Explanation) -> None:
        assert Explanation(explanation.geometry).svg == explanation.svg

    def test_marks_what_the_kernel_lies_on(self) -> None:
        cells = kinds(dense(Stage(Values(EXAMPLES["dilated"].geometry), 0)), "c0")
        # Padding of 2: of the first pixel's nine taps the first row and the first column lie on zeros.
        assert (cells["tap"], cells["tap pad"]) == (4, 5)
        strided = kinds(dense(Stage(Values(EXAMPLES["strided small"].geometry), 1)), "c0")
        assert strided["tap"] == 9

    def test_a_moved_kernel_is_drawn_where_the_stride_puts_it(self) -> None:
        values = Values(EXAMPLES["strided small"].geometry)
        first, second = (re.search(r'class="tap" d="M(\d+) (\d+)', dense(Stage(values, at)).content) for at in (0, 1))
        assert first
        assert second
        assert int(second[1]) - int(first[1]) == 2 * CELL

    def test_padding_is_drawn_pixel_by_pixel(self) -> None:
        strip = kinds(dense(Stage(Values(explain((2, 12), 3, 9, padding=((8, 0),)).geometry), 0)), "c0")
        assert strip["pad"] + strip["tap pad"] == 8

    def test_a_block_has_its_padding_on_every_side(self) -> None:
        drawn = dense(Stage(Values(EXAMPLES["3d padded"].geometry), 0)).content
        assert drawn.count('class="rim"') == 3
        rim = re.search(r'class="rim" d="([^"]+)"', drawn)
        assert rim
        # Front, back and the four edges between.
        assert rim[1].count("z") == 2
        assert rim[1].count("L") == 4

    def test_says_what_is_not_drawn(self) -> None:
        assert "drawn: 9×9 of 114×114" in EXAMPLES["padded"].svg
        assert "and 29 more channels" in EXAMPLES["padded"].svg
        assert "drawn:" not in EXAMPLES["one of each"].svg

    def test_one_channel_is_not_said_to_be_mixed(self) -> None:
        assert "mixed" not in EXAMPLES["one of each"].svg
        assert "nothing to mix" in EXAMPLES["one of each"].html
        assert "the channels are mixed" in EXAMPLES["standard"].svg

    def test_separable_kernels_are_multiples_of_one(self) -> None:
        values = Values(EXAMPLES["standard"].geometry)
        weights = [values.pointwise(f, 0) for f in range(4)]
        for weight in weights:
            assert f">{signed(weight)} · a</text>" in EXAMPLES["standard"].svg
        assert len(set(weights)) == 4

    def test_can_be_read_aloud(self) -> None:
        root = ET.fromstring(EXAMPLES["standard"].svg)
        assert root.get("role") == "img"
        assert root.findtext(f"{SVG}title") == "A 3×3 convolution from 3 to 128 channels: dense and depthwise separable"
        assert "together 10,275." in (root.findtext(f"{SVG}desc") or "")

    @pytest.mark.parametrize(
        ("before", "after", "complaint"),
        [
            ('viewBox="0 0 9', 'viewBox="0 0 7', "outside"),
            ('<text class="name" x="8" y="25"', '<text class="name" x="8" y="14"', "overlap"),
            ("</svg>", "<g/>" * ELEMENT_BOUND + "</svg>", "elements"),
        ],
    )
    def test_the_check_can_fail(self, before: str, after: str, complaint: str) -> None:
        svg = EXAMPLES["standard"].svg
        assert before in svg
        with pytest.raises(AssertionError, match=complaint):
            check_picture(svg.replace(before, after, 1))


class TestColours:
    @pytest.mark.parametrize("theme", ["light", "dark"])
    def test_text_stands_out(self, theme: str) -> None:
        colors = palette(theme)
        for name, color in colors.items():
            if name[0] in "tsl" and name[1:].isdigit():
                assert contrast(colors["ink"], color) >= 4.5, name
        for name in ("ink", "soft"):
            assert contrast(colors[name], colors["paper"]) >= 4.5
        for name in ("dense", "depthwise", "pointwise", "accent"):
            assert contrast(colors[name], colors["paper"]) >= 3

    @pytest.mark.parametrize("theme", ["light", "dark"])
    @pytest.mark.parametrize("eyes", ["protan", "deutan", "tritan"])
    def test_channels_can_be_told_apart(self, theme: str, eyes: str) -> None:
        colors = palette(theme)
        seen = [as_seen(colors[name], eyes) for name in ("s0", "s1", "s2", "s4")]
        # Hue is no more than a help: each volume carries its name.
        assert min(dist(a, b) for a, b in combinations(seen, 2)) > 18

    def test_the_checks_can_fail(self) -> None:
        assert contrast("#777777", "#ffffff") < 4.5
        assert dist(as_seen("#cc6600", "deutan"), as_seen("#769d00", "deutan")) < 18


class TestPage:
    @example
    def test_loads_nothing(self, explanation: Explanation) -> None:
        check_stands_alone(explanation.html)
        check_stands_alone(explanation._repr_html_())

    @pytest.mark.parametrize(
        "foreign", ["<script src=x>", '<img src="x.png">', "https://example.org", "@import 'x.css'", '<link href="x">']
    )
    def test_the_check_can_fail(self, foreign: str) -> None:
        with pytest.raises(AssertionError):
            check_stands_alone(EXAMPLES["1d"].html.replace("</main>", f"{foreign}</main>"))

    @example
    def test_is_small(self, explanation: Explanation) -> None:
        assert len(explanation.html.encode()) < 400_000
        assert len(explanation._repr_html_().encode()) < 600_000

    @example
    def test_closes_its_tags(self, explanation: Explanation) -> None:
        parser = Balance()
        parser.feed(explanation.html)
        assert parser.open == []

    def test_is_complete_without_its_script(self) -> None:
        html = EXAMPLES["standard"].html.split("<script")[0]
        for piece in (
            "86,400",
            "675 + 9,600 = 10,275",
            "11.9 %",
            "0.1189",
            "forget the 675",
            "not the same function",
            "groups=",
        ):
            assert piece in html
        assert html.count('<svg class="picture"') == 4
        assert html.count("<h1") == 1

    def test_the_script_is_every_module_once(self) -> None:
        code = script(EXAMPLES["standard"].geometry)
        assert "</script" not in code
        assert not re.search(r"^(import|export) ", code, flags=re.MULTILINE)
        assert len(re.findall(r"^class Layer ", code, flags=re.MULTILINE)) == 1
        names = re.findall(r"^(?:async )?(?:function|class|const) (\w+)", code, flags=re.MULTILINE)
        assert len(names) == len(set(names))

    def test_where_a_frame_is_dropped_picture_and_table_stay(self) -> None:
        still = EXAMPLES["standard"]._repr_html_().split("depthwise-still")[-1]
        assert "data:image/svg+xml;base64," in still
        assert "<td" in still
        assert "iframe + .depthwise-still" in EXAMPLES["standard"]._repr_html_()

    def test_equal_settings_are_one_size_line(self) -> None:
        assert "<li>height, width: 7 - 3 + 1 = 5</li>" in EXAMPLES["standard"].html


class TestCode:
    @example
    def test_does_what_it_says(self, explanation: Explanation) -> None:
        g = explanation.geometry
        if prod(g.input_size) * g.kernel_area > 10**7 or explanation.cost.dense.parameters > 10**7:
            pytest.skip("larger than a test needs")
        names: dict[str, Any] = {"nn": torch.nn, "depthwise": depthwise_package}
        for kind in ("dense", "separable", "ours"):
            exec(snippets(g)[kind], names)
        x = torch.randn(1, *g.input_size)
        ours, theirs = names["ours"].eval(), names["separable"].eval()
        assert names["dense"](x).shape[1:] == torch.Size(g.output_size)
        count = {kind: sum(p.numel() for p in names[kind].parameters()) for kind in ("dense", "separable", "ours")}
        assert count["dense"] == explanation.cost.dense.parameters
        assert count["separable"] == count["ours"] == explanation.cost.separable.parameters
        for parameter, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            parameter.data.copy_(other)
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-4)

    @example
    def test_the_command_explains_the_same(self, explanation: Explanation) -> None:
        arguments = shlex.split(snippets(explanation.geometry)["command"])
        options = dict(zip(arguments[3::2], arguments[4::2], strict=True))
        again = explain(
            parse_size(arguments[2]),
            int(options["--filters"]),
            parse_size(options["--kernel"]),
            parse_size(options.get("--stride", "1")),
            parse_padding(options.get("--padding", "0")),
            parse_size(options.get("--dilation", "1")),
            depth_multiplier=int(options.get("--multiplier", "1")),
        )
        assert again.geometry == explanation.geometry

    def test_stands_in_the_text(self) -> None:
        assert "    ours = depthwise.SeparableConv2d(3, 128, 3, bias=False)" in EXAMPLES["standard"].text
        assert "groups=3" in EXAMPLES["standard"].text


class TestReading:
    def test_channels_first_wherever_it_is_possible(self) -> None:
        explanation = explain((7, 7, 3), 128, 3)
        assert explanation.geometry.in_channels == 7
        assert explanation.note == (
            "note: 7x7x3 was read as 7 channels of 7×3, channels first; for 3 channels write 3x7x7"
        )
        assert explanation.note in explanation.text
        assert "note: 7x7x3 was read" in explanation.html

    def test_turned_where_it_is_not(self) -> None:
        explanation = explain((224, 224, 3), 8, 5)
        assert explanation.geometry.input_size == (3, 224, 224)
        assert explanation.note == "note: 224x224x3 has no output with channels first; it was read as 3x224x224"

    @pytest.mark.parametrize("size", [(3, 7, 7), (64, 9, 9), (4, 4, 4), (128, 3)])
    def test_nothing_is_said_of_sizes_that_are_plain(self, size: tuple[int, ...]) -> None:
        assert explain(size, 8, 1).note == ""

    def test_what_is_impossible_both_ways_stays_an_error(self) -> None:
        with pytest.raises(DepthwiseError, match="the kernel covers 9 pixels along the height"):
            explain((7, 7, 3), 8, 9)


class TestTimes:
    TIMES = Times(
        "3x3 3→128 @7x7",
        "Forward",
        "a <cpu>",
        (86_400, 10_275),
        Measured("dense, PyTorch", "contiguous", 8e-5, 7e-5, 9e-5),
        (
            Measured("separable, PyTorch", "contiguous", 4e-5, 3e-5, 5e-5),
            Measured("separable, depthwise", "channels-last", 1e-5, 9e-6, 2e-5),
        ),
    )

    def test_are_shown_beside_the_promise(self) -> None:
        timed = replace(EXAMPLES["standard"], times=self.TIMES)
        for form in (timed.text, timed.html):
            for piece in ("80.0 (70.0–90.0)", "8.41×", "8.00×", "0.95", "2.00×", "0.24"):
                assert piece in form
        assert "a &lt;cpu&gt;" in timed.html
        assert json.loads(json.dumps(timed.to_dict()))["times"]["ways"]["separable, depthwise"]["seconds"] == 1e-5

    def test_are_nowhere_where_nothing_was_measured(self) -> None:
        for form in (EXAMPLES["standard"].text, EXAMPLES["standard"].html):
            assert "Measured here" not in form
            assert "measured here" not in form
            assert "microseconds" not in form


class TestErrors:
    def test_out_channels(self) -> None:
        with pytest.raises(DepthwiseError, match="out_channels must be at least 1; got 0"):
            explain((3, 7, 7), 0, 3)

    def test_out_channels_missing(self) -> None:
        with pytest.raises(DepthwiseError, match=r"out_channels must be .*; got None"):
            explain((3, 7, 7), None, 3)  # type: ignore[arg-type]

    def test_input_without_pixels(self) -> None:
        with pytest.raises(DepthwiseError, match="with 1, 2 or 3 spatial dimensions"):
            explain((3,), 8, 3)

    def test_kernel_larger_than_input(self) -> None:
        with pytest.raises(DepthwiseError, match="the output would be empty"):
            explain((3, 2, 2), 8, 3)

    def test_depth_multiplier(self) -> None:
        with pytest.raises(DepthwiseError, match="depth_multiplier must be at least 1; got 0"):
            explain((3, 7, 7), 8, 3, depth_multiplier=0)


def value(formula: str) -> float:
    """What a written formula comes to."""
    python = re.sub(r"floor\((.*)\)", lambda inner: f"int({inner[1]})", formula.replace("·", "*"))
    return float(eval(python, {"__builtins__": {}, "int": int}))


def check_picture(svg: str) -> None:
    """Valid XML of bounded size; every text inside the view, and none on another."""
    root = ET.fromstring(svg)
    assert sum(1 for _ in root.iter()) < ELEMENT_BOUND, "too many elements"
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    boxes = text_boxes(root)
    assert boxes
    # Room is reckoned generously: an em at either side.
    assert all(x0 >= -12 and y0 >= 0 and x1 <= width + 12 and y1 <= height for x0, y0, x1, y1, _ in boxes), (
        "outside the view"
    )
    for (ax0, ay0, ax1, ay1, a), (bx0, by0, bx1, by1, b) in combinations(boxes, 2):
        apart = min(ax1, bx1) <= max(ax0, bx0) or min(ay1, by1) <= max(ay0, by0)
        assert apart, f"texts overlap: {a!r} and {b!r}"


def check_stands_alone(html: str) -> None:
    without = html.replace('xmlns="http://www.w3.org/2000/svg"', "").replace("data:image/svg+xml;base64,", "")
    assert not re.findall(r"https?:|//\w+\.", without)
    assert not re.findall(r"<script (?!type=\"module\">)|<link|@import|url\(|\bfetch\(|import\(", without)
    assert not re.findall(r'(?:src|href)="(?!#|[A-Za-z0-9+/=]{100})', without)


def kinds(scene: Scene, hue: str) -> Counter[str]:
    """How many cells of each kind the first volume of a colour has."""
    volume = re.search(rf'<g class="cells {hue}"[^>]*>(.*?)</g>', scene.content)
    assert volume
    found = re.findall(r'<path class="([^"]+)" d="([^"]+)"', volume[1])
    return Counter({kind: path.count("M") for kind, path in found})


def text_boxes(element: ET.Element, at: Point = (0.0, 0.0)) -> list[tuple[float, float, float, float, str]]:
    """Where each text outside of the cells comes to lie, reckoned with a plain sans-serif font."""
    found = []
    for child in element:
        x, y = shifted(child, at)
        kind = child.get("class", "")
        if child.tag == f"{SVG}text":
            names = kind.split()
            size = next(size for name, size in SIZES.items() if name in names)
            wide = 0.54 * size * len(child.text or "")
            left = -wide if "end" in names else -wide / 2 if {"middle", "sign", "sum"} & set(names) else 0
            x, y = x + float(child.attrib["x"]) + left, y + float(child.attrib["y"])
            found.append((x, y - 0.75 * size, x + wide, y + 0.2 * size, child.text or ""))
        elif not kind.startswith("cells"):
            found += text_boxes(child, (x, y))
    return found


def shifted(element: ET.Element, at: Point) -> Point:
    shift = re.fullmatch(r"translate\((\S+) (\S+)\)", element.get("transform", ""))
    return (at[0] + float(shift[1]), at[1] + float(shift[2])) if shift else at


def palette(theme: str) -> dict[str, str]:
    """The picture's colours by name."""
    light, dark = source("explain", "web", "picture.css").split(":root {")[1:3]
    return dict(re.findall(r"--(\w+): (#\w+)", light)) | (
        dict(re.findall(r"--(\w+): (#\w+)", dark)) if theme == "dark" else {}
    )


def linear(color: str) -> list[float]:
    full = color if len(color) == 7 else "#" + "".join(2 * digit for digit in color[1:])
    shares = [int(full[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    return [s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares]


def contrast(one: str, other: str) -> float:
    """WCAG 2.2's contrast ratio."""
    weights = (0.2126, 0.7152, 0.0722)
    low, high = sorted(sum(w * s for w, s in zip(weights, linear(color), strict=True)) for color in (one, other))
    return (high + 0.05) / (low + 0.05)


# Vienot, Brettel, Mollon: Digital video colourmaps for checking the legibility of displays by dichromats, 1999; for
# tritan eyes the matrix of Machado, Oliveira, Fernandes, 2009. In linear RGB.
EYES = {
    "protan": ((0.11238, 0.88762, 0.0), (0.11238, 0.88762, 0.0), (0.00401, -0.00401, 1.0)),
    "deutan": ((0.29275, 0.70725, 0.0), (0.29275, 0.70725, 0.0), (-0.02234, 0.02234, 1.0)),
    "tritan": ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.303900)),
}


def as_seen(color: str, eyes: str) -> tuple[float, ...]:
    """CIE L*a*b* of a colour as such eyes see it: distances of 2 are just seen side by side."""
    r, g, b = linear(color)
    seen = [min(max(x * r + y * g + z * b, 0), 1) for x, y, z in EYES[eyes]]
    rows = ((0.4124, 0.3576, 0.1805), (0.2126, 0.7152, 0.0722), (0.0193, 0.1192, 0.9505))
    xyz = [sum(w * s for w, s in zip(row, seen, strict=True)) for row in rows]
    fx, fy, fz = (
        (v / n) ** (1 / 3) if v / n > 0.008856 else 7.787 * v / n + 16 / 116
        for v, n in zip(xyz, (0.9505, 1, 1.089), strict=True)
    )
    return 116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)


class Balance(HTMLParser):
    """Keeps the tags that are open; complains about one closed out of turn."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in ("meta", "input", "br", "wbr"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: object) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
