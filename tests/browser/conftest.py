"""A browser without a window, for tests of pages: Debian's chromium and its driver, found on the path."""

from __future__ import annotations

import base64
import os
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
AXE = ROOT / "node_modules" / "axe-core" / "axe.min.js"


def needed(there: object, reason: str) -> None:
    """Skip where something is missing, or fail where `DEPTHWISE_BROWSER=required` says that it must be there."""
    if there:
        return
    if os.environ.get("DEPTHWISE_BROWSER") == "required":
        pytest.fail(reason)
    pytest.skip(reason)


class Browser:
    """Opens pages, looks at them at any width, and keeps what the console said."""

    def __init__(self, driver: Any, folder: Path) -> None:
        self.driver, self.folder = driver, folder

    def look(self, width: int = 1440, *, dark: bool = False, still: bool = False, media: str = "screen") -> None:
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 700}
        features = [
            {"name": "prefers-color-scheme", "value": "dark" if dark else "light"},
            {"name": "prefers-reduced-motion", "value": "reduce" if still else "no-preference"},
        ]
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": features})

    def open(self, html: str, fragment: str = "", *, scripts: bool = True) -> None:
        path = self.folder / "page.html"
        path.write_text(html, encoding="utf-8")
        self.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": not scripts})
        # The same address again, with another fragment, would not be loaded anew.
        self.driver.get("about:blank")
        self.driver.get(path.as_uri() + fragment)

    def run(self, script: str, *arguments: object) -> Any:
        return self.driver.execute_script(script, *arguments)

    def wait(self, script: str, *arguments: object) -> Any:
        """What an asynchronous script hands to its last argument."""
        return self.driver.execute_async_script(script, *arguments)

    def settle(self) -> None:
        """Let observers and a frame pass."""
        self.wait("const done = arguments[0]; requestAnimationFrame(() => setTimeout(done, 30));")

    def text(self, selector: str) -> str:
        return str(self.run("return document.querySelector(arguments[0]).textContent", selector))

    def pdf(self, path: Path) -> None:
        printed = self.driver.execute_cdp_cmd(
            "Page.printToPDF", {"paperWidth": 8.27, "paperHeight": 11.69, "printBackground": True}
        )
        path.write_bytes(base64.b64decode(printed["data"]))

    def complaints(self) -> list[str]:
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]


@pytest.fixture(scope="session")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    paths = [shutil.which(name) for name in ("chromium", "chromedriver")]
    needed(all(paths), "needs chromium and chromedriver: apt-get install chromium chromium-driver")
    needed(find_spec("selenium"), "needs selenium: pip install 'depthwise[test]'")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = str(paths[0])
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(paths[1]))
    driver.set_script_timeout(60)
    yield Browser(driver, tmp_path_factory.mktemp("pages"))
    driver.quit()


@pytest.fixture
def browser(session: Browser) -> Iterator[Browser]:
    """The browser at a desk's width, in light; whatever its console complains of fails the test."""
    session.look()
    session.complaints()
    yield session
    assert session.complaints() == []


def faults(browser: Browser) -> list[str]:
    """What axe-core complains of, and where."""
    found = browser.wait(
        "const done = arguments[0];"
        "axe.run().then((r) => done(r.violations.map((v) => `${v.id}: ${v.nodes.map((n) => n.html)}`)))"
    )
    return [str(fault) for fault in found]
