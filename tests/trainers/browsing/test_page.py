"""Tests of the browse page in a real browser, and of who its server lets in."""

import http.client
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webdriver import WebDriver

from annotation_tools.episodes import EpisodeStore
from tests.support.inputs.mixture_data import make_episode, write_dataset, write_spec
from tests.support.servers.browser import NEEDS_AXE, NEEDS_BROWSER, WIDTHS, BrowserPage, axe_violations, overflow, show
from trainers.browsing.collection import open_collection
from trainers.browsing.server import make_app


class Served:
    """The application in a thread of the test."""

    def __init__(self, source: str, token: str = "") -> None:
        self.collection = open_collection(source)
        listener = socket.create_server(("127.0.0.1", 0))
        self.port = listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/"
        app = make_app(self.collection, token=token)
        self.server = uvicorn.Server(uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=1))
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [listener]})
        self.thread.start()

    def ask(self, path: str, method: str = "GET", **headers: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request(method, path, None, headers)
        answer = connection.getresponse()
        content = answer.status, answer.read()
        connection.close()
        return content

    def end(self) -> None:
        self.server.should_exit = True
        self.thread.join(timeout=60)


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("browse")
    episodes = [make_episode(n, task=("fold", "pour <b>tea</b>")[n % 2], success=(1, 0)[n % 2]) for n in range(4)]
    write_dataset(root, "first", episodes)
    write_dataset(root, "second", [make_episode(9, task="wipe", robot="ur5e", cameras=())], n_shards=1)
    body = (
        "groups:\n  - name: a\n    datasets: [{path: first/1.0.0}]\n  - name: b\n    datasets: [{path: second/1.0.0}]\n"
    )
    return write_spec(root, body)


@pytest.fixture(scope="module")
def served(spec: Path) -> Iterator[Served]:
    running = Served(str(spec))
    yield running
    running.end()


class Page(BrowserPage):
    """The page as a person sees it."""

    def __init__(self, browser: WebDriver, url: str) -> None:
        super().__init__(browser)
        show(browser, url, 1400)
        self.until(lambda: self.script("return window.browse?.state.episode && browse.player.shown === 0"))

    def choose(self, name: str, value: str) -> None:
        before = self.script("return location.hash")
        self.script(
            f"const s = document.getElementById('by-{name}'); s.value = '{value}'; s.dispatchEvent(new Event('change'))"
        )
        self.until(lambda: self.script("return location.hash") != before)

    def listed(self) -> list[str]:
        return self.script(
            "return [...document.querySelectorAll('#episodes button')].map(b => b.firstChild.textContent)"
        )


@pytest.fixture
def page(browser: WebDriver, served: Served) -> Page:
    browser.get("about:blank")
    return Page(browser, served.url)


@NEEDS_BROWSER
def test_filters_narrow_the_list_and_stand_in_the_address(page: Page, served: Served) -> None:
    assert sorted(page.listed()) == ["fold", "fold", "pour <b>tea</b>", "pour <b>tea</b>", "wipe"]
    page.choose("outcome", "failure")
    page.until(lambda: page.listed() == ["pour <b>tea</b>"] * 2)
    assert "outcome=failure" in page.script("return location.hash")
    page.browser.refresh()
    page.until(lambda: page.listed() == ["pour <b>tea</b>"] * 2)
    page.script("document.getElementById('clear').click()")
    page.until(lambda: len(page.listed()) == 5)
    page.choose("group", "b/wipe@ur5e")
    page.until(lambda: page.listed() == ["wipe"])
    assert page.script("return document.querySelector('#count').textContent") == "1 of 5 episodes"


@NEEDS_BROWSER
def test_the_pictures_are_the_episodes_own(page: Page) -> None:
    page.keys(Keys.ARROW_RIGHT * 3)
    page.until(lambda: page.script("return browse.player.shown === 3"))
    corner = "return [...document.querySelector('#cameras canvas').getContext('2d').getImageData(9, 9, 1, 1).data]"
    number = int(page.script("return browse.state.episode.source_key").split("-")[1])
    red, green, blue, _ = page.script(corner)
    assert (abs(red - 8 * number) < 6, abs(green - 24) < 6, abs(blue - 80) < 6) == (True, True, True)


@NEEDS_BROWSER
def test_the_values_at_the_playhead_are_the_stored_ones(page: Page, served: Served) -> None:
    page.keys(Keys.ARROW_RIGHT * 5)
    page.until(lambda: page.script("return browse.state.step === 5"))
    row = "[...document.querySelectorAll('#curves tbody tr')].find(r => r.textContent.includes('arm0 joint 3'))"
    _, slot, state, action, unit = page.script(f"return [...{row}.cells].map(c => c.textContent.trim())")
    listed = served.collection.listed(page.script("return browse.state.episode.id"))
    episode = EpisodeStore(served.collection.stores[listed.store].dataset.path).episode(listed.brief.episode_id)
    assert (slot, unit) == ("2", "rad")
    assert float(state) == pytest.approx(float(episode.state[5, 2]), rel=1e-3)
    assert float(action) == pytest.approx(float(episode.action[5, 2]), rel=1e-3)


@NEEDS_BROWSER
def test_it_plays_at_the_chosen_speed_and_nothing_can_be_edited(page: Page) -> None:
    page.keys("+", "+", " ")
    page.until(lambda: page.script("return browse.state.step >= 8"))
    assert page.script("return document.getElementById('speed').value") == "4"
    before = page.script("return JSON.stringify(browse.state.episode.lanes)")
    page.keys("s", "x", "m")
    assert page.script("return JSON.stringify(browse.state.episode.lanes)") == before
    assert page.script("return document.querySelectorAll('.edge, .lane.mine, .lane .name button').length") == 0


@NEEDS_BROWSER
def test_keys_go_through_episodes_and_segments(page: Page) -> None:
    first = page.script("return browse.state.episode.id")
    page.keys("]")
    assert page.script("return browse.state.step") == 6  # where the second segment begins
    page.keys("j")
    page.until(lambda: page.script("return browse.state.episode.id") != first)
    page.keys("k")
    page.until(lambda: page.script("return browse.state.episode.id") == first)


@NEEDS_BROWSER
def test_the_source_is_named_and_hostile_text_stays_text(page: Page, served: Served) -> None:
    page.choose("outcome", "failure")
    page.until(lambda: page.listed() == ["pour <b>tea</b>"] * 2)
    page.script("document.querySelector('#episodes button').click()")
    page.until(lambda: page.script("return browse.state.episode.outcome") == "failure")
    source = page.script("return document.getElementById('source').textContent")
    key = page.script("return browse.state.episode.source_key")
    assert key in source and "record" in source and "--rerun episode.rrd" in source
    assert page.script("return document.querySelectorAll('main b, #episodes b').length") == 0


@NEEDS_BROWSER
@NEEDS_AXE
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_every_window_and_is_accessible(browser: WebDriver, served: Served, scheme: Any) -> None:
    for width in WIDTHS:
        browser.get("about:blank")
        show(browser, served.url, width, scheme)
        page = Page.__new__(Page)
        page.browser = browser
        page.until(lambda: page.script("return window.browse?.state.episode && browse.player.shown === 0"))  # noqa: B023
        assert overflow(browser) == 0
        assert axe_violations(browser) == []


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/browse/../cli.py", 404),
        ("/browse/%2e%2e/cli.py", 404),
        ("/static/..%2fserver.py", 404),
        ("/api/episodes/..%2f..%2fetc", 404),
        ("/api/episodes/0-nobody", 404),
        ("/api/episodes/{id}/frames/..%2fpasswd/0", 404),
        ("/api/episodes/{id}/frames/base_0_rgb/99999", 404),
        ("/api/episodes?limit=1000000", 422),
        ("/api/episodes?offset=-1", 422),
    ],
)
def test_nothing_but_episodes_can_be_read(served: Served, path: str, status: int) -> None:
    first = next(iter(served.collection.episodes))
    assert served.ask(path.replace("{id}", first))[0] == status


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_nothing_can_be_changed(served: Served, method: str) -> None:
    assert served.ask("/api/session", method)[0] == 403
    forged = {"X-Embodimix": "browse", "Content-Length": "0"}
    assert served.ask("/api/session", method, **forged)[0] == 405


def test_another_host_name_and_a_visitor_without_the_token_are_refused(spec: Path, served: Served) -> None:
    assert served.ask("/api/session", Host="evil.example")[0] == 400
    guarded = Served(str(spec), token="a-token-of-this-test")
    try:
        assert guarded.ask("/api/session")[0] == guarded.ask("/")[0] == guarded.ask("/palette.css")[0] == 401
        assert guarded.ask("/?token=wrong")[0] == 401
        assert guarded.ask("/?token=a-token-of-this-test")[0] == 307
    finally:
        guarded.end()
