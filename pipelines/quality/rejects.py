"""What a conversion left out, read back from rejects.parquet: by reason, filtered, with what to do about each."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from typing import Any

import pyarrow.parquet as pq

from pipelines.contract.errors import FailedWork, UsageError, nearest
from pipelines.contract.native import Reject
from pipelines.contract.reject_reasons import REJECT_REASONS, explain
from pipelines.contract.words import counted
from pipelines.storage.paths import StoragePath

REJECTS_FILE = "rejects.parquet"
MOST_SHOWN = 3
_DETAIL_WIDTH = 160


@dataclass(frozen=True, kw_only=True)
class RejectFilter:
    """Which rows are asked for; an empty value asks for all. key: a pattern such as `*/kitchen/*` of the source key."""

    reasons: tuple[str, ...] = ()
    split: str = ""
    key: str = ""

    def __post_init__(self) -> None:
        for reason in self.reasons:
            if reason not in REJECT_REASONS:
                raise UsageError(f"--reason {reason}: expected a reject reason. {nearest(reason, REJECT_REASONS)}")

    def takes(self, reject: Reject) -> bool:
        """Whether a row is asked for."""
        return (
            (not self.reasons or reject.reason in self.reasons)
            and (not self.split or reject.split == self.split)
            and (not self.key or fnmatchcase(reject.source_key, self.key))
        )


@dataclass(frozen=True, kw_only=True)
class RejectGroup:
    """The rows of one reason. episodes: left out whole. steps: left out of episodes that were kept."""

    reason: str
    meaning: str
    advice: str
    episodes: int
    steps: int
    rejects: tuple[Reject, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def read_rejects(path: StoragePath) -> list[Reject]:
    """The rows of a dataset's rejects.parquet, or of a conversion's that kept nothing.

    Raises UsageError where there is none, FailedWork where it cannot be read.
    """
    file = path / REJECTS_FILE
    if not file.exists():
        raise UsageError(
            f"{path}: expected a converted dataset, <root>/<name>/<version>, with {REJECTS_FILE}; found none. "
            "Datasets that other programs wrote keep no list of what they left out."
        )
    try:
        with file.open("rb") as opened:
            rows = pq.read_table(opened).to_pylist()
        return [Reject(**row) for row in rows]
    except (OSError, ValueError, TypeError) as error:  # Arrow's own errors are ValueErrors
        raise FailedWork(f"{file}: expected the table of a conversion's rejects, found {error}") from error


def group_rejects(rejects: Sequence[Reject]) -> tuple[RejectGroup, ...]:
    """The rows by reason: the one that lost the most episodes first, then the most steps."""
    by_reason: dict[str, list[Reject]] = defaultdict(list)
    for reject in rejects:
        by_reason[reject.reason].append(reject)
    groups = [_group(reason, rows) for reason, rows in by_reason.items()]
    return tuple(sorted(groups, key=lambda group: (-group.episodes, -group.steps, group.reason)))


def _group(reason: str, rejects: Sequence[Reject]) -> RejectGroup:
    text = explain(reason)
    return RejectGroup(
        reason=reason,
        meaning=text.meaning,
        advice=text.advice,
        episodes=sum(reject.level == "episode" for reject in rejects),
        steps=sum(reject.end - reject.start for reject in rejects if reject.level == "steps"),
        rejects=tuple(rejects),
    )


def render_rejects(where: str, groups: Sequence[RejectGroup], *, shown: int | None = MOST_SHOWN) -> str:
    """The groups as text for a terminal. shown: rows of each reason, None for all."""
    if not groups:
        return f"{where}: nothing was left out"
    episodes, steps = (sum(getattr(group, name) for group in groups) for name in ("episodes", "steps"))
    lines = [f"{where}: {_counted(episodes, steps)} left out"]
    for group in groups:
        lines += ["", f"{group.reason}: {_counted(group.episodes, group.steps)} ({group.meaning})"]
        listed = group.rejects if shown is None else group.rejects[:shown]
        # A detail is a sentence of the reader; as a rule the first lines say it, and --json has it whole.
        lines += [f"    {_named(reject)}: {_shortened(reject.detail, shown)}" for reject in listed]
        if len(listed) < len(group.rejects):
            lines.append(f"    and {len(group.rejects) - len(listed)} more (--all lists them)")
        lines.append(f"  To do: {group.advice}")
    return "\n".join(lines)


def _counted(episodes: int, steps: int) -> str:
    """A number of episodes and steps in words.

    >>> _counted(1, 0), _counted(0, 12), _counted(2, 1)
    ('1 episode', '12 steps', '2 episodes, 1 step')
    """
    counts = ((episodes, "episode"), (steps, "step"))
    return ", ".join(counted(n, word) for n, word in counts if n) or "0 episodes"


def _named(reject: Reject) -> str:
    key = reject.source_key or reject.source_uri
    return key if reject.level == "episode" else f"{key} steps {reject.start} to {reject.end - 1}"


def _shortened(detail: str, shown: int | None) -> str:
    return detail if shown is None or len(detail) <= _DETAIL_WIDTH else detail[: _DETAIL_WIDTH - 3] + "..."
