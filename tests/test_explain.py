"""The explanation: its numbers against the cost formulas, and its picture against the sizes it claims to draw."""

import json
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from depthwise import DepthwiseError
from depthwise.cost import closed_form_ratio
from depthwise.explain import Explanation, explain
from depthwise.explain.arithmetic import output_sizes, steps

SVG = "{http://www.w3.org/2000/svg}"
LINE_WIDTH = 100
ELEMENT_BOUND = 2000

Point = tuple[float, float]

EXAMPLES = {
    "standard": explain((3, 7, 7), 128, 3),
    "padded": explain((32, 112, 112), 64, 3, padding=1),
    "deep": explain((512, 14, 14), 512, 3, padding="same"),
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
        for form in (standard.text, standard.svg, standard.html):
            assert "NOT cheaper" not in form

    def test_equal_is_not_cheaper(self) -> None:
        equal = explain((2, 4, 4), 2, (1, 2))
        assert equal.cost.ratio == 1
        assert "NOT cheaper: here the separable form needs 1.00 times" in equal.text


class TestText:
    @given(explanations())
    @settings(deadline=None)
    def test_fits_a_terminal(self, explanation: Explanation) -> None:
        assert max(map(len, explanation.text.splitlines())) <= LINE_WIDTH

    def test_is_what_print_shows(self) -> None:
        assert str(EXAMPLES["1d"]) == EXAMPLES["1d"].text

    def test_shows_the_settings(self) -> None:
        explanation = explain((4, 9, 12), 8, 3, (2, 1), ((1, 0), (2, 2)), 2, depth_multiplier=3)
        lines = explanation.text.splitlines()
        assert lines[1] == "stride (2, 1), padding (1 before and 0 after, 2), dilation 2, depth multiplier 3"
        assert "    height: floor((9 + 1 + 0 - (2·(3 - 1) + 1)) / 2) + 1 = 3" in lines
        assert "    width: 12 + 2 + 2 - (2·(3 - 1) + 1) + 1 = 12" in lines
        assert "    12 kernels of 1×3×3; 3 kernels for each channel, and each sees that channel alone" in lines


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


class TestPicture:
    @example
    def test_is_sound(self, explanation: Explanation) -> None:
        check_picture(explanation.svg)

    @given(explanations())
    @settings(deadline=None, max_examples=60)
    def test_is_sound_anywhere(self, explanation: Explanation) -> None:
        check_picture(explanation.svg)

    @example
    def test_shows_every_size(self, explanation: Explanation) -> None:
        g = explanation.geometry
        drawn = {size for size, *_ in solids(ET.fromstring(explanation.svg))}
        assert {g.input_size, g.depthwise_size, g.output_size, (g.in_channels, *g.kernel_size)} <= drawn

    @example
    def test_is_deterministic(self, explanation: Explanation) -> None:
        assert Explanation(explanation.geometry).svg == explanation.svg

    def test_is_in_proportion_where_it_can_be(self) -> None:
        faces = {size: (width, height) for size, width, height, _ in solids(ET.fromstring(EXAMPLES["standard"].svg))}
        assert faces[3, 7, 7] == pytest.approx((98, 98))
        assert faces[128, 5, 5] == pytest.approx((70, 70))
        assert faces[3, 3, 3] == pytest.approx((42, 42))
        assert faces[3, 1, 1] == pytest.approx((14, 14))

    def test_says_what_is_not_in_proportion(self) -> None:
        assert "sides beyond 3 pixels and stacks beyond 3 channels are drawn shortened" in EXAMPLES["padded"].svg
        assert "Not in proportion" not in EXAMPLES["dilated"].svg

    def test_can_be_read_aloud(self) -> None:
        root = ET.fromstring(EXAMPLES["standard"].svg)
        assert root.get("role") == "img"
        assert root.findtext(f"{SVG}title") == "A 3×3 convolution from 3 to 128 channels: dense and depthwise separable"
        assert "Together 10,275." in (root.findtext(f"{SVG}desc") or "")

    def test_text_stands_out(self) -> None:
        colors = set(re.findall(r'<text [^>]*fill="(#\w+)"', "".join(e.svg for e in EXAMPLES.values())))
        assert colors
        assert min(contrast_with_white(color) for color in colors) >= 4.5

    @pytest.mark.parametrize(
        ("before", "after", "complaint"),
        [
            ("0,0 98,0 98,98 0,98", "0,0 99,0 99,98 0,98", "drawn unlike"),
            ("0,0 98,0 98,98 0,98", "0,0 98,0 98,97 0,97", "drawn unlike"),
            ('viewBox="0 0 10', 'viewBox="0 0 9', "outside"),
            ('<text x="30" y="62"', '<text x="30" y="45"', "overlap"),
            ("</svg>", "<g/>" * ELEMENT_BOUND + "</svg>", "elements"),
        ],
    )
    def test_the_check_can_fail(self, before: str, after: str, complaint: str) -> None:
        svg = EXAMPLES["standard"].svg
        assert before in svg
        with pytest.raises(AssertionError, match=complaint):
            check_picture(svg.replace(before, after, 1))


class TestPage:
    @example
    def test_loads_nothing(self, explanation: Explanation) -> None:
        check_stands_alone(explanation.html)
        check_stands_alone(explanation._repr_html_())

    @pytest.mark.parametrize("foreign", ["<script>", '<img src="x.png">', "https://example.org", "@import 'x.css'"])
    def test_the_check_can_fail(self, foreign: str) -> None:
        with pytest.raises(AssertionError):
            check_stands_alone(EXAMPLES["1d"].html.replace("</div>", f"{foreign}</div>"))

    @example
    def test_closes_its_tags(self, explanation: Explanation) -> None:
        parser = Balance()
        parser.feed(explanation.html)
        assert parser.open == []

    def test_holds_picture_and_table(self) -> None:
        standard = EXAMPLES["standard"]
        assert standard.svg in standard.html
        assert standard.html.startswith("<!DOCTYPE html>")
        for cell in (
            "(3, 7, 7)",
            "128 of 3×3×3",
            "86,400<small>128·(3·3·3)·(5·5)</small>",
            "10,275<small>11.9 % of dense",
        ):
            assert cell in standard.html

    def test_fragment_styles_only_itself(self) -> None:
        fragment = EXAMPLES["standard"]._repr_html_()
        assert "<html" not in fragment
        css = fragment.split("<style>")[1].split("</style>")[0]
        selectors = re.findall(r"([^{}]+)\{", css.replace("@media (max-width: 640px) {", ""))
        assert selectors
        assert all(part.strip().startswith(".depthwise-explain") for rule in selectors for part in rule.split(","))


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
    """Valid XML of bounded size; everything inside the view; no text on text; equal sizes equal, larger ones larger."""
    root = ET.fromstring(svg)
    assert sum(1 for _ in root.iter()) < ELEMENT_BOUND, "too many elements"
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    boxes = text_boxes(root)
    corners = [corner for _, polygon in polygons(root) for corner in polygon]
    corners += [corner for (x0, y0, x1, y1) in boxes for corner in ((x0, y0), (x1, y1))]
    assert all(-0.01 <= x <= width + 0.01 and -0.01 <= y <= height + 0.01 for x, y in corners), "outside the view"
    for (ax0, ay0, ax1, ay1), (bx0, by0, bx1, by1) in combinations(boxes, 2):
        assert min(ax1, bx1) <= max(ax0, bx0) or min(ay1, by1) <= max(ay0, by0), "texts overlap"
    lengths: dict[int, float] = {}
    for size, wide, high, _ in solids(root):
        rows, columns = (1, *size[1:])[-2:]
        for cells, length in ((rows, high), (columns, wide)):
            assert lengths.setdefault(cells, length) == pytest.approx(length, abs=0.03), f"{cells} cells drawn unlike"
    ordered = [lengths[cells] for cells in sorted(lengths)]
    assert ordered == sorted(ordered), "a larger side is drawn shorter"
    assert min(ordered) >= 2, "a pixel cannot be seen"


def check_stands_alone(html: str) -> None:
    assert not re.findall(r"https?://", html.replace('xmlns="http://www.w3.org/2000/svg"', ""))
    assert not re.findall(r"<script|<link|<img|<iframe|src=|href=|url\(|@import", html)


def solids(root: ET.Element) -> list[tuple[tuple[int, ...], float, float, int]]:
    """Each drawn solid: its (channels, *spatial) size from its title, its front's width and height, its polygons."""
    found = []
    for group in root.iter(f"{SVG}g"):
        title = group.findtext(f"{SVG}title")
        if title:
            *spatial, channels = map(int, title.split(" × "))
            own = [corners(polygon) for polygon in group.iter(f"{SVG}polygon")]
            front = next(face for face in own if face[0][1] == face[1][1] and face[1][0] == face[2][0])
            size = (front[1][0] - front[0][0], front[2][1] - front[1][1])
            found.append(((channels, *spatial), *size, len(own)))
    assert found
    return found


def polygons(element: ET.Element, at: Point = (0.0, 0.0)) -> list[tuple[ET.Element, list[Point]]]:
    """All polygons and polylines with their corners, where they come to lie on the page."""
    found = []
    for child in element:
        x, y = shifted(child, at)
        if child.get("points"):
            found.append((child, [(x + a, y + b) for a, b in corners(child)]))
        found += polygons(child, (x, y))
    return found


def text_boxes(element: ET.Element, at: Point = (0.0, 0.0)) -> list[tuple[float, float, float, float]]:
    """Where each text comes to lie, reckoned with a plain sans-serif font."""
    found = []
    for child in element:
        x, y = shifted(child, at)
        if child.tag == f"{SVG}text":
            size = float(child.attrib["font-size"])
            wide = 0.56 * size * len(child.text or "")
            left = {"start": 0.0, "middle": -wide / 2, "end": -wide}[child.attrib["text-anchor"]]
            x, y = x + float(child.attrib["x"]) + left, y + float(child.attrib["y"])
            found.append((x, y - 0.75 * size, x + wide, y + 0.2 * size))
        found += text_boxes(child, (x, y))
    return found


def shifted(element: ET.Element, at: Point) -> Point:
    shift = re.fullmatch(r"translate\((\S+) (\S+)\)", element.get("transform", ""))
    return (at[0] + float(shift[1]), at[1] + float(shift[2])) if shift else at


def corners(polygon: ET.Element) -> list[Point]:
    pairs = (pair.split(",") for pair in polygon.attrib["points"].split())
    return [(float(x), float(y)) for x, y in pairs]


def contrast_with_white(color: str) -> float:
    """WCAG 2.2's contrast ratio."""
    shares = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares]
    return 1.05 / (sum(w * s for w, s in zip((0.2126, 0.7152, 0.0722), linear, strict=True)) + 0.05)


class Balance(HTMLParser):
    """Keeps the tags that are open; complains about one closed out of turn."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: object) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
