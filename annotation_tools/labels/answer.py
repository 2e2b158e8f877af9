"""A labeler's answer: strict JSON, checked, with its times snapped to the proposals' boundaries."""

import json
from collections.abc import Sequence
from typing import Any

from annotation_tools.labels.request import LabelRequest
from pipelines.contract.episode import Segment
from pipelines.segments.tables import KINDS

SNAP_S = 0.5
SHORTEST_S = 0.4
_LONGEST_TEXT = 200
_FIELDS = {"start_s", "end_s", "text", "kind", "success"}


class BadAnswer(ValueError):
    """An answer that cannot be used, and why, in words that can be sent back to the labeler."""


def parse_answer(text: str, request: LabelRequest) -> tuple[Segment, ...]:
    """Reads an answer as segments that cover the request's steps without gaps.

    A time within `SNAP_S` of a proposal's boundary moves onto it, others to the nearest step. Raises BadAnswer for
    anything but a JSON object with exactly the fields asked for, times outside the request, overlaps, gaps of more
    than `SNAP_S`, and segments under `SHORTEST_S`.
    """
    rows = _rows(text)
    edges = [request.segments[0].start, *(segment.end for segment in request.segments)]
    hz = request.control_hz
    for row in rows:
        if not request.start / hz - SNAP_S <= row["start_s"] < row["end_s"] <= request.end / hz + SNAP_S:
            raise BadAnswer(
                f"segment {row['start_s']}-{row['end_s']} s: expected times in order, from {request.start / hz:.2f} to "
                f"{request.end / hz:.2f} s"
            )
    rows = sorted(rows, key=lambda row: row["start_s"])
    starts = [_snap(row["start_s"], edges, hz) for row in rows]
    ends = [_snap(row["end_s"], edges, hz) for row in rows]
    _check_cover(starts, ends, request)
    bounds = [request.start, *starts[1:], request.end]
    segments = []
    for row, start, end in zip(rows, bounds[:-1], bounds[1:], strict=True):
        if end - start < min(SHORTEST_S * hz, request.end - request.start):
            raise BadAnswer(f"segment {start / hz:.2f}-{end / hz:.2f} s: expected {SHORTEST_S} s or more")
        arms = {arm for s in request.segments if s.start < end and start < s.end for arm in s.arms}
        segments.append(
            Segment(
                start=start,
                end=end,
                text=row["text"].strip(),
                kind=row["kind"],
                arms=tuple(sorted(arms)),
                success=row["success"],
                confidence=_confidence(start, end, edges),
                source="model",
            )
        )
    return tuple(segments)


def _rows(text: str) -> list[dict[str, Any]]:
    try:
        answer = json.loads(text)
    except ValueError as error:
        raise BadAnswer(f"expected JSON alone, found {text[:80]!r}: {error}") from error
    if not isinstance(answer, dict) or answer.keys() != {"segments"} or not isinstance(answer["segments"], list):
        raise BadAnswer('expected {"segments": [...]} and nothing else')
    if not answer["segments"]:
        raise BadAnswer("expected one segment or more, found none")
    for row in answer["segments"]:
        if not isinstance(row, dict) or row.keys() != _FIELDS:
            raise BadAnswer(f"segment: expected the fields {', '.join(sorted(_FIELDS))}, found {json.dumps(row)[:120]}")
        times = (row["start_s"], row["end_s"])
        if not all(isinstance(time, int | float) and not isinstance(time, bool) for time in times):
            raise BadAnswer(f"start_s, end_s: expected numbers, found {times}")
        if not isinstance(row["text"], str) or not 0 < len(row["text"].strip()) <= _LONGEST_TEXT:
            raise BadAnswer(f"text: expected 1 to {_LONGEST_TEXT} letters, found {row['text']!r:.80}")
        if row["kind"] not in KINDS:
            raise BadAnswer(f"kind: expected one of {', '.join(KINDS)}, found {row['kind']!r}")
        if row["success"] not in (-1, 0, 1) or isinstance(row["success"], bool):
            raise BadAnswer(f"success: expected -1, 0 or 1, found {row['success']!r}")
    return answer["segments"]


def _snap(time_s: float, edges: Sequence[int], control_hz: float) -> int:
    nearest = min(edges, key=lambda edge: abs(edge / control_hz - time_s))
    return nearest if abs(nearest / control_hz - time_s) <= SNAP_S + 1e-9 else round(time_s * control_hz)


def _check_cover(starts: Sequence[int], ends: Sequence[int], request: LabelRequest) -> None:
    hz, reached = request.control_hz, request.start
    for start, end in zip(starts, ends, strict=True):
        if start < reached:
            raise BadAnswer(f"segment at {start / hz:.2f} s: the one before it ends at {reached / hz:.2f} s")
        if start - reached > SNAP_S * hz:
            raise BadAnswer(f"expected no gaps, found one from {reached / hz:.2f} to {start / hz:.2f} s")
        reached = end
    if request.end - reached > SNAP_S * hz:
        raise BadAnswer(f"expected no gaps, found one from {reached / hz:.2f} to {request.end / hz:.2f} s")


def _confidence(start: int, end: int, edges: Sequence[int]) -> float:
    """A model whose boundaries agree with the motion is more likely right about them."""
    return round(0.5 + 0.2 * (start in edges) + 0.2 * (end in edges), 3)
