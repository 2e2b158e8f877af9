"""Every page in a real Chromium: three widths, light and dark, axe-core's rules, and what people do on it."""

import contextlib
import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webdriver import WebDriver

from pipelines.pages.charts import bars, legend, lines
from pipelines.pages.page import folded, page
from tests.support.servers.browser import NEEDS_AXE, NEEDS_BROWSER, WIDTHS, check_page, overflow, show
from tests.support.servers.pages import PAGES, specs
from trainers.main import main

pytestmark = NEEDS_BROWSER


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pages")


@pytest.fixture(scope="module")
def written(folder: Path) -> Callable[[str], Path]:
    """The page of a name, written once."""
    found: dict[str, Path] = {}

    def path_of(name: str) -> Path:
        if name not in found:
            found[name] = PAGES[name](folder)
        return found[name]

    return path_of


@NEEDS_AXE
@pytest.mark.parametrize("name", list(PAGES))
def test_a_page_fits_every_window_and_is_accessible(
    browser: WebDriver, written: Callable[[str], Path], name: str
) -> None:
    for width in WIDTHS:
        check_page(browser, written(name), width, "light")
    check_page(browser, written(name), WIDTHS[0], "dark")


@pytest.mark.parametrize("width", [375, 600])
def test_what_is_wrong_with_a_group_is_in_sight_in_a_narrow_window(
    browser: WebDriver, written: Callable[[str], Path], width: int
) -> None:
    show(browser, written("plan"), width)
    wrong = browser.find_elements(By.CSS_SELECTOR, "td.wrong")
    assert wrong
    for cell in wrong:
        row = cell.find_element(By.XPATH, "..")
        name = row.find_element(By.CSS_SELECTOR, "td")
        assert cell.rect["x"] + cell.rect["width"] <= width
        assert name.rect["y"] < cell.rect["y"] < name.rect["y"] + 2 * name.rect["height"]
    label = browser.execute_script("return getComputedStyle(arguments[0], '::before').content", wrong[0])
    assert label == f'"{wrong[0].get_attribute("data-label")} "'


@pytest.mark.parametrize("width", [375, 1400])
def test_long_names_stay_beside_their_bars(browser: WebDriver, tmp_path: Path, width: int) -> None:
    names = ["in_house/drive to the table and lift the box with both arms@mobile_fibocom", "lift@ur5e"]
    path = tmp_path / "bars.html"
    path.write_text(page("Bars", [bars(names, {"share": [20.0, 0.5]}, unit=" %"), legend(names)]))
    show(browser, path, width)
    assert overflow(browser) == 0
    inside = (
        "const range = new Range(); range.selectNodeContents(arguments[0]); return range.getBoundingClientRect().right"
    )
    for head in browser.find_elements(By.CSS_SELECTOR, "table.bars tbody th"):
        bar = head.find_element(By.XPATH, "../td//i")
        assert browser.execute_script(inside, head) <= bar.rect["x"]


def rows_of(browser: WebDriver) -> list[str]:
    """The first cells of the groups' table that can be seen, in order."""
    rows = browser.find_elements(By.CSS_SELECTOR, "tr.row-of")
    return [row.find_elements(By.TAG_NAME, "td")[0].text.lstrip("▸▾\xa0 ") for row in rows if row.is_displayed()]


def column(browser: WebDriver, number: int) -> list[float]:
    cells = browser.find_elements(By.CSS_SELECTOR, f"tr.row-of td:nth-child({number})")
    return [float(cell.text.replace(",", "")) for cell in cells]


def test_the_plan_answers_which_groups_are_wrong_in_its_first_screenful(
    browser: WebDriver, written: Callable[[str], Path]
) -> None:
    show(browser, written("plan"), 1000)
    verdict = browser.find_element(By.CSS_SELECTOR, ".verdict")
    assert verdict.rect["y"] + verdict.rect["height"] < 900
    assert "groups look wrong" in verdict.text and "unlabelled: 100% of the steps have no language" in verdict.text
    red = browser.find_elements(By.CSS_SELECTOR, "td.wrong")
    flagged = json.loads(plan_json(written("plan").parent))["groups"]
    assert len(red) >= sum(bool(group["flags"]) for group in flagged) > 1
    assert len(browser.find_elements(By.CSS_SELECTOR, "tr.row-of")) == len(flagged)  # all of them


def plan_json(folder: Path) -> str:
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        main(["mix", "plan", str(specs(folder)[0]), "--draws", "1000", "--json"])
    return said.getvalue()


def test_the_plans_table_sorts_filters_and_opens_by_mouse_and_keyboard(
    browser: WebDriver, written: Callable[[str], Path]
) -> None:
    show(browser, written("plan"), 1400)
    heads = {head.text.rstrip(" ↕"): head for head in browser.find_elements(By.CSS_SELECTOR, "th button.sort")}
    heads["steps"].click()
    assert column(browser, 3) == sorted(column(browser, 3), reverse=True)
    heads["steps"].click()
    assert column(browser, 3) == sorted(column(browser, 3))
    heads["group"].send_keys(Keys.ENTER)
    assert rows_of(browser) == sorted(rows_of(browser))
    browser.find_element(By.CSS_SELECTOR, ".filters input[type=search]").send_keys("both")
    assert rows_of(browser) == ["both@arx"]
    button = browser.find_element(By.XPATH, "//button[contains(., 'both@arx')]")
    button.send_keys(Keys.ENTER)
    opened = browser.find_element(By.CSS_SELECTOR, "tr.more:not([hidden])")
    assert button.get_attribute("aria-expanded") == "true"
    assert "mixed control rates: 5, 10 Hz" in opened.text and "** 0.43" in opened.text.replace("^", "** ")
    assert len(opened.find_elements(By.TAG_NAME, "img")) == 2  # a real sample's cameras
    button.send_keys(Keys.ENTER)
    assert not browser.find_elements(By.CSS_SELECTOR, "tr.more:not([hidden])")
    browser.find_element(By.CSS_SELECTOR, ".filters input[type=search]").clear()
    browser.find_element(By.CSS_SELECTOR, ".filters input[type=checkbox]").click()
    assert (
        "both@arx" in rows_of(browser)
        and len(rows_of(browser)) < len(json.loads(plan_json(written("plan").parent))["groups"]) + 1
    )


def test_a_chart_says_its_values_at_the_pointer_and_by_keys(browser: WebDriver, tmp_path: Path) -> None:
    path = tmp_path / "chart.html"
    chart = lines({"policy": ([0, 1, 2], [0.5, 0.25, float("nan")]), "mean": ([0, 2], [3.0, 1.0])}, "step", "error")
    path.write_text(page("A chart", [f"<h1>A chart</h1>{chart}"]))
    show(browser, path)
    box = browser.find_element(By.CSS_SELECTOR, ".chart")
    tip = browser.find_element(By.CSS_SELECTOR, ".tip")
    assert not tip.is_displayed()
    said = []
    for _ in range(3):
        box.send_keys(Keys.ARROW_RIGHT)
        said.append(tip.text)
    assert said == ["step 0\npolicy: 0.5\nmean: 3", "step 1\npolicy: 0.25", "step 2\nmean: 1"]  # Nothing of a NaN.
    browser.execute_script(
        "const s = document.querySelector('.chart svg'), b = s.getBoundingClientRect();"
        "s.dispatchEvent(new PointerEvent('pointermove', {bubbles: true, clientX: b.left + 70, clientY: b.top + 50}))"
    )
    assert tip.text == "step 0\npolicy: 0.5\nmean: 3"


def test_a_printed_page_opens_what_is_folded(browser: WebDriver, tmp_path: Path) -> None:
    path = tmp_path / "folded.html"
    path.write_text(page("Folded", ["<h1>Folded</h1>", folded("more", "<p>inside</p>")]))
    show(browser, path)
    assert not browser.find_element(By.XPATH, "//p[.='inside']").is_displayed()
    browser.execute_script("window.dispatchEvent(new Event('beforeprint'))")
    assert browser.find_element(By.XPATH, "//p[.='inside']").is_displayed()
