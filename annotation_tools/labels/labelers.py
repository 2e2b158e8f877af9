"""Labelers: what every backend offers, and those that need no network: rules and a subprocess."""

import base64
import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from annotation_tools.labels.request import LabelRequest
from pipelines.contract.episode import SegmentSource
from pipelines.contract.errors import FailedWork


@dataclass(frozen=True, kw_only=True)
class Usage:
    """Tokens of one or more questions and what they cost in USD."""

    tokens_in: int = 0
    tokens_out: int = 0
    usd: float = 0.0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            tokens_in=self.tokens_in + other.tokens_in,
            tokens_out=self.tokens_out + other.tokens_out,
            usd=self.usd + other.usd,
        )


@dataclass(frozen=True, kw_only=True)
class LabelerAnswer:
    """The text of an answer, which should be JSON, and what it took."""

    text: str
    usage: Usage = Usage()


class Unavailable(FailedWork):
    """The labeler could not answer now; the same question may work later. retry_after_s: as it asked, 0 unknown."""

    def __init__(self, message: str, retry_after_s: float = 0.0) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(message)


class QuestionRefused(FailedWork):
    """The labeler will not answer this question, however often it is asked."""


class Labeler(Protocol):
    """A source of labels.

    name: the annotator in tables. fingerprint: everything that its answers depend on beside the question. source: what
    its segments are in tables; `proposal` where the texts only describe the motion and are no language.
    """

    @property
    def name(self) -> str: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def wants_pictures(self) -> bool: ...
    @property
    def source(self) -> SegmentSource: ...

    def answer(self, request: LabelRequest, complaint: str) -> LabelerAnswer:
        """Answers a question; `complaint` says what was wrong with the last answer to it, "" at first.

        Raises Unavailable, Rejected, or FailedWork where no question can be answered at all.
        """

    def estimate(self, request: LabelRequest) -> Usage:
        """What the question will take, roughly."""


@dataclass(frozen=True, kw_only=True)
class RulesLabeler:
    """Names the step of manipulation that a segment's gripper events show: grasp, release or regrasp; without cost."""

    name: str = "rules"
    fingerprint: str = "rules/1"
    wants_pictures: bool = False
    source: SegmentSource = "proposal"

    def answer(self, request: LabelRequest, complaint: str) -> LabelerAnswer:
        hz = request.control_hz
        rows = []
        for segment in request.segments:
            rows.append(
                {
                    "start_s": segment.start / hz,
                    "end_s": segment.end / hz,
                    "kind": segment.kind,
                    "success": -1,
                    "text": _rule_text(segment.text),
                }
            )
        return LabelerAnswer(text=json.dumps({"segments": rows}))

    def estimate(self, request: LabelRequest) -> Usage:
        return Usage()


@dataclass(frozen=True, kw_only=True)
class SubprocessLabeler:
    """Asks a program: the question as one JSON object on its input (pictures in base64), the answer on its output."""

    command: tuple[str, ...]
    name: str = "subprocess"
    timeout_s: float = 120.0
    wants_pictures: bool = True
    source: SegmentSource = "model"

    @property
    def fingerprint(self) -> str:
        return json.dumps(self.command)

    def answer(self, request: LabelRequest, complaint: str) -> LabelerAnswer:
        sheets = [base64.b64encode(sheet).decode() for sheet in request.sheets]
        question = json.dumps({**request.to_json(), "sheets": sheets, "complaint": complaint})
        try:
            done = subprocess.run(
                self.command, input=question.encode(), capture_output=True, timeout=self.timeout_s, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise Unavailable(f"{self.command[0]}: expected an answer within {self.timeout_s} s, found none") from error
        except OSError as error:
            raise FailedWork(f"{self.command[0]}: expected a program that can be run, found {error}") from error
        if done.returncode:
            shown = done.stderr.decode(errors="replace").strip()[-300:]
            raise Unavailable(f"{self.command[0]}: expected exit code 0, found {done.returncode}: {shown}")
        return LabelerAnswer(text=done.stdout.decode(errors="replace").strip())

    def estimate(self, request: LabelRequest) -> Usage:
        return Usage()


def total(usages: Sequence[Usage]) -> Usage:
    """The sum of usages."""
    return sum(usages, Usage())


def _rule_text(phrase: str) -> str:
    """Puts the step of manipulation before the motion phrase, for example "grasp: move the arm down, ..."."""
    closes, opens = phrase.count("close "), phrase.count("open ")
    step = "regrasp" if closes and opens else "grasp" if closes else "release" if opens else ""
    return f"{step}: {phrase}" if step else phrase
