"""LeRobot's language columns: the subtask of each moment, as `lerobot.datasets.language` of LeRobot 0.6 has them.

A segment is a row of style `subtask` that holds from its time until the next one; a gap is a row without content. Every
step repeats the rows of its whole episode.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

PERSISTENT, EVENTS = "language_persistent", "language_events"
FEATURE = {"dtype": "language", "shape": [1], "names": None}
_FIELDS = [
    pa.field("role", pa.string(), nullable=False),
    pa.field("content", pa.string()),
    pa.field("style", pa.string()),
    pa.field("camera", pa.string()),
    pa.field("tool_calls", pa.list_(pa.string())),
]
EVENTS_TYPE = pa.list_(pa.struct(_FIELDS))
PERSISTENT_TYPE = pa.list_(pa.struct([*_FIELDS[:3], pa.field("timestamp", pa.float32(), nullable=False), *_FIELDS[3:]]))


class Spoken(Protocol):
    """A stretch of steps [start, end) and its text."""

    @property
    def start(self) -> int: ...
    @property
    def end(self) -> int: ...
    @property
    def text(self) -> str: ...


def subtask_rows(segments: Iterable[Spoken], times_s: NDArray[np.float64]) -> list[dict[str, Any]]:
    """The persistent rows of an episode. times_s: the time of every step, float64 [t]."""
    starts: list[tuple[int, str | None]] = []
    reached = 0
    for segment in segments:
        if segment.start > reached:
            starts.append((reached, None))
        starts.append((segment.start, segment.text))
        reached = segment.end
    if reached < len(times_s):
        starts.append((reached, None))
    return [
        {
            "role": "assistant",
            "content": text,
            "style": "subtask",
            "timestamp": float(times_s[step]),
            "camera": None,
            "tool_calls": None,
        }
        for step, text in starts
    ]


def language_arrays(persistent: Sequence[Any]) -> dict[str, pa.Array]:
    """Both columns of a table. persistent: the rows of each step's episode, or None."""
    return {
        PERSISTENT: pa.array(persistent, PERSISTENT_TYPE),
        EVENTS: pa.array([[]] * len(persistent), EVENTS_TYPE),
    }
