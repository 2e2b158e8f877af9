"""Tests of the review page in a real browser: editing by keyboard and mouse, saving, conflicts, contrast."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webdriver import WebDriver
from selenium.webdriver.remote.webelement import WebElement

from annotation_tools.episodes import EpisodeStore
from annotation_tools.review.store import ReviewStore
from pipelines.segments.tables import read_segments
from tests.support.inputs.annotation_episodes import make_dataset
from tests.support.servers.annotation_server import LocalServer
from tests.support.servers.browser import NEEDS_AXE, NEEDS_BROWSER, WIDTHS, BrowserPage, axe_violations, overflow, show

pytestmark = NEEDS_BROWSER


class Server:
    """The review command as a process of its own."""

    def __init__(self, dataset: Path, *options: str) -> None:
        self.dataset, self.port = dataset, 0
        self.options = options
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "trainers.main", "annotate", "review", str(self.dataset)]
        command += ["--port", str(self.port), *self.options]
        # One token, so that a page that was open before a restart is still let in.
        environment = os.environ | {"EMBODIMIX_REVIEW_TOKEN": "one-token-of-all-starts"}
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        assert self.process.stdout
        self.url = self.process.stdout.readline().split()[1]
        self.port = int(re.findall(r":(\d+)/", self.url)[0])

    def end(self, how: signal.Signals = signal.SIGINT) -> str:
        self.process.send_signal(how)
        return self.process.communicate(timeout=60)[0]


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("review"), n_episodes=3, n_shards=1)


@pytest.fixture
def dataset(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "toy" / "1.0.0"))


@pytest.fixture
def server(dataset: Path) -> Iterator[LocalServer]:
    running = LocalServer(dataset)
    yield running
    running.end()


@pytest.fixture
def process(dataset: Path) -> Iterator[Server]:
    running = Server(dataset)
    yield running
    if running.process.poll() is None:
        running.end(signal.SIGKILL)


class Page(BrowserPage):
    """The page as a person sees it."""

    def __init__(self, browser: WebDriver, url: str, name: str = "ann") -> None:
        super().__init__(browser)
        browser.get(url)
        browser.execute_script("localStorage.clear()")
        browser.get(url)
        self.until(lambda: self.find("#name").is_displayed())
        self.find("#name").send_keys(name, Keys.ENTER)
        self.until(lambda: self.script("return review.state.episode && review.player.shown === 0"))

    def find(self, selector: str) -> WebElement:
        return self.browser.find_element(By.CSS_SELECTOR, selector)

    def with_control(self, key: str) -> None:
        ActionChains(self.browser).key_down(Keys.CONTROL).send_keys(key).key_up(Keys.CONTROL).perform()

    def segments(self) -> list[list[Any]]:
        return self.script("return review.state.history.present.map(s => [s.start, s.end, s.text])")

    def wait_for_save(self) -> None:
        self.until(
            lambda: (
                self.find("#saved").text.startswith("saved, revision")
                and not self.script("return review.state.dirty || Boolean(review.state.saving)")
            )
        )


@pytest.fixture
def page(browser: WebDriver, server: LocalServer) -> Page:
    return Page(browser, server.url)


def saved(server: Server | LocalServer, annotator: str = "ann") -> list[tuple[int, int, str]]:
    store = ReviewStore(server.dataset / "segments" / "review.sqlite")
    layers = [layer for episode in store.statuses() for layer in store.layers(episode) if layer.annotator == annotator]
    store.close()
    assert len(layers) == 1
    return [(s.start, s.end, s.text) for s in layers[0].segments]


def test_it_begins_with_the_proposal_of_the_most_doubtful_episode(page: Page, server: LocalServer) -> None:
    store = EpisodeStore(server.dataset)
    doubtful = min(store.briefs.values(), key=lambda brief: brief.confidence).episode_id
    proposal = [[s.start, s.end, s.text] for s in store.episode(doubtful).segments]
    assert page.script("return review.state.episode.id") == doubtful
    assert page.segments() == proposal
    assert len(page.browser.find_elements(By.CSS_SELECTOR, "#episodes button")) == 3
    assert [entry["message"] for entry in page.browser.get_log("browser")] == []  # type: ignore[attr-defined]


def test_split_relabel_and_undo_by_keyboard_are_saved(page: Page, server: LocalServer) -> None:
    before = page.segments()
    end, words = before[0][1], before[0][2]
    page.keys(Keys.ARROW_RIGHT * 5, "s", "e")
    page.keys(Keys.BACKSPACE, "grasp the cup", Keys.ENTER)
    assert page.segments()[:2] == [[0, 5, words], [5, end, "grasp the cup"]]
    page.keys("k")
    page.keys("y", "u")
    page.wait_for_save()
    assert saved(server)[:2] == [(0, 5, words), (5, end, "grasp the cup")]
    store = ReviewStore(server.dataset / "segments" / "review.sqlite")
    second = store.layers(page.script("return review.state.episode.id"))[0].segments[1]
    assert (second.kind, second.success, second.source) == ("recovery", -1, "human")
    page.keys("u", "u", "u")
    assert page.segments() == before
    page.with_control("z")
    page.keys("r")
    assert page.segments()[0] == [0, 5, words]


def test_merge_remove_and_edges_by_keyboard(page: Page) -> None:
    before = page.segments()
    page.keys("]", ".", ".", ",")
    assert page.segments()[1][0] == before[1][0] + 1 == page.segments()[0][1]
    page.keys("<")
    assert page.segments()[1][1] == before[1][1] - 1 == page.segments()[2][0]
    page.keys("m")
    assert page.segments()[1][:2] == [before[1][0] + 1, before[2][1]]
    page.keys("x")
    assert page.segments()[0][:2] == [0, before[2][1]]
    assert len(page.segments()) == len(before) - 2


def test_an_edge_is_dragged_by_mouse(page: Page, server: LocalServer) -> None:
    before = page.segments()
    edge = page.find('.edge[data-place="0"][data-side="end"]')
    step_width = page.script("return document.querySelector('.lane.mine').clientWidth / review.state.episode.n_steps")
    ActionChains(page.browser).drag_and_drop_by_offset(edge, round(4 * step_width), 0).perform()
    page.wait_for_save()
    moved = before[0][1] + 4
    assert page.segments()[0][1] == page.segments()[1][0] == moved
    assert saved(server)[0][1] == moved


def test_done_opens_the_next_and_the_table_holds_the_work(browser: WebDriver, process: Server) -> None:
    page = Page(browser, process.url)
    first = page.script("return review.state.episode.id")
    page.with_control(Keys.ENTER)
    page.until(lambda: page.script("return review.state.episode.id") != first)
    assert page.find("#progress").text.startswith("1 of 3 done by you")
    assert len(page.browser.find_elements(By.CSS_SELECTOR, "#episodes button")) == 2
    told = process.end()
    assert "wrote" in told and "ann.parquet" in told
    table = read_segments(process.dataset / "segments" / "ann.parquet")
    assert {a.episode_id for a in table} == {first}
    assert [a.segment.source for a in table] == ["human"] * len(table)


def test_a_killed_server_loses_nothing(browser: WebDriver, process: Server) -> None:
    page = Page(browser, process.url)
    page.keys(Keys.ARROW_RIGHT * 5, "s")
    page.wait_for_save()
    process.end(signal.SIGKILL)
    assert saved(process)[0][:2] == (0, 5)
    page.keys(Keys.ARROW_RIGHT * 2, "s")
    page.until(lambda: "the server does not answer" in page.find("#saved").text)
    process.start()
    page.until(lambda: page.find("#saved").text.startswith("saved, revision"))
    assert [start for start, _, _ in saved(process)[:3]] == [0, 5, 7]


def test_work_that_was_not_saved_is_there_after_the_page_is_closed(browser: WebDriver, process: Server) -> None:
    page = Page(browser, process.url)
    process.end(signal.SIGKILL)
    page.keys(Keys.ARROW_RIGHT * 5, "s")
    page.until(lambda: "the server does not answer" in page.find("#saved").text)
    page.browser.get("about:blank")
    process.start()
    page.browser.get(process.url)
    page.until(lambda: page.script("return window.review && review.state.history && review.player.shown === 0"))
    page.wait_for_save()
    assert saved(process)[0][:2] == (0, 5)


@pytest.mark.parametrize(("choice", "first_end"), [("Keep mine", 5), ("Take theirs", 9)])
def test_two_saves_of_one_episode_are_a_choice_and_nothing_is_lost(
    page: Page, server: LocalServer, choice: str, first_end: int
) -> None:
    page.script("""
        const {episode, name, history} = review.state;
        const [first, ...rest] = history.present;
        const theirs = [{...first, end: 9}, {...first, start: 9}, ...rest].map(({source, ...s}) => s);
        window.other = fetch(`/api/episodes/${episode.id}/segments`, {method: 'PUT',
          headers: {'X-Embodimix': 'review', 'Content-Type': 'application/json'},
          body: JSON.stringify({annotator: name, author: 'bob', revision: 0, status: 'draft', segments: theirs})
        }).then(answer => window.otherDone = answer.status)""")
    page.until(lambda: page.script("return window.otherDone === 200"))
    page.keys(Keys.ARROW_RIGHT * 5, "s")
    page.until(lambda: page.find("#banner").is_displayed())
    assert page.find("#banner").text.startswith("bob saved this episode meanwhile. Both versions are kept.")
    page.find(f"#banner button:nth-of-type({1 if choice == 'Keep mine' else 2})").click()
    page.wait_for_save()
    assert saved(server)[0][1] == first_end
    store = ReviewStore(server.dataset / "segments" / "review.sqlite")
    (kept,) = store.kept(page.script("return review.state.episode.id"))
    assert kept[1][0].end == 5


def test_hostile_text_stays_text(page: Page) -> None:
    page.keys("e")
    page.keys(Keys.BACKSPACE, "<img src=x onerror=window.hacked=1>", Keys.ENTER)
    page.wait_for_save()
    page.browser.refresh()
    page.until(lambda: page.script("return window.review && review.state.history && review.player.shown === 0"))
    assert page.segments()[0][2] == "<img src=x onerror=window.hacked=1>"
    assert page.find(".lane.mine .segment").text.startswith("<img")
    assert page.script("return [window.hacked, document.querySelectorAll('#timeline img').length]") == [None, 0]


def test_an_episode_that_another_holds_can_only_be_looked_at(page: Page, server: LocalServer) -> None:
    episode_id = page.script("return review.state.episode.id")
    page.script(f"localStorage.setItem('embodimix/name', 'bob'); location.hash = 'episode={episode_id}'")
    page.browser.refresh()
    page.until(lambda: page.find("#banner").is_displayed())
    assert "ann is at work on this episode" in page.find("#banner").text
    before = page.segments()
    page.keys(Keys.ARROW_RIGHT * 5, "s", "x", "k")
    assert page.segments() == before and not page.find("#done").is_enabled()


def test_scrubbing_shows_every_frame(page: Page) -> None:
    scrub = """
        const done = arguments[0];
        (async () => {
          const {player} = review;
          player.frames.clear();
          const before = player.drawn;
          for (let step = 0; step < 60; step++) await player.show(step);
          done(player.drawn - before);
        })()"""
    assert page.browser.execute_async_script(scrub) == 60


def test_playing_moves_on_in_real_time(page: Page) -> None:
    page.keys(" ")
    page.until(lambda: page.script("return review.state.step >= 10 && review.player.drawn > 5"))
    page.keys(" ")
    assert page.find("#play").text == "Play"


def test_a_single_key_edit_is_named_with_its_undo_in_sight(page: Page) -> None:
    before = page.segments()
    show(page.browser, page.browser.current_url, 375)
    page.until(lambda: page.script("return window.review && review.state.history && review.player.shown === 0"))
    page.keys("m")
    assert len(page.segments()) == len(before) - 1
    assert page.find("#edited").text == "Merged; u undoes it."
    top, bottom, height = page.script(
        "const b = document.getElementById('undo').getBoundingClientRect(); return [b.top, b.bottom, innerHeight]"
    )
    assert 0 <= top < bottom <= height
    page.keys("u")
    assert (page.segments(), page.find("#edited").text) == (before, "")
    show(page.browser, page.browser.current_url, 1400)


def test_it_plays_at_the_chosen_speed(page: Page) -> None:
    page.script("document.getElementById('speed').value = '4'")
    page.keys(" ")
    began = time.monotonic()
    page.until(lambda: page.script("return review.state.step >= 40"))
    assert time.monotonic() - began < 4.0  # at its own 10 Hz the page would take four seconds
    page.keys(" ")


@NEEDS_AXE
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_every_window_and_is_accessible(page: Page, scheme: Any) -> None:
    for width in WIDTHS:
        show(page.browser, page.browser.current_url, width, scheme)
        page.until(lambda: page.script("return window.review && review.state.history && review.player.shown === 0"))
        assert overflow(page.browser) == 0
        assert axe_violations(page.browser) == []
    show(page.browser, page.browser.current_url, 1400)


CONTRAST = """
const parse = (text) => text.match(/[\\d.]+/g).map(Number);
const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
  .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
  .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
const behind = (element) => {
  for (let e = element; e; e = e.parentElement) {
    const colour = parse(getComputedStyle(e).backgroundColor);
    if (colour.length < 4 || colour[3] > 0) return colour;
  }
  return [255, 255, 255];
};
return [...document.querySelectorAll('body *')].filter(e => e.checkVisibility() && !e.disabled &&
    [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim())).map(e => {
  const [a, b] = [light(parse(getComputedStyle(e).color)), light(behind(e))];
  return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), e.outerHTML.slice(0, 120)];
}).filter(([ratio]) => ratio < 4.5)"""


CHOOSE = """
const select = document.getElementById(arguments[0]);
select.value = arguments[1];
select.dispatchEvent(new Event('change'));
"""


def test_the_list_is_filtered_by_outcome_and_finding(browser: WebDriver, dataset: Path, tmp_path: Path) -> None:
    named = next(iter(EpisodeStore(dataset).briefs))
    finding = {
        "kind": "frozen_camera",
        "severity": "error",
        "scope": "base_0_rgb",
        "evidence": "one picture for 3 s <b>",
        "advice": "leave it out",
        "n_episodes": 1,
        "episodes": [f"train: a ({named[:8]})"],
    }
    (tmp_path / "f.json").write_text(json.dumps({"dataset": str(dataset), "findings": [finding]}))
    server = LocalServer(dataset, findings=tmp_path / "f.json")
    listed = "return [...document.querySelectorAll('#episodes button')].map(b => b.dataset.id)"
    try:
        page = Page(browser, server.url)
        assert len(page.script(listed)) == 3
        browser.execute_script(CHOOSE, "by-finding", "frozen_camera")
        page.until(lambda: page.script(listed) == [named])
        assert page.find("#episodes small.flag").text == "frozen_camera"
        page.find("#episodes button").click()
        page.until(lambda: page.script("return review.state.episode.id") == named)
        assert page.find("#flaws").text.startswith("error: frozen_camera in base_0_rgb: one picture for 3 s <b>")
        page.script("document.getElementById('clear').click()")
        page.until(lambda: len(page.script(listed)) == 3)
    finally:
        server.end()


def test_all_text_has_enough_contrast(page: Page) -> None:
    page.keys("k")
    page.keys("]", "k", "k")
    assert page.script(CONTRAST) == []


def test_everything_is_reached_and_named_without_a_mouse(page: Page) -> None:
    named = page.script("""
        return [...document.querySelectorAll(':is(main, header, nav) :is(button, input, select)')]
          .filter(e => e.checkVisibility())
          .filter(e => !(e.textContent.trim() || e.labels?.length || e.getAttribute('aria-label')))
          .map(e => e.outerHTML)""")
    assert named == []
    page.script("document.activeElement.blur()")
    seen = set()
    for _ in range(60):
        page.keys(Keys.TAB)
        seen.add(page.script("return document.activeElement.id || document.activeElement.className"))
    assert {"view", "by-words", "play", "zoom", "text", "kind", "success", "split", "done"} <= seen
    page.script("document.activeElement.blur()")
    page.keys("?")
    page.until(lambda: page.find("#help").is_displayed())
    assert "split at the playhead" in page.find("#keys").text
    page.keys(Keys.ESCAPE)
    assert not page.find("#help").is_displayed()


def test_a_judge_decides_between_two_blind_annotators(browser: WebDriver, tmp_path: Path) -> None:
    server = Server(make_dataset(tmp_path, n_episodes=1, n_shards=1), "--double", "1")
    try:
        for name, steps in (("ann", 5), ("bob", 9)):
            page = Page(browser, server.url, name)
            lanes = page.script("return review.state.episode.lanes.map(lane => lane.name)")
            assert lanes == ["proposal"]
            page.keys(Keys.ARROW_RIGHT * steps, "s")
            page.with_control(Keys.ENTER)
            page.until(lambda: "Nothing is left" in page.find("#banner").text)  # noqa: B023
        judge = page
        judge.script("localStorage.setItem('embodimix/name', 'eve')")
        judge.browser.refresh()
        judge.until(lambda: judge.script("return Boolean(window.review && review.state.session && review.state.name)"))
        judge.find("#view option[value=adjudicate]").click()
        judge.until(lambda: len(judge.browser.find_elements(By.CSS_SELECTOR, "#episodes button")) == 1)
        judge.find("#episodes button").click()
        judge.until(lambda: judge.script("return review.state.episode?.lanes.length === 3"))
        judge.find('button[aria-label="use the segments of bob"]').click()
        judge.with_control(Keys.ENTER)
        judge.until(lambda: "Nothing is left" in judge.find("#banner").text)
        told = server.end()
        assert all(f"{name}.parquet" in told for name in ("adjudicated", "ann", "bob"))
        table = read_segments(server.dataset / "segments" / "adjudicated.parquet")
        assert (table[0].segment.end, table[0].annotator) == (9, "adjudicated")
    finally:
        if server.process.poll() is None:
            server.end(signal.SIGKILL)
