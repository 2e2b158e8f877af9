"""Tests of the review server without a browser: who is let in, what can be read, what is refused."""

import hashlib
import http.client
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from annotation_tools.episodes import Brief, EpisodeStore
from annotation_tools.review.access import read_token
from annotation_tools.review.queue import Queue
from annotation_tools.review.server import motion_tracks
from annotation_tools.review.session import TOKEN_VARIABLE, ReviewOptions
from pipelines.contract.errors import UsageError
from tests.support.inputs.annotation_episodes import make_dataset
from tests.support.servers.annotation_server import LocalServer

PAGE = {"X-Embodimix": "review", "Content-Type": "application/json"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    running = LocalServer(make_dataset(tmp_path_factory.mktemp("server"), n_episodes=2, n_shards=1))
    yield running
    running.end()


def ask(
    server: LocalServer, path: str, method: str = "GET", body: Any = None, headers: dict[str, str] | None = None
) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", int(server.url.rstrip("/").rsplit(":", 1)[1]), timeout=60)
    content = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    connection.request(method, path, content, headers or {})
    answer = connection.getresponse()
    payload = answer.read()
    connection.close()
    is_json = answer.headers.get("content-type", "").startswith("application/json")
    return answer.status, json.loads(payload) if is_json else payload


def first_id(server: LocalServer) -> str:
    return next(iter(server.review.episodes.briefs))


def put(server: LocalServer, **changes: Any) -> tuple[int, Any]:
    segment = {"start": 0, "end": 5, "text": "a", "kind": "subtask", "arms": [], "success": -1, "confidence": 1.0}
    body = {"annotator": "ann", "revision": 0, "status": "draft", "segments": [segment], **changes}
    return ask(server, f"/api/episodes/{first_id(server)}/segments", "PUT", body, PAGE)


def test_a_picture_is_the_one_in_the_shard(server: LocalServer) -> None:
    status, jpeg = ask(server, f"/api/episodes/{first_id(server)}/frames/base_0_rgb/3")
    assert (status, jpeg) == (200, server.review.episodes.jpeg(first_id(server), "base_0_rgb", 3))


@pytest.mark.parametrize(
    "path",
    [
        "/static/../review.py",
        "/static/%2e%2e/review.py",
        "/static/..%2freview.py",
        "/../dataset_info.json",
        "/api/episodes/..%2f..%2fetc/frames/base_0_rgb/0",
        "/api/episodes/{id}/frames/..%2f..%2fpasswd/0",
        "/api/episodes/{id}/frames/base_0_rgb/-1",
        "/api/episodes/{id}/frames/base_0_rgb/99999",
        "/api/episodes/nobody?annotator=ann",
        "/segments/review.sqlite",
    ],
)
def test_nothing_but_the_datasets_own_pictures_can_be_read(server: LocalServer, path: str) -> None:
    status, _ = ask(server, path.replace("{id}", first_id(server)))
    assert status == 404


def test_a_list_can_be_of_one_robot(server: LocalServer) -> None:
    assert ask(server, "/api/session")[1]["choices"]["robot"] == [["generated", 2]]
    assert ask(server, "/api/episodes?annotator=ann&robot=generated")[1]["total"] == 2
    assert ask(server, "/api/episodes?annotator=ann&robot=other")[1]["total"] == 0


def test_another_host_name_is_refused(server: LocalServer) -> None:
    assert ask(server, "/api/session", headers={"Host": "evil.example"})[0] == 400


def test_a_change_from_a_foreign_page_is_refused(server: LocalServer) -> None:
    path = f"/api/episodes/{first_id(server)}/segments"
    assert ask(server, path, "PUT", {"annotator": "ann"})[0] == 403
    assert ask(server, "/api/export", "POST", {})[0] == 403


def test_a_body_that_is_too_large_is_refused_unread(server: LocalServer) -> None:
    headers = {**PAGE, "Content-Length": str(1 << 30)}
    assert ask(server, "/api/export", "POST", None, headers)[0] == 413


def test_the_page_may_load_nothing_from_elsewhere(server: LocalServer) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", int(server.url.rstrip("/").rsplit(":", 1)[1]))
    connection.request("GET", "/")
    headers = connection.getresponse().headers
    connection.close()
    assert headers["content-security-policy"].startswith("default-src 'self';")
    assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"annotator": "../x"}, "annotator: expected 1 to 40"),
        ({"status": "finished"}, "status: expected draft or done, found 'finished'"),
        ({"revision": "1"}, "revision, seconds: expected numbers"),
        ({"segments": "all"}, "segments: expected a list of objects"),
        ({"segments": [{"start": 0}]}, "segment: expected start, end, text"),
    ],
)
def test_a_save_that_makes_no_sense_is_refused(server: LocalServer, changes: dict[str, Any], said: str) -> None:
    status, answer = put(server, **changes)
    assert status == 422 and said in answer["error"]


@pytest.mark.parametrize(
    ("spans", "said"),
    [
        ([(0, 9), (5, 12)], "overlap: the segment before it reaches to step 9"),
        ([(0, 100_000)], "outside: the episode has steps 0-"),
        ([(-3, 4)], "outside: the episode has steps 0-"),
        ([(4, 4)], "empty: expected start < end"),
    ],
)
def test_segments_that_do_not_fit_are_refused(server: LocalServer, spans: list[tuple[int, int]], said: str) -> None:
    shape = {"text": "a", "kind": "subtask", "arms": [], "success": -1, "confidence": 1.0}
    status, answer = put(server, segments=[{"start": start, "end": end, **shape} for start, end in spans])
    assert status == 422 and said in answer["error"]


def test_words_may_be_missing_in_a_draft_but_not_in_finished_work(server: LocalServer) -> None:
    segment = {"start": 0, "end": 5, "text": " ", "kind": "subtask", "arms": [], "success": -1, "confidence": 1.0}
    status, answer = put(server, annotator="cid", segments=[segment], status="done")
    assert status == 422 and "text: expected words" in answer["error"]
    assert put(server, annotator="cid", segments=[segment])[0] == 200


def test_a_stale_save_is_answered_with_what_is_there(server: LocalServer) -> None:
    assert put(server, annotator="dan") == (200, {"revision": 1})
    status, answer = put(server, annotator="dan", author="eve")
    assert (status, answer["current"]["revision"], answer["current"]["author"]) == (409, 1, "dan")


@pytest.mark.parametrize("query", ["view=fun&annotator=a", "view=todo", "limit=-1&annotator=a", "limit=x&annotator=a"])
def test_a_list_that_makes_no_sense_is_refused(server: LocalServer, query: str) -> None:
    assert ask(server, f"/api/episodes?{query}")[0] == 422


def test_with_a_token_nothing_is_answered_without_it(tmp_path: Path, server: LocalServer) -> None:
    guarded = LocalServer(Path(shutil.copytree(server.dataset, tmp_path / "1.0.0")), token="s3cret-s3cret-s3cret")
    try:
        assert ask(guarded, "/")[0] == ask(guarded, "/api/session")[0] == 401
        assert ask(guarded, "/?token=wrong")[0] == 401
        assert ask(guarded, "/?token=s3cret-s3cret-s3cret")[0] == 307
        name = f"embodimix_review_{hashlib.sha256(b's3cret-s3cret-s3cret').hexdigest()[:8]}"
        cookie = {"Cookie": f"{name}=s3cret-s3cret-s3cret"}
        assert ask(guarded, "/api/session", headers=cookie)[0] == 200
    finally:
        guarded.end()


def test_the_link_with_the_token_leads_to_the_page_and_nowhere_else(tmp_path: Path, server: LocalServer) -> None:
    guarded = LocalServer(Path(shutil.copytree(server.dataset, tmp_path / "1.0.0")), token="s3cret-s3cret-s3cret")
    try:
        for path in ("/", "//evil.example/", "/\\evil.example", "/%2f%2fevil.example"):
            connection = http.client.HTTPConnection("127.0.0.1", int(guarded.url.rstrip("/").rsplit(":", 1)[1]))
            connection.putrequest("GET", f"{path}?token=s3cret-s3cret-s3cret")
            connection.endheaders()
            answer = connection.getresponse()
            assert (answer.status, answer.headers["location"]) == (307, "/")
            connection.close()
    finally:
        guarded.end()


def test_a_review_asks_for_a_token_of_its_own(tmp_path: Path) -> None:
    first, second = ReviewOptions(dataset=tmp_path), ReviewOptions(dataset=tmp_path)
    assert len(first.token) >= 16 and first.token != second.token
    with pytest.raises(UsageError, match="expected a token of 16 letters or more, found 5"):
        ReviewOptions(dataset=tmp_path, token="short")
    with pytest.raises(UsageError, match="letters, digits"):
        ReviewOptions(dataset=tmp_path, token="sixteen letters & more")


def test_only_this_machine_is_let_in_without_a_token(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--host 0.0.0.0: other machines could connect, so --no-token is refused"):
        ReviewOptions(dataset=tmp_path, host="0.0.0.0", is_open=True)
    assert ReviewOptions(dataset=tmp_path, is_open=True).host == "127.0.0.1"


def test_the_token_comes_from_a_file_or_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "token").write_text("from-a-file-of-mine\n")
    monkeypatch.setenv("EMBODIMIX_REVIEW_TOKEN", "from-the-environment")
    assert read_token(tmp_path / "token", TOKEN_VARIABLE) == "from-a-file-of-mine"
    assert read_token(None, TOKEN_VARIABLE) == "from-the-environment"
    (tmp_path / "empty").write_text("\n")
    for name in ("empty", "missing"):
        with pytest.raises(UsageError, match=f"--token-file .*{name}: expected a file with a token"):
            read_token(tmp_path / name, TOKEN_VARIABLE)


POISONS = [
    b'{"annotator": "pat", "revision": 0, "status": "draft", "seconds": 1e999, "segments": []}',
    b'{"annotator": "pat", "revision": 0, "status": "draft", "seconds": NaN, "segments": []}',
    b'{"annotator": "pat", "revision": 1e999, "status": "draft", "segments": []}',
    b'{"annotator": "pat", "revision": true, "status": "draft", "segments": []}',
    b'{"annotator": "pat", "revision": 99999999999999999999, "status": "draft", "segments": []}',
    b'{"annotator": "pat", "revision": 0, "status": "draft", "segments": [{"start": 0, "end": 5, "text": "\\ud800", '
    b'"kind": "subtask", "arms": [], "success": -1, "confidence": 1.0}]}',
    b'{"annotator": "pat", "revision": 0, "status": "draft", "segments": [{"start": 0, "end": 5, "text": "a", '
    b'"kind": "subtask", "arms": ["\\udfff"], "success": -1, "confidence": 1.0}]}',
    b'{"annotator": "pat", "revision": 0, "status": "draft", "segments": [{"start": 0, "end": 5, "text": "a", '
    b'"kind": "subtask", "arms": [], "success": -1, "confidence": 1e999}]}',
    b'{"annotator": "pat", "revision": 0, "status": "draft", "segments": [{"start": false, "end": 5, "text": "a", '
    b'"kind": "subtask", "arms": [[]], "success": -1, "confidence": 1.0}]}',
    b'{"annotator": "pat", "a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    b"\xff\xfe",
]


@pytest.mark.parametrize("body", POISONS, ids=range(len(POISONS)))
def test_a_save_that_json_or_unicode_cannot_hold_breaks_nothing(server: LocalServer, body: bytes) -> None:
    path = f"/api/episodes/{first_id(server)}"
    status, answer = ask(server, f"{path}/segments", "PUT", body, PAGE)
    assert status == 422 and "expected" in answer["error"]
    assert ask(server, f"{path}?annotator=ann")[0] == ask(server, "/api/progress")[0] == 200
    assert ask(server, "/api/export", "POST", {}, PAGE)[0] == 200


def test_a_text_that_is_too_long_is_refused_rather_than_cut(server: LocalServer) -> None:
    segment = {"start": 0, "end": 5, "text": "x" * 1001, "kind": "idle", "arms": [], "success": -1, "confidence": 1.0}
    status, answer = put(server, annotator="lea", segments=[segment])
    assert status == 422 and "text: expected 1000 letters at most, found 1001" in answer["error"]


def test_a_page_of_a_hundred_thousand_episodes_comes_at_once() -> None:
    briefs = {
        f"{number:032x}": Brief(
            episode_id=f"{number:032x}",
            source_key="",
            split="train",
            shard=0,
            row=number,
            n_steps=200,
            control_hz=10.0,
            task="fold",
            language=(),
            robot="arx",
            control_mode="ee_delta",
            success=1,
            n_segments=9,
            confidence=number * 7919 % 1000 / 1000,
        )
        for number in range(100_000)
    }
    queue = Queue.of(briefs, double=0.05)
    statuses = {episode_id: {"bob": "done"} for episode_id in list(briefs)[:5000]}
    began = time.process_time()
    ids, total = queue.page("todo", "ann", statuses, {}, 50_000, 50)  # type: ignore[arg-type]
    assert time.process_time() - began < 1
    assert len(ids) == 50 and 95_000 < total < 95_500


def test_every_part_that_moves_has_a_curve_beside_those_of_grippers(tmp_path: Path) -> None:
    store = EpisodeStore(make_dataset(tmp_path, n_episodes=1, n_shards=1))
    (episode_id,) = store.briefs
    tracks = motion_tracks(store.episode(episode_id))
    assert {"arm0 speed", "arm1 speed", "gripper0", "gripper1"} <= {track["name"] for track in tracks}
    for track in tracks:
        assert len(track["values"]) == store.briefs[episode_id].n_steps
        assert 0 <= min(track["values"]) <= max(track["values"]) <= 1
