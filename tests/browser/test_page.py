"""The page as a reader meets it: mouse, keyboard, link, notebook, phone, paper, and eyes and ears of all kinds."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from depthwise import DepthwiseError, explain
from depthwise.explain import Explanation
from depthwise.explain.arithmetic import headline
from depthwise.explain.snippets import snippets
from tests.browser.conftest import AXE, Browser, faults, needed

STANDARD = explain((3, 7, 7), 128, 3)
LAYERS = {
    "standard": STANDARD,
    "1d": explain((2, 40), 3, 4, padding=((8, 0),), dilation=2),
    "3d": explain((16, 8, 28, 28), 32, 3, padding=1),
    "large": explain((64, 224, 224), 128, 3, stride=2, padding="same"),
    "huge": explain((2048, 1000, 1000), 2048, 31, depth_multiplier=9),
}
layers = pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS.keys())


def counters(browser: Browser) -> tuple[str, str]:
    return browser.text(".counters [data-out=count_dense]"), browser.text(".counters [data-out=count_separable]")


def press(browser: Browser, *keys: str, on: str = "#scene-1 .stage") -> None:
    from selenium.webdriver.common.by import By

    browser.driver.find_element(By.CSS_SELECTOR, on).send_keys(*keys)
    browser.settle()


def click(browser: Browser, selector: str) -> None:
    from selenium.webdriver.common.by import By

    browser.driver.find_element(By.CSS_SELECTOR, selector).click()
    browser.settle()


def fill(browser: Browser, field: str, value: str) -> None:
    """As a user does: what stood there is selected and typed over."""
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    element = browser.driver.find_element(By.ID, f"field-{field}")
    element.send_keys(Keys.CONTROL, "a")
    element.send_keys(value)
    browser.settle()


def point_at(browser: Browser, selector: str, column: float, row: float) -> Any:
    """Move the mouse to a cell of a volume of the picture."""
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.by import By

    cells = browser.driver.find_element(By.CSS_SELECTOR, selector)
    x, y = browser.run(
        "const m = arguments[0].getScreenCTM(), p = new DOMPoint(arguments[1], arguments[2]).matrixTransform(m);"
        "return [Math.round(p.x), Math.round(p.y)]",
        cells,
        16 * column + 8,
        16 * row + 8,
    )
    actions = ActionChains(browser.driver)
    actions.w3c_actions.pointer_action.move_to_location(x, y)  # type: ignore[no-untyped-call]
    actions.perform()
    browser.settle()
    return actions


OUTPUT = "#scene-1 [data-grid]"


class TestWithoutScripts:
    def test_everything_is_there(self, browser: Browser) -> None:
        browser.open(STANDARD.html, scripts=False)
        text = browser.text("body")
        for piece in (
            "86,400",
            "675 + 9,600 = 10,275",
            "11.9 %",
            "forget the 675",
            "nn.Conv2d",
            "SeparableConv2d",
            "FLOPs per byte",
        ):
            assert piece in text
        visible = "return getComputedStyle(document.querySelector(arguments[0])).display"
        assert [browser.run(visible, part) for part in (".player", ".layer")] == ["none", "none"]
        assert browser.run("return document.querySelectorAll('svg.picture text').length") > 400


class TestMoving:
    @layers
    def test_the_counters_are_right_at_the_first_a_middle_and_the_last_step(
        self, browser: Browser, layer: Explanation
    ) -> None:
        browser.open(layer.html)
        pixels = (
            layer.cost.dense.multiplications
            // layer.geometry.output_size[0]
            // (layer.geometry.in_channels * layer.geometry.kernel_area)
        )
        costs = [cost.multiplications for cost in (layer.cost.dense, layer.cost.separable)]
        for at in (0, pixels // 3, pixels - 1):
            browser.run(
                "const s = document.querySelector('#scrub'); s.value = arguments[0];"
                "s.dispatchEvent(new Event('input', { bubbles: true }))",
                at,
            )
            assert counters(browser) == tuple(f"{cost // pixels * (at + 1):,}" for cost in costs)
        assert counters(browser) == tuple(f"{cost:,}" for cost in costs)
        assert browser.text(".way span") == f"output pixel {pixels:,} of {pixels:,}"

    def test_every_button_by_mouse(self, browser: Browser) -> None:
        browser.open(STANDARD.html)
        seen = []
        for button in ("first", "forward", "forward", "back", "last"):
            click(browser, f"[data-do={button}]")
            seen.append(browser.text(".way span"))
        assert [re.findall(r"\d+", text)[0] for text in seen] == ["1", "2", "3", "2", "25"]
        assert counters(browser) == ("86,400", "10,275")
        click(browser, "[data-do=play]")
        # At the end it begins anew.
        assert browser.text("[data-do=play]") == "❚❚ pause"
        browser.wait("setTimeout(arguments[0], 1100)")
        click(browser, "[data-do=play]")
        assert browser.text("[data-do=play]") == "▶ play"
        played = int(re.findall(r"\d+", browser.text(".way span"))[0])
        assert 2 <= played <= 5
        browser.wait("setTimeout(arguments[0], 600)")
        assert f"pixel {played} of" in browser.text(".way span")

    def test_every_key(self, browser: Browser) -> None:
        from selenium.webdriver.common.keys import Keys

        browser.open(STANDARD.html)
        seen = []
        for key in (
            Keys.HOME,
            Keys.ARROW_RIGHT,
            Keys.ARROW_DOWN,
            Keys.ARROW_LEFT,
            Keys.ARROW_UP,
            Keys.ARROW_UP,
            Keys.END,
            Keys.ARROW_RIGHT,
        ):
            press(browser, key)
            seen.append(int(re.findall(r"\d+", browser.text(".way span"))[0]))
        assert seen == [1, 2, 7, 6, 1, 1, 25, 25]
        press(browser, "3")
        assert browser.text("#scene-1 .said").startswith("Filter 3 at (4, 4):")
        press(browser, Keys.HOME, Keys.SPACE)
        assert browser.text("[data-do=play]") == "❚❚ pause"
        press(browser, Keys.SPACE)
        assert browser.text("[data-do=play]") == "▶ play"
        press(browser, Keys.ARROW_RIGHT, Keys.ENTER)
        assert browser.run("return document.querySelector('.stage').hasAttribute('data-pinned')")
        press(browser, Keys.ESCAPE)
        assert not browser.run("return document.querySelector('.stage').hasAttribute('data-pinned')")
        press(browser, Keys.ARROW_RIGHT, on="#scrub")
        press(browser, Keys.ENTER, on="[data-do=forward]")
        press(browser, Keys.SPACE, on="[data-do=last]")
        assert "25 of 25" in browser.text(".way span")

    def test_depth_is_walked_by_page_keys(self, browser: Browser) -> None:
        from selenium.webdriver.common.keys import Keys

        browser.open(LAYERS["3d"].html)
        press(browser, Keys.HOME, Keys.PAGE_DOWN, Keys.PAGE_DOWN, Keys.PAGE_UP)
        assert browser.text("#scene-1 .said").startswith("Filter 1 at (1, 0, 0):")

    def test_pointing_at_a_cell_shows_its_sum_and_a_click_pins_it(self, browser: Browser) -> None:
        browser.open(STANDARD.html)
        before = browser.text("#scene-1 .said")
        browser.run("document.querySelector('#scene-1').scrollIntoView()")
        browser.settle()
        point_at(browser, OUTPUT, 1, 3)
        said = browser.text("#scene-1 .said")
        assert said.startswith("Filter 1 at (3, 1): channel 1: ")
        products = re.findall(r"\(?(−?\d+)\)?·\(?(−?\d+)\)?", said)
        assert len(products) == 9
        numbers = [[int(part.replace("−", "-")) for part in pair] for pair in products]
        first = int(re.findall(r"= (−?\d+)", said)[0].replace("−", "-"))
        assert sum(weight * value for weight, value in numbers) == first
        assert browser.run(
            "return document.querySelector('#scene-1 .at-work .now + text, #scene-1 .at-work text') !== null"
        )
        assert counters(browser)[0] == f"{3456 * 17:,}"
        # Away from it, the kernel is where it was.
        point_at(browser, "#scene-1 .cells.c0", 0, -2)
        assert browser.text("#scene-1 .said") == before
        point_at(browser, OUTPUT, 1, 3).click().perform()
        point_at(browser, "#scene-1 [data-grid^='1 ']", 4, 4)
        assert browser.text("#scene-1 .said") == said
        from selenium.webdriver.common.keys import Keys

        press(browser, Keys.ESCAPE)
        point_at(browser, "#scene-1 [data-grid^='1 ']", 4, 4)
        assert browser.text("#scene-1 .said").startswith("Filter 2 at (4, 4):")

    def test_the_cell_at_work_shows_the_sum(self, browser: Browser) -> None:
        browser.open(STANDARD.html)
        browser.settle()
        total = browser.text("#scene-1 .said b")
        shown = browser.run(
            "return [...document.querySelectorAll('#scene-1 .at-work text')].map((text) => text.textContent)"
        )
        # Filled up to the pixel at work.
        assert len(shown) == 13
        assert shown[-1] == total

    def test_scenes_are_stepped_through(self, browser: Browser) -> None:
        browser.open(STANDARD.html)
        for scene in (3, 4, 2, 1):
            click(browser, f".steps a:nth-child({scene})")
            browser.wait(
                "const done = arguments[0]; let last = -1; const id = setInterval(() => {"
                "if (scrollY === last) { clearInterval(id); done(); } last = scrollY; }, 120)"
            )
            top = browser.run(f"return document.querySelector('#scene-{scene}').getBoundingClientRect().top")
            assert -20 < top < 500
            assert browser.run("return document.activeElement.closest('.scene').id") == f"scene-{scene}"

    def test_it_glides_unless_the_reader_wants_little_motion(self, browser: Browser) -> None:
        moving = "document.querySelector('[data-do=first]').click(); return document.getAnimations().length"
        browser.open(STANDARD.html)
        browser.settle()
        assert browser.run(moving) > 0
        browser.look(still=True)
        browser.open(STANDARD.html)
        browser.settle()
        assert browser.run(moving) == 0


class TestYourLayer:
    def test_every_field(self, browser: Browser) -> None:
        browser.open(STANDARD.html)
        for field, value, expected in (
            ("channels", "5", explain((5, 7, 7), 128, 3)),
            ("size", "9x8", explain((3, 9, 8), 128, 3)),
            ("size", "9", explain((3, 9, 9), 128, 3)),
            ("filters", "7", explain((3, 7, 7), 7, 3)),
            ("kernel", "3x5", explain((3, 7, 7), 128, (3, 5))),
            ("stride", "2", explain((3, 7, 7), 128, 3, stride=2)),
            ("padding", "same", explain((3, 7, 7), 128, 3, padding="same")),
            ("padding", "2:0x0:1", explain((3, 7, 7), 128, 3, padding=((2, 0), (0, 1)))),
            ("dilation", "3", explain((3, 7, 7), 128, 3, dilation=3)),
            ("multiplier", "4", explain((3, 7, 7), 128, 3, depth_multiplier=4)),
        ):
            click(browser, "[data-do=reset]")
            fill(browser, field, value)
            assert browser.text(".headline span") == headline(expected.geometry)
            assert browser.text("header [data-out=total_dense]") == f"{expected.cost.dense.multiplications:,}"
            assert browser.text("header [data-out=total_separable]") == f"{expected.cost.separable.multiplications:,}"
            assert browser.text("[data-out=code_command]") == snippets(expected.geometry)["command"]

    def test_every_slider_by_key(self, browser: Browser) -> None:
        from selenium.webdriver.common.keys import Keys

        browser.open(STANDARD.html)
        for field in ("channels", "size", "filters", "kernel", "stride", "padding", "dilation", "multiplier"):
            click(browser, "[data-do=reset]")
            press(browser, Keys.ARROW_RIGHT, on=f"[data-slides={field}]")
            assert browser.text("header [data-out=total_steps]") != "675 + 9,600 = 10,275", field
            assert browser.text("#layer-error") == ""

    def test_dimensions(self, browser: Browser) -> None:
        browser.open(STANDARD.html)
        for rank, command in ((1, "3x7 "), (3, "3x7x7x7 "), (2, "3x7x7 ")):
            click(browser, f"[name=rank][value='{rank}']")
            assert browser.text("[data-out=code_command]").startswith(f"depthwise explain {command}")
            assert browser.text("#layer-error") == ""

    def test_an_impossible_layer_shows_pythons_message_and_keeps_the_last_picture(self, browser: Browser) -> None:
        browser.open(STANDARD.html)
        browser.settle()
        before = browser.run("return document.querySelector('[data-scene=dense]').innerHTML")
        fill(browser, "kernel", "9")
        with pytest.raises(DepthwiseError) as error:
            explain((3, 7, 7), 128, 9)
        assert browser.text("#layer-error") == str(error.value)
        assert browser.run("return document.querySelector('#field-kernel').getAttribute('aria-invalid')") == "true"
        assert browser.run("return document.querySelector('[data-scene=dense]').innerHTML") == before
        fill(browser, "kernel", "5")
        assert browser.text("#layer-error") == ""
        assert browser.run("return document.querySelectorAll('[aria-invalid=true], .stale').length") == 0

    def test_how_a_size_was_read_is_said_of_that_size_only(self, browser: Browser) -> None:
        browser.open(explain((7, 7, 3), 8, 3).html)
        hidden = "return document.querySelector('header .note').hidden"
        assert browser.run(hidden) is False
        fill(browser, "stride", "2")
        assert browser.run(hidden) is True

    def test_the_link_holds_the_state(self, browser: Browser) -> None:
        browser.open(STANDARD.html)
        fill(browser, "stride", "2")
        fill(browser, "multiplier", "2")
        press(browser, "\ue011", "\ue014", "2")
        link = browser.run("return location.hash")
        assert "stride=2" in link
        state = (browser.text("#scene-1 .said"), browser.text("header [data-out=total_steps]"), counters(browser))
        browser.open(STANDARD.html, link)
        browser.settle()
        assert state == (
            browser.text("#scene-1 .said"),
            browser.text("header [data-out=total_steps]"),
            counters(browser),
        )
        click(browser, "[data-do=reset]")
        assert browser.text("header [data-out=total_dense]") == "86,400"

    @pytest.mark.parametrize(
        "link", ["#channels=x&at=-3&filter=99&scene=77", "#at=1e99", "#%", "#size=&kernel=<b>", "#scene-3"]
    )
    def test_a_broken_link_does_no_harm(self, browser: Browser, link: str) -> None:
        browser.open(STANDARD.html, link)
        browser.settle()
        assert "of 25" in browser.text(".way span")
        assert browser.run("return document.querySelectorAll('#layer-error b').length") == 0

    def test_code_and_link_are_copied(self, browser: Browser) -> None:
        permission = {"permission": {"name": "clipboard-write"}, "setting": "granted"}
        browser.driver.execute_cdp_cmd("Browser.setPermission", permission)
        browser.open(STANDARD.html)
        browser.run("navigator.clipboard.writeText = async (text) => { window.copied = text; }")
        for number, piece in enumerate(
            ("dense = nn.Conv2d(3, 128", "groups=3", "depthwise.SeparableConv2d", "depthwise explain 3x7x7")
        ):
            browser.run("document.querySelectorAll('[data-do=copy]')[arguments[0]].click()", number)
            browser.settle()
            assert piece in browser.run("return window.copied")
        browser.run("document.querySelector('[data-do=link]').click()")
        browser.settle()
        assert "#channels=3&" in browser.run("return window.copied")


class TestOneLight:
    @pytest.mark.parametrize(
        ("term", "in_picture"),
        [
            ("in_channels", "#scene-1 .cells.c0[data-term=in_channels] path"),
            ("out_channels", "#scene-1 .cells.out path"),
            ("kernel_size", "#scene-1 .cells[data-term=kernel_size] path"),
            ("output_size", "#scene-1 .cells[data-grid] path"),
        ],
    )
    def test_formula_picture_text_and_code(self, browser: Browser, term: str, in_picture: str) -> None:
        browser.open(STANDARD.html)
        browser.settle()
        marked = [
            f"#scene-1 .formula [data-term={term}]",
            f"#code [data-term={term}]",
            f"#scene-1 .pair > div > p [data-term={term}]",
        ]
        if term == "output_size":
            marked = marked[:1]
        color = "return getComputedStyle(document.querySelector(arguments[0])).backgroundColor"
        stroke = "return getComputedStyle(document.querySelector(arguments[0])).stroke"
        before = [browser.run(color, place) for place in marked], browser.run(stroke, in_picture)
        browser.run(f"document.querySelector('#scene-1 .formula [data-term={term}]').focus()")
        after = [browser.run(color, place) for place in marked], browser.run(stroke, in_picture)
        assert all(a != b for a, b in zip(before[0], after[0], strict=True))
        assert before[1] != after[1]
        browser.run("document.activeElement.blur()")
        assert ([browser.run(color, place) for place in marked], browser.run(stroke, in_picture)) == before

    @pytest.mark.parametrize("term", ["stride", "padding", "dilation", "depth_multiplier"])
    def test_pointing_at_a_fields_name_lights_the_rest(self, browser: Browser, term: str) -> None:
        browser.open(explain((3, 9, 9), 8, 3, stride=2, padding=1, dilation=2, depth_multiplier=2).html)
        browser.settle()
        event = "document.querySelector(arguments[0]).dispatchEvent(new PointerEvent('pointerover', { bubbles: true }))"
        browser.run(event, f".field [data-term={term}]")
        assert browser.run("return document.body.dataset.lit") == term
        assert browser.run("return document.querySelectorAll(`#code [data-term=${arguments[0]}]`).length", term) >= 2


class TestEverywhere:
    @pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
    @pytest.mark.parametrize("width", [390, 768, 1440])
    def test_nothing_is_scrolled_sideways(self, browser: Browser, width: int, dark: bool) -> None:
        for name in ("standard", "3d", "huge"):
            layer = LAYERS[name]
            browser.look(width, dark=dark)
            browser.open(layer.html)
            browser.settle()
            assert browser.run("return document.documentElement.scrollWidth") <= width
            wide = browser.run(
                "return [...document.querySelectorAll('body *')].filter((e) => !e.closest('pre, .unseen, svg') &&"
                " e.getBoundingClientRect().right > innerWidth + 0.5).map((e) => e.outerHTML.slice(0, 80))"
            )
            assert wide == []

    def test_dark_is_dark(self, browser: Browser) -> None:
        color = "return getComputedStyle(document.body).backgroundColor"
        browser.open(STANDARD.html)
        assert browser.run(color) == "rgb(255, 255, 255)"
        browser.look(dark=True)
        assert browser.run(color) == "rgb(17, 24, 39)"

    @pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
    @pytest.mark.parametrize("width", [390, 1440])
    def test_axe_finds_nothing(self, browser: Browser, width: int, dark: bool) -> None:
        needed(AXE.exists(), "needs axe-core: npm ci")
        browser.look(width, dark=dark)
        browser.open(STANDARD.html)
        browser.run(AXE.read_text(encoding="utf-8"))
        for _ in range(2):
            assert faults(browser) == []
            browser.run("document.querySelector('details').open = true")
            fill(browser, "kernel", "9")

    def test_axe_can_find_something(self, browser: Browser) -> None:
        needed(AXE.exists(), "needs axe-core: npm ci")
        browser.open(STANDARD.html.replace('aria-label="output pixel"', "").replace('<label class="way">', "<div>"))
        browser.run(AXE.read_text(encoding="utf-8"))
        assert faults(browser) != []
        browser.complaints()

    def test_what_is_in_focus_can_be_seen(self, browser: Browser) -> None:
        from selenium.webdriver import ActionChains
        from selenium.webdriver.common.keys import Keys

        browser.open(STANDARD.html)
        browser.settle()
        seen = set()
        for _ in range(70):
            ActionChains(browser.driver).send_keys(Keys.TAB).perform()
            name, style, width = browser.run(
                "const e = document.activeElement, s = getComputedStyle(e);"
                "return [e.id || e.dataset.do || e.dataset.slides || e.className || e.tagName, s.outlineStyle,"
                " s.outlineWidth]"
            )
            if name == "BODY":
                break
            assert (style, float(width[:-2]) >= 2) != ("none", False), name
            seen.add(name)
        assert {"stage", "scrub", "play", "first", "last", "field-size", "kernel", "copy", "link", "term"} <= seen

    def test_sums_are_said_but_not_while_playing(self, browser: Browser) -> None:
        from selenium.webdriver.common.keys import Keys

        browser.open(STANDARD.html)
        press(browser, Keys.HOME)
        said = browser.text("#live")
        assert said.startswith("Filter 1 at (0, 0): ")
        click(browser, "[data-do=play]")
        browser.wait("setTimeout(arguments[0], 600)")
        assert browser.text("#live") == said

    def test_a_frame_takes_less_than_8_ms_of_script(self, browser: Browser) -> None:
        browser.look(1440)
        browser.open(explain((64, 224, 224), 128, 3, padding=1).html)
        browser.settle()
        # Thread time: other processes do not count.
        browser.driver.execute_cdp_cmd("Performance.enable", {"timeDomain": "threadTicks"})
        before = script_seconds(browser)
        browser.wait(
            """
            const done = arguments[0], scrub = document.querySelector("#scrub");
            const step = (at) => {
              scrub.value = 20000 + at;
              scrub.dispatchEvent(new Event("input", { bubbles: true }));
              if (at < 120) requestAnimationFrame(() => step(at + 1)); else done();
            };
            step(0);
            """
        )
        assert 0 < (script_seconds(browser) - before) / 121 < 0.008
        browser.driver.execute_cdp_cmd("Performance.disable", {})


class TestPaper:
    @pytest.mark.parametrize(
        "layer",
        [
            LAYERS["standard"],
            LAYERS["3d"],
            *(pytest.param(LAYERS[name], marks=pytest.mark.slow) for name in ("1d", "large", "huge")),
        ],
    )
    def test_no_scene_is_cut(self, browser: Browser, layer: Explanation, tmp_path: Path) -> None:
        needed(shutil.which("pdftotext"), "needs pdftotext: apt-get install poppler-utils")
        browser.look(dark=True)
        # The picture's first and last line, marked.
        marked = re.sub(
            r'(data-scene="(\w+)" viewBox="0 0 448 ([\d.]+)"[^>]*>)',
            r'\1<text x="380" y="6">TOP\2</text><text x="380" y="\3">END\2</text>',
            layer.html,
        )
        browser.open(marked, scripts=False)
        browser.pdf(tmp_path / "page.pdf")
        text = subprocess.run(
            ["pdftotext", "-layout", "page.pdf", "-"], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        pages = text.stdout.split("\f")
        assert len(pages) < 10
        for scene in ("dense", "depthwise", "pointwise", "both"):
            on = [number for number, page in enumerate(pages) if f"TOP{scene}" in page]
            assert on == [number for number, page in enumerate(pages) if f"END{scene}" in page]
            assert len(on) == 1
        whole = " ".join(text.stdout.split())
        assert f"{layer.cost.dense.multiplications:,}" in whole

    def test_paper_is_white(self, browser: Browser) -> None:
        browser.look(dark=True, media="print")
        browser.open(STANDARD.html)
        assert browser.run("return getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert browser.run("return getComputedStyle(document.querySelector('.player')).display") == "none"


class TestNotebook:
    def test_it_runs_in_a_frame_without_an_address(self, browser: Browser) -> None:
        from selenium.webdriver.common.by import By

        browser.open(
            f"<!DOCTYPE html><html lang='en'><title>notebook</title><body>{STANDARD._repr_html_()}</body></html>"
        )
        assert browser.run("return getComputedStyle(document.querySelector('.depthwise-still')).display") == "none"
        browser.driver.switch_to.frame(browser.driver.find_element(By.TAG_NAME, "iframe"))
        browser.settle()
        click(browser, "[data-do=last]")
        assert counters(browser) == ("86,400", "10,275")
        browser.driver.switch_to.default_content()

    def test_where_the_frame_is_dropped_the_picture_stays(self, browser: Browser) -> None:
        without = re.sub(r"<iframe.*?</iframe>", "", STANDARD._repr_html_(), flags=re.DOTALL)
        browser.open(f"<!DOCTYPE html><html lang='en'><title>notebook</title><body>{without}</body></html>")
        assert browser.run("return getComputedStyle(document.querySelector('.depthwise-still')).display") == "block"
        assert browser.run("return document.querySelector('.depthwise-still img').naturalWidth") > 800


def script_seconds(browser: Browser) -> float:
    metrics = browser.driver.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]
    return float(next(metric["value"] for metric in metrics if metric["name"] == "ScriptDuration"))
