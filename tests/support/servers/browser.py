"""A real Chromium for tests of pages: widths, light and dark, and axe-core's rules of accessibility."""

import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.remote.webdriver import WebDriver

from tests.support.checkout import ROOT

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
IS_CI = os.environ.get("CI") == "true"
NEEDS_BROWSER = pytest.mark.skipif(
    not IS_CI and not (CHROMIUM and DRIVER),
    reason="needs chromium and chromedriver (Debian: apt-get install chromium chromium-driver)",
)
# Of npm, fetched by `make .cache/axe/axe.min.js`; under another licence than ours, so it lies in no folder of ours.
AXE = Path(os.environ.get("EMBODIMIX_AXE", ROOT / ".cache" / "axe" / "axe.min.js"))
NEEDS_AXE = pytest.mark.skipif(not IS_CI and not AXE.exists(), reason="needs axe-core: make .cache/axe/axe.min.js")
WIDTHS = (375, 1000, 2000)
WAIT_S = 60.0  # Other work on the machine can make a start of the server slow.
Scheme = Literal["light", "dark"]

# Rules on whole screenfuls of text say nothing of a page's parts; these are the levels that block a reader.
_RUN_AXE = """
const done = arguments[0];
axe.run(document, {resultTypes: ["violations"]}).then(found => done(found.violations
  .filter(v => ["serious", "critical"].includes(v.impact))
  .map(v => `${v.id} (${v.impact}): ${v.nodes.slice(0, 3).map(n => n.html.slice(0, 140)).join(" | ")}`)));
"""


class BrowserPage:
    """A page as a person sees and uses it."""

    def __init__(self, browser: WebDriver) -> None:
        self.browser = browser

    def script(self, code: str) -> Any:
        return self.browser.execute_script(code)

    def until(self, condition: Callable[[], Any]) -> None:
        end = time.monotonic() + WAIT_S
        while not condition():
            assert time.monotonic() < end, "the page did not get there in time"
            time.sleep(0.03)

    def keys(self, *keys: str) -> None:
        ActionChains(self.browser).send_keys(*keys).perform()


def start_browser() -> Iterator[WebDriver]:
    """A Chromium, ended afterwards; the fixture `browser` of every test module."""
    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1400,1000"):
        options.add_argument(argument)
    assert CHROMIUM and DRIVER, "expected chromium and chromedriver on the PATH"
    options.binary_location = CHROMIUM
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


def show(browser: WebDriver, url: str | Path, width: int = 1000, scheme: Scheme = "light") -> None:
    """Opens a page in a window of this width and colour scheme."""
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    scheme_feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)  # type: ignore[attr-defined]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme_feature]})  # type: ignore[attr-defined]
    browser.get(url.resolve().as_uri() if isinstance(url, Path) else url)


def overflow(browser: WebDriver) -> int:
    """How many pixels the page is wider than its window."""
    return browser.execute_script("return document.documentElement.scrollWidth - document.documentElement.clientWidth")


def axe_violations(browser: WebDriver) -> list[str]:
    """What axe-core finds on the open page, of serious and critical impact."""
    browser.execute_script(AXE.read_text())
    browser.set_script_timeout(60)
    return browser.execute_async_script(_RUN_AXE)


def check_page(browser: WebDriver, path: Path, width: int, scheme: Scheme) -> None:
    """Fails where a page is wider than its window, logs an error, or breaks a rule of accessibility."""
    browser.get_log("browser")  # type: ignore[attr-defined]  # what earlier pages logged
    show(browser, path, width, scheme)
    assert overflow(browser) == 0, f"{path.name} at {width} px"
    assert axe_violations(browser) == [], f"{path.name} at {width} px, {scheme}"
    logged: list[dict[str, Any]] = browser.get_log("browser")  # type: ignore[attr-defined]
    assert [entry["message"] for entry in logged] == []
