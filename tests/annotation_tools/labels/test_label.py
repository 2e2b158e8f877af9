"""Tests of labelling: answers that are checked, a server that misbehaves, limits, what is remembered, what failed."""

import argparse
import json
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from annotation_tools.episodes import EpisodeStore
from annotation_tools.labels.answer import BadAnswer, parse_answer
from annotation_tools.labels.command import choose_labeler
from annotation_tools.labels.http import HttpLabeler
from annotation_tools.labels.labelers import Labeler, LabelerAnswer, RulesLabeler, SubprocessLabeler, Usage
from annotation_tools.labels.request import LabelRequest, contact_sheet, make_requests
from annotation_tools.labels.run import (
    AnswerCache,
    DeadLetter,
    LabelLimits,
    LabelOutcome,
    estimate_run,
    label_run,
)
from pipelines.contract.episode import Segment
from pipelines.contract.errors import FailedWork, UsageError
from pipelines.contract.images import decode_jpeg
from tests.support.inputs.annotation_episodes import make_dataset
from tests.support.servers.chat_endpoint import Endpoint, Reply, completion, endpoint

__all__ = ["endpoint"]
SEGMENTS = (
    Segment(start=0, end=20, text="move the left arm down", arms=("arm0",)),
    Segment(start=20, end=45, text="close the left gripper", arms=("arm0",)),
    Segment(start=45, end=60, text="move both arms up", arms=("arm0", "arm1")),
)
REQUEST = LabelRequest(episode_id="e", task="fold", robot="arx", control_hz=10.0, segments=SEGMENTS)


def answer(*rows: tuple[Any, ...], **changes: Any) -> str:
    listed = [
        {"start_s": start, "end_s": end, "text": text, "kind": "subtask", "success": 1, **changes}
        for start, end, text in rows
    ]
    return json.dumps({"segments": listed})


def spans(text: str) -> list[tuple[int, int, str]]:
    return [(s.start, s.end, s.text) for s in parse_answer(text, REQUEST)]


def test_an_answer_becomes_segments_of_a_model() -> None:
    first = parse_answer(answer((0, 2, "reach for the cup "), (2, 4.5, "grasp it"), (4.5, 6, "lift it")), REQUEST)[0]
    assert first == Segment(
        start=0, end=20, text="reach for the cup", arms=("arm0",), success=1, confidence=0.9, source="model"
    )


def test_times_near_a_proposals_boundary_snap_to_it() -> None:
    assert spans(answer((0.1, 2.3, "a"), (2.3, 6.2, "b"))) == [(0, 20, "a"), (20, 60, "b")]


def test_times_far_from_every_boundary_stay_where_the_model_saw_them() -> None:
    assert spans(answer((0, 3.24, "a"), (3.24, 6, "b"))) == [(0, 32, "a"), (32, 60, "b")]


def test_joined_segments_have_the_arms_of_all() -> None:
    assert parse_answer(answer((0, 6, "pick and lift")), REQUEST)[0].arms == ("arm0", "arm1")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Sure! Here is the JSON: {}", "expected JSON alone, found 'Sure! Here"),
        ("```json\n{}\n```", "expected JSON alone"),
        ("[]", 'expected {"segments": [...]} and nothing else'),
        ('{"segments": []}', "expected one segment or more, found none"),
        ('{"segments": [{"start_s": 0}]}', "segment: expected the fields end_s, kind, start_s, success, text"),
        (answer(("0", 6, "a")), "start_s, end_s: expected numbers, found ('0', 6)"),
        (answer((0, 6, "")), "text: expected 1 to 200 letters"),
        (answer((0, 6, "a"), kind="fun"), "kind: expected one of subtask, recovery, idle, found 'fun'"),
        (answer((0, 6, "a"), success=True), "success: expected -1, 0 or 1, found True"),
        (answer((0, 60, "a")), "segment 0-60 s: expected times in order, from 0.00 to 6.00 s"),
        (answer((4, 2, "a")), "segment 4-2 s: expected times in order"),
        (answer((0, 2, "a"), (3, 6, "b")), "expected no gaps, found one from 2.00 to 3.00 s"),
        (answer((0, 2, "a")), "expected no gaps, found one from 2.00 to 6.00 s"),
        (answer((0, 4.5, "a"), (3.2, 6, "b")), "segment at 3.20 s: the one before it ends at 4.50 s"),
        (answer((0, 3.2, "a"), (3.2, 3.4, "b"), (3.4, 6, "c")), "segment 3.20-3.40 s: expected 0.4 s or more"),
        (answer((float("nan"), 6, "a")), "expected times in order"),
    ],
)
def test_a_bad_answer_is_told_what_is_wrong(text: str, said: str) -> None:
    with pytest.raises(BadAnswer) as caught:
        parse_answer(text, REQUEST)
    assert said in str(caught.value)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> EpisodeStore:
    return EpisodeStore(make_dataset(tmp_path_factory.mktemp("label"), n_episodes=3, n_shards=1))


def proposals(store: EpisodeStore) -> list[tuple[str, tuple[Segment, ...]]]:
    return [(episode_id, store.episode(episode_id).segments) for episode_id in store.briefs]


def run(store: EpisodeStore, labeler: Labeler, cache: Path, **limits: Any) -> LabelOutcome:
    rates = LabelLimits(**{"wait_s": 0.001, **limits})
    return label_run(store, labeler, proposals(store), AnswerCache(cache), rates, "2024-05-01T00:00:00Z", "0.1.0")


def test_a_contact_sheet_has_a_row_per_camera_and_a_frame_per_column(store: EpisodeStore) -> None:
    sheet = decode_jpeg(contact_sheet(store, next(iter(store.briefs)), Segment(start=10, end=31, text="")))
    assert sheet.shape == (18 + 2 * 224, 4 * 224, 3)
    # The pictures' blue tells the step, their red the camera: steps 10, 17, 23, 30 of cameras 0 and 1.
    middles = sheet[[18 + 112, 18 + 336]][:, [112, 336, 560, 784]].astype(int)
    assert abs(middles[0, :, 2] - [10, 17, 23, 30]).max() <= 4
    assert abs(middles[:, 0, 0] - [0, 60]).max() <= 4


def test_questions_hold_eight_segments_at_most_and_tell_what_lies_around(store: EpisodeStore) -> None:
    many = tuple(Segment(start=4 * i, end=4 * i + 4, text=f"part {i}") for i in range(11))
    first, second = make_requests(store, next(iter(store.briefs)), many, with_pictures=False)
    assert (len(first.segments), first.before, first.after) == (8, "", "part 8")
    assert (len(second.segments), second.before, second.after) == (3, "part 7", "")
    assert "Segment 0: 3.20 s to 3.60 s, motion: part 8" in second.describe()


def test_rules_name_the_step_of_manipulation(store: EpisodeStore, tmp_path: Path) -> None:
    outcome = run(store, RulesLabeler(), tmp_path)
    texts = [a.segment.text for a in outcome.annotations]
    assert texts[0] == "grasp: move the left arm right, close the left gripper"
    assert {a.annotator for a in outcome.annotations} == {"rules"} and not outcome.dead_letters


def test_the_words_of_rules_are_a_motion_s_and_no_language(store: EpisodeStore, tmp_path: Path) -> None:
    segments = [a.segment for a in run(store, RulesLabeler(), tmp_path).annotations]
    assert {segment.source for segment in segments} == {"proposal"} and {s.label for s in segments} == {""}


ECHO = """
import json, sys
question = json.load(sys.stdin)
assert len(question["sheets"]) == len(question["segments"])
rows = [{k: s[k] for k in ("start_s", "end_s", "kind")} | {"text": "it is " + s["text"], "success": 1}
        for s in question["segments"]]
print(json.dumps({"segments": rows}))
"""


def test_a_subprocess_gets_json_and_answers_json(store: EpisodeStore, tmp_path: Path) -> None:
    outcome = run(store, SubprocessLabeler(command=(sys.executable, "-c", ECHO)), tmp_path)
    assert not outcome.dead_letters
    assert [a.segment.text for a in outcome.annotations] == [
        f"it is {segment.text}" for _, segments in proposals(store) for segment in segments
    ]


def test_a_program_may_be_one_line_in_quotes() -> None:
    arguments = argparse.Namespace(backend=None, url="", program=["python -m label 'a b'"], name="", model="")
    assert choose_labeler(arguments) == SubprocessLabeler(command=("python", "-m", "label", "a b"), name="command")


def test_a_program_that_is_not_there_ends_the_run(store: EpisodeStore, tmp_path: Path) -> None:
    with pytest.raises(FailedWork, match="nobody: expected a program that can be run"):
        run(store, SubprocessLabeler(command=("nobody",)), tmp_path)


def test_a_program_that_hangs_or_fails_is_a_dead_letter(store: EpisodeStore, tmp_path: Path) -> None:
    slow = SubprocessLabeler(command=(sys.executable, "-c", "import time; time.sleep(60)"), timeout_s=0.2)
    outcome = run(store, slow, tmp_path, attempts=1)
    assert {letter.reason for letter in outcome.dead_letters} == {"unavailable"} and not outcome.annotations
    failing = SubprocessLabeler(command=(sys.executable, "-c", "import sys; sys.exit('no weights')"))
    assert "found 1: no weights" in run(store, failing, tmp_path, attempts=1).dead_letters[0].detail


def good(question: dict[str, Any]) -> str:
    """What a fine model would answer: the proposal's times."""
    words = question["messages"][1]["content"][0]["text"]
    rows = [line.split(": ", 1)[1].split(" s", 2) for line in words.splitlines() if line.startswith("Segment ")]
    times = [(float(row[0]), float(row[1].removeprefix(" to "))) for row in rows]
    return answer(*((start, end, f"do part {i}") for i, (start, end) in enumerate(times)))


def labeler(endpoint: Endpoint, **changes: Any) -> HttpLabeler:
    return HttpLabeler(**{"url": endpoint.url, "model": "org/vlm-7b", "timeout_s": 60.0, **changes})


def test_a_fine_server_labels_every_episode(
    store: EpisodeStore, tmp_path: Path, endpoint: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LABEL_KEY", "k-123")
    fine = endpoint(lambda number, question: completion(good(question)))
    outcome = run(store, labeler(fine, key_variable="LABEL_KEY", usd_in=2.0, usd_out=10.0), tmp_path)
    assert (len(fine.questions), outcome.asked, outcome.dead_letters) == (4, 4, ())
    assert outcome.usage == Usage(tokens_in=4000, tokens_out=400, usd=pytest.approx(0.012))
    assert {a.annotator for a in outcome.annotations} == {"vlm-7b"}
    assert fine.headers[0]["Authorization"] == "Bearer k-123"
    question = fine.questions[0]
    assert question["response_format"]["json_schema"]["strict"] is True
    kinds = [part["type"] for part in question["messages"][1]["content"]]
    assert kinds.count("image_url") == kinds.count("text") - 1 > 0


def test_a_busy_broken_or_babbling_server_is_asked_again(store: EpisodeStore, tmp_path: Path, endpoint: Any) -> None:
    troubles: list[Reply] = [
        (429, b"slow down", {"Retry-After": "0"}),
        (500, b"oops", {}),
        (503, b"", {}),
        (200, b"<html>", {}),
        (200, b'{"choices": []}', {}),
        (200, b"cut off", {"Content-Length": "900"}),
    ]
    flaky = endpoint(lambda number, question: troubles.pop() if troubles else completion(good(question)))
    outcome = run(store, labeler(flaky, timeout_s=1.0), tmp_path, workers=1, attempts=8)
    assert outcome.dead_letters == () and len(flaky.questions) == 10
    assert len({a.episode_id for a in outcome.annotations}) == 3


def test_the_wait_that_a_server_asks_for_is_kept(store: EpisodeStore, tmp_path: Path, endpoint: Any) -> None:
    busy = endpoint(
        lambda number, question: (429, b"", {"Retry-After": "7"}) if number == 1 else completion(good(question))
    )
    waits: list[float] = []
    entry = proposals(store)[:1]
    limits = LabelLimits(workers=1, wait_s=0.5, longest_wait_s=30)
    label_run(store, labeler(busy), entry, AnswerCache(tmp_path), limits, "", "", sleep=waits.append)
    assert [wait for wait in waits if wait > 0] == [7.0]


def test_a_bad_answer_is_sent_back_with_what_is_wrong(store: EpisodeStore, tmp_path: Path, endpoint: Any) -> None:
    bad = endpoint(lambda number, question: completion("I see a robot." if number == 1 else good(question)))
    outcome = run(store, labeler(bad), tmp_path, workers=1)
    assert outcome.dead_letters == ()
    repeated = bad.questions[1]["messages"][1]["content"][-1]["text"]
    assert repeated.startswith("Your last answer could not be used: expected JSON alone, found 'I see a robot.'")


def test_times_that_stay_wrong_are_a_dead_letter_and_the_rest_goes_on(
    store: EpisodeStore, tmp_path: Path, endpoint: Any
) -> None:
    victim = list(store.briefs)[1]
    n_of_victim = len(store.episode(victim).segments)
    assert [len(segments) for _, segments in proposals(store)].count(n_of_victim) == 1

    def behave(number: int, question: dict[str, Any]) -> Reply:
        words = question["messages"][1]["content"][0]["text"]
        is_victim = words.count("Segment ") == n_of_victim
        return completion(answer((0, 900, "all")) if is_victim else good(question))

    wrong = endpoint(behave)
    outcome = run(store, labeler(wrong), tmp_path, answers=2)
    (letter,) = outcome.dead_letters
    assert (letter.episode_id, letter.reason) == (victim, "bad answer")
    assert "expected times in order" in letter.detail
    assert {a.episode_id for a in outcome.annotations} == set(store.briefs) - {victim}


def test_a_slow_server_is_given_up_on_in_time(store: EpisodeStore, tmp_path: Path, endpoint: Any) -> None:
    given_up = threading.Event()

    def behave(number: int, question: dict[str, Any]) -> Reply:
        given_up.wait(60)
        return completion(good(question))

    outcome = run(store, labeler(endpoint(behave), timeout_s=0.2), tmp_path, attempts=1)
    given_up.set()
    assert {letter.reason for letter in outcome.dead_letters} == {"unavailable"}


def test_a_wrong_key_ends_the_run_at_once(store: EpisodeStore, tmp_path: Path, endpoint: Any) -> None:
    closed = endpoint(lambda number, question: (401, b"who are you", {}))
    with pytest.raises(FailedWork, match="HTTP 401: who are you. Look at --url, the model and the key"):
        run(store, labeler(closed), tmp_path, workers=1)
    assert len(closed.questions) == 1


def test_a_rejected_question_is_a_dead_letter(store: EpisodeStore, tmp_path: Path, endpoint: Any) -> None:
    strict = endpoint(lambda number, question: (400, b"too many pictures", {}))
    outcome = run(store, labeler(strict), tmp_path, workers=1)
    assert {letter.reason for letter in outcome.dead_letters} == {"rejected"} and len(strict.questions) == 4


def test_nothing_that_is_known_is_asked_again(store: EpisodeStore, tmp_path: Path, endpoint: Any) -> None:
    fine = endpoint(lambda number, question: completion(good(question)))
    first = run(store, labeler(fine), tmp_path)
    again = run(store, labeler(fine), tmp_path)
    assert len(fine.questions) == 4 and again.asked == 0
    assert again.annotations == first.annotations
    run(store, labeler(fine, model="org/another"), tmp_path)
    assert len(fine.questions) == 8


def test_a_run_that_was_cut_off_goes_on_where_it_was(store: EpisodeStore, tmp_path: Path, endpoint: Any) -> None:
    dying = endpoint(lambda number, question: completion(good(question)) if number < 3 else (403, b"", {}))
    with pytest.raises(FailedWork):
        run(store, labeler(dying), tmp_path, workers=1)
    fine = endpoint(lambda number, question: completion(good(question)))
    outcome = run(store, labeler(fine), tmp_path, workers=1)
    assert len(fine.questions) == 2 and len({a.episode_id for a in outcome.annotations}) == 3


def test_the_budget_is_never_exceeded(store: EpisodeStore, tmp_path: Path, endpoint: Any) -> None:
    fine = endpoint(lambda number, question: completion(good(question)))
    paid = labeler(fine, usd_in=1000.0)  # A dollar for 1000 tokens, which is what every answer takes.
    price = estimate_run(store, paid, proposals(store), AnswerCache(tmp_path)).usage.usd
    assert price > 3
    outcome = run(store, paid, tmp_path, workers=1, usd=price / 4 + 1.5)
    assert outcome.stopped and 0 < len(fine.questions) < 4
    assert outcome.usage.usd == pytest.approx(len(fine.questions)) and outcome.usage.usd <= price / 4 + 1.5


def test_the_estimate_counts_questions_tokens_and_what_is_known(
    store: EpisodeStore, tmp_path: Path, endpoint: Any
) -> None:
    fine = endpoint(lambda number, question: completion(good(question)))
    before = estimate_run(store, labeler(fine, usd_in=1.0), proposals(store), AnswerCache(tmp_path))
    assert (before.episodes, before.questions, before.cached) == (3, 4, 0)
    assert before.usage.usd == pytest.approx(before.usage.tokens_in / 1e6)
    assert not fine.questions
    run(store, labeler(fine), tmp_path)
    after = estimate_run(store, labeler(fine), proposals(store), AnswerCache(tmp_path))
    assert (after.cached, after.usage) == (4, Usage())


def test_the_rate_is_kept(store: EpisodeStore, tmp_path: Path) -> None:
    waits: list[float] = []
    rates = LabelLimits(workers=1, per_minute=30)
    label_run(
        store,
        RulesLabeler(),
        proposals(store),
        AnswerCache(tmp_path),
        rates,
        "",
        "",
        clock=lambda: 0.0,
        sleep=waits.append,
    )
    assert waits == [0.0, 2.0, 4.0, 6.0]


def test_the_second_question_tells_the_label_before_it(store: EpisodeStore, tmp_path: Path) -> None:
    asked: list[LabelRequest] = []

    class Listening(RulesLabeler):
        def answer(self, request: LabelRequest, complaint: str) -> LabelerAnswer:
            asked.append(request)
            return super().answer(request, complaint)

    long = [(episode_id, segments) for episode_id, segments in proposals(store) if len(segments) > 8]
    label_run(store, Listening(), long, AnswerCache(tmp_path), LabelLimits(workers=1), "", "")
    assert asked[1].before.startswith(("grasp: ", "release: ", "move", "hold"))
    assert asked[1].before == json.loads(RulesLabeler().answer(asked[0], "").text)["segments"][-1]["text"]


@pytest.mark.parametrize("url", ["ftp://x", "localhost:8000", "file:///etc/passwd"])
def test_only_http_is_asked(url: str) -> None:
    with pytest.raises(UsageError, match="--url: expected http:// or https://"):
        HttpLabeler(url=url, model="m")


def test_equal_questions_have_equal_keys_and_others_not() -> None:
    keys = {
        REQUEST.key("m"),
        REQUEST.key("m2"),
        replace(REQUEST, task="iron").key("m"),
        replace(REQUEST, sheets=(b"a",)).key("m"),
        replace(REQUEST, sheets=(b"b",)).key("m"),
        replace(REQUEST, before="x").key("m"),
    }
    assert len(keys) == 6 and replace(REQUEST).key("m") in keys


def test_a_beam_job_labels_like_a_local_run(store: EpisodeStore, tmp_path: Path, endpoint: Any) -> None:
    from annotation_tools.labels.beam import label_with_beam
    from pipelines.jobs.beam_options import make_beam_options

    victim = list(store.briefs)[0]
    n_of_victim = len(store.episode(victim).segments)

    def behave(number: int, question: dict[str, Any]) -> Reply:
        words = question["messages"][1]["content"][0]["text"]
        return (400, b"no", {}) if words.count("Segment ") == n_of_victim else completion(good(question))

    beamed = label_with_beam(
        store.dataset.path,
        labeler(endpoint(behave)),
        proposals(store),
        tmp_path / "beam",
        LabelLimits(),
        make_beam_options([]),
        "2024-05-01T00:00:00Z",
        "0.1.0",
    )
    local = run(store, labeler(endpoint(behave)), tmp_path / "local")
    assert beamed.annotations == local.annotations and len(beamed.annotations) > 5
    assert [(letter.episode_id, letter.reason) for letter in beamed.dead_letters] == [(victim, "rejected")]
    assert isinstance(beamed.dead_letters[0], DeadLetter)


def test_a_key_follows_no_redirect(
    store: EpisodeStore, tmp_path: Path, endpoint: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LABEL_KEY", "k-123")
    elsewhere = endpoint(lambda number, question: completion(good(question)))
    here = endpoint(lambda number, question: (307, b"", {"Location": f"{elsewhere.url}/chat/completions"}))
    with pytest.raises(FailedWork, match="expected an answer, found a redirect to .*, which is not followed"):
        run(store, labeler(here, key_variable="LABEL_KEY"), tmp_path)
    assert elsewhere.headers == []


@pytest.mark.parametrize(
    "url", ["http://example.com/v1", "http://10.0.0.7:8000/v1", "http://localhost.evil.example/v1"]
)
def test_a_key_goes_to_no_other_machine_in_the_clear(url: str) -> None:
    with pytest.raises(UsageError, match="expected https:// where a key is sent to another machine"):
        HttpLabeler(url=url, model="m", key_variable="LABEL_KEY")
    assert HttpLabeler(url=url, model="m", key_variable="LABEL_KEY", is_plain_allowed=True).url == url
    assert HttpLabeler(url=url, model="m").url == url


@pytest.mark.parametrize("url", ["http://localhost:8000/v1", "http://127.0.0.1/v1", "http://[::1]:8000/v1"])
def test_a_key_may_go_to_this_machine_in_the_clear(url: str) -> None:
    assert HttpLabeler(url=url, model="m", key_variable="LABEL_KEY").url == url


def test_a_url_with_a_password_is_refused_without_repeating_it() -> None:
    with pytest.raises(UsageError, match="expected no name or password") as refused:
        HttpLabeler(url="https://me:hunter2@example.com/v1", model="m")
    assert "hunter2" not in str(refused.value)


def test_a_key_that_is_not_there_is_named_before_anything_is_sent(
    store: EpisodeStore, tmp_path: Path, endpoint: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LABEL_KEY", raising=False)
    asked = endpoint(lambda number, question: completion(good(question)))
    with pytest.raises(FailedWork, match="expected a key in LABEL_KEY, found no such environment variable"):
        run(store, labeler(asked, key_variable="LABEL_KEY"), tmp_path)
    assert asked.questions == []
