"""Labelling many episodes: cached answers, limits on rate and cost, retries, and failed questions."""

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace

from annotation_tools.episodes import EpisodeStore
from annotation_tools.labels.answer import BadAnswer, parse_answer
from annotation_tools.labels.labelers import Labeler, QuestionRefused, Unavailable, Usage, total
from annotation_tools.labels.request import LabelRequest, make_requests
from pipelines.contract.episode import Segment
from pipelines.contract.errors import FailedWork
from pipelines.segments.tables import Annotation
from pipelines.storage.files import write_atomically
from pipelines.storage.paths import StoragePath


@dataclass(frozen=True, kw_only=True)
class LabelLimits:
    """per_minute: questions sent, 0 for no limit. usd: stop before more than this is spent, None for no limit.

    attempts: how often an unavailable labeler is asked; answers: how many bad answers a question may get. wait_s: the
    first pause before asking again, doubled every time, never more than `longest_wait_s`.
    """

    workers: int = 4
    per_minute: float = 0.0
    usd: float | None = None
    attempts: int = 5
    answers: int = 3
    wait_s: float = 1.0
    longest_wait_s: float = 60.0


@dataclass(frozen=True, kw_only=True)
class DeadLetter:
    """A question without a usable answer; its episode is in no table. reason: unavailable, rejected, bad answer."""

    episode_id: str
    start: int
    end: int
    reason: str
    detail: str


@dataclass(frozen=True, kw_only=True)
class CostEstimate:
    """What a run will take. cached: questions whose answers are known."""

    episodes: int
    questions: int
    cached: int
    usage: Usage


@dataclass(frozen=True, kw_only=True)
class LabelOutcome:
    """The result of a run. asked: answers that were paid for. stopped: the budget ended before the episodes did."""

    annotations: tuple[Annotation, ...]
    dead_letters: tuple[DeadLetter, ...]
    asked: int
    usage: Usage
    stopped: bool = False


class AnswerCache:
    """Usable answers by the content of question and labeler, one small file each."""

    def __init__(self, directory: StoragePath) -> None:
        self.directory = directory

    def get(self, key: str) -> str | None:
        path = self._path(key)
        return json.loads(path.read_text())["answer"] if path.exists() else None

    def put(self, key: str, answer: str) -> None:
        write_atomically(self._path(key), json.dumps({"answer": answer}).encode())

    def _path(self, key: str) -> StoragePath:
        return self.directory / key[:2] / f"{key}.json"


class _Budget:
    """Admits questions at a steady rate, and none once the budget is spent."""

    def __init__(self, limits: LabelLimits, clock: Callable[[], float], sleep: Callable[[float], None]) -> None:
        self.limits, self.clock, self.sleep = limits, clock, sleep
        self.lock = threading.Lock()
        self.spent, self.asked, self.next_s = Usage(), 0, clock()
        self.is_spent = False

    def admit(self, expected: Usage) -> bool:
        """Waits for a turn; False where the question could exceed the budget."""
        with self.lock:
            limit = self.limits.usd
            if self.is_spent or (limit is not None and self.spent.usd + expected.usd > limit):
                self.is_spent = True
                return False
            # Reserved before asking: several questions in flight could each fit the budget and together exceed it.
            self.spent += expected
            self.asked += 1
            turn = max(self.next_s, self.clock())
            self.next_s = turn + (60.0 / self.limits.per_minute if self.limits.per_minute else 0.0)
        self.sleep(max(0.0, turn - self.clock()))
        return True

    def stop(self) -> None:
        """Lets no further question through."""
        with self.lock:
            self.is_spent = True

    def settle(self, expected: Usage, actual: Usage) -> None:
        """Replaces the expected usage of a question by its actual one."""
        with self.lock:
            owed = Usage(tokens_in=-expected.tokens_in, tokens_out=-expected.tokens_out, usd=-expected.usd)
            self.spent = self.spent + owed + actual


class _OutOfBudget(FailedWork):
    pass


def estimate_run(
    store: EpisodeStore, labeler: Labeler, proposals: Sequence[tuple[str, Sequence[Segment]]], cache: AnswerCache
) -> CostEstimate:
    """Counts the questions of a run, and the usage of those without a cached answer."""
    usages, questions = [], 0
    for episode_id, segments in proposals:
        found: list[Segment] = []
        for question in make_requests(store, episode_id, segments, with_pictures=labeler.wants_pictures):
            request = _remembering(question, found)
            questions += 1
            known = cache.get(request.key(labeler.fingerprint))
            if known is None:
                usages.append(labeler.estimate(request))
            else:
                found += parse_answer(known, request)
    return CostEstimate(
        episodes=len(proposals), questions=questions, cached=questions - len(usages), usage=total(usages)
    )


def label_run(
    store: EpisodeStore,
    labeler: Labeler,
    proposals: Sequence[tuple[str, Sequence[Segment]]],
    cache: AnswerCache,
    limits: LabelLimits,
    created: str,
    tool_version: str,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
    on_done: Callable[[str], object] = lambda _: None,
) -> LabelOutcome:
    """Labels episodes, several at a time; a rerun asks only questions without a usable answer.

    Raises FailedWork where the labeler can answer nothing at all (a wrong key, for example).
    """
    budget = _Budget(limits, clock, sleep)
    annotations: dict[str, list[Annotation]] = {}
    letters: list[DeadLetter] = []

    def work(entry: tuple[str, Sequence[Segment]]) -> None:
        episode_id, segments = entry
        try:
            found, dead = label_episode(store, labeler, episode_id, segments, cache, limits, budget)
        except FailedWork:
            budget.stop()
            raise
        identity = store.key(episode_id).episode_hash
        annotations[episode_id] = [
            Annotation(
                episode_id=episode_id,
                episode_hash=identity,
                segment=replace(segment, source=labeler.source),
                annotator=labeler.name,
                created=created,
                tool_version=tool_version,
            )
            for segment in found
        ]
        letters.extend(dead)
        on_done(episode_id)

    with ThreadPoolExecutor(limits.workers) as pool:
        futures = [pool.submit(work, entry) for entry in proposals]
        try:
            errors = [future.exception() for future in futures]
        except BaseException:  # An interrupt: questions in flight may end, no new one is asked.
            budget.stop()
            raise
    for error in errors:
        if error is not None and not isinstance(error, _OutOfBudget):
            raise error
    ordered = [a for episode_id, _ in proposals for a in annotations.get(episode_id, [])]
    return LabelOutcome(
        annotations=tuple(ordered),
        dead_letters=tuple(sorted(letters, key=lambda d: (d.episode_id, d.start))),
        asked=budget.asked,
        usage=budget.spent,
        stopped=budget.is_spent,
    )


def label_episode(
    store: EpisodeStore,
    labeler: Labeler,
    episode_id: str,
    segments: Sequence[Segment],
    cache: AnswerCache,
    limits: LabelLimits,
    budget: _Budget | None = None,
) -> tuple[list[Segment], list[DeadLetter]]:
    """Labels one episode: all of its segments, or none and the questions that failed."""
    budget = budget or _Budget(limits, time.monotonic, time.sleep)
    found: list[Segment] = []
    dead: list[DeadLetter] = []
    for question in make_requests(store, episode_id, segments, with_pictures=labeler.wants_pictures):
        request = _remembering(question, found)
        key = request.key(labeler.fingerprint)
        known = cache.get(key)
        try:
            if known is None:
                known = _ask(labeler, request, limits, budget)
                # At once and not at the end of the run: an answer is paid for once, whatever is killed later.
                cache.put(key, known)
            found += parse_answer(known, request)
        except (Unavailable, QuestionRefused, BadAnswer) as error:
            reason = {Unavailable: "unavailable", QuestionRefused: "rejected"}.get(type(error), "bad answer")
            letter = DeadLetter(
                episode_id=episode_id, start=request.start, end=request.end, reason=reason, detail=str(error)
            )
            dead.append(letter)
    # All or none: an episode with some labels would look like one whose other segments have no language.
    return ([] if dead else found), dead


def write_dead_letters(path: StoragePath, letters: Sequence[DeadLetter]) -> None:
    """Writes failed questions as JSON lines; without any, an older file is removed."""
    if letters:
        write_atomically(path, "".join(json.dumps(asdict(letter)) + "\n" for letter in letters).encode())
    else:
        path.unlink(missing_ok=True)


def _remembering(request: LabelRequest, found: Sequence[Segment]) -> LabelRequest:
    """The request with the label just before it, where that is known, instead of the proposal's text."""
    return replace(request, before=found[-1].text) if found else request


def _ask(labeler: Labeler, request: LabelRequest, limits: LabelLimits, budget: _Budget) -> str:
    """Asks until an answer can be used; returns its text. Raises the last failure."""
    complaint, pauses = "", _pauses(limits)
    bad = 0
    while True:
        expected = labeler.estimate(request)
        if not budget.admit(expected):
            raise _OutOfBudget("the budget is spent")
        try:
            answer = labeler.answer(request, complaint)
        except FailedWork as error:
            budget.settle(expected, Usage())
            if not isinstance(error, Unavailable):
                raise
            pause = next(pauses, None)
            if pause is None:
                raise
            # At least as long as the endpoint's Retry-After states, else it refuses again.
            budget.sleep(min(limits.longest_wait_s, max(pause, error.retry_after_s)))
            continue
        budget.settle(expected, answer.usage)
        try:
            parse_answer(answer.text, request)
        except BadAnswer as error:
            bad += 1
            if bad >= limits.answers:
                raise
            complaint = str(error)
            continue
        return answer.text


def _pauses(limits: LabelLimits) -> Iterator[float]:
    for attempt in range(limits.attempts - 1):
        yield min(limits.longest_wait_s, limits.wait_s * 2**attempt)
