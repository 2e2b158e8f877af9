"""From samples to their vectors, masks, texts and the places of their pictures, out of the compiled index."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixtures.chunks import read_chunks
from mixtures.compiled import Table
from mixtures.compiling import EPISODE, STEP
from mixtures.sampler import position_hash
from mixtures.spec import ActionRule, LanguageRule
from pipelines.slots import N_SLOTS


@dataclass(frozen=True, kw_only=True)
class Rows:
    """What the index says of b samples: physical vectors, masks, names, and where each picture lies.

    image_offset: int64 [b, 3] in the shard `table.shards[shard]`; image_length: int64 [b, 3], 0 for no picture.
    is_inside: bool [b, h], whether a step of the chunk lies in the episode. control_hz: of the chunk's steps.
    """

    tables: list[Table]
    row: NDArray[np.int64]
    state: NDArray[np.float32]
    action: NDArray[np.float32]
    is_inside: NDArray[np.bool_]
    state_mask: NDArray[np.bool_]
    action_mask: NDArray[np.bool_]
    camera_mask: NDArray[np.bool_]
    control_hz: NDArray[np.float32]
    shard: NDArray[np.int32]
    image_offset: NDArray[np.int64]
    image_length: NDArray[np.int64]
    segment: NDArray[np.int32]
    norm_key: list[str]
    episode_id: list[str]


def gather_rows(
    tables: Sequence[Table], table: NDArray[np.int32], row: NDArray[np.int64], step: NDArray[np.int64], rule: ActionRule
) -> Rows:
    """Reads the index at `step` of episode `row` of `tables[table]`, for b samples.

    Samples are read table by table, in as few operations as can be, and put back in their order at the end.
    """
    order = np.argsort(table, kind="stable")
    sorted_table, rows = table[order], row[order]
    edges = [0, *(np.flatnonzero(np.diff(sorted_table)) + 1).tolist(), len(order)]
    parts = [(tables[sorted_table[a]], slice(a, b)) for a, b in zip(edges[:-1], edges[1:], strict=True) if a < b]
    episodes, steps = np.empty(len(order), EPISODE), np.empty(len(order), STEP)
    segment = np.empty(len(order), np.int32)
    for source, mine in parts:
        _take(source.episodes, rows[mine], episodes[mine])
    here = episodes["first_step"] + step[order]
    for source, mine in parts:
        _take(source.steps, here[mine], steps[mine])
        _take(source.segment, here[mine], segment[mine])
    action, is_inside = _chunks(parts, rows, here, episodes, rule)
    back = np.empty_like(order)
    back[order] = np.arange(len(order))
    episodes, steps = episodes[back], steps[back]
    offset = episodes["image_base"] + steps["image_start"]
    owners = [tables[number] for number in table.tolist()]
    keys = episodes["norm_key"].tolist()
    return Rows(
        tables=owners, row=row, state=np.ascontiguousarray(steps["state"]), action=action[back],
        is_inside=is_inside[back], state_mask=np.ascontiguousarray(episodes["state_mask"]),
        action_mask=np.ascontiguousarray(episodes["action_mask"]),
        camera_mask=np.ascontiguousarray(episodes["camera_mask"]),
        control_hz=episodes["control_hz"] if rule.rate_hz is None else np.full(len(row), rule.rate_hz, np.float32),
        shard=episodes["shard"], image_offset=offset,
        image_length=np.where(episodes["camera_mask"], steps["image_length"], 0).astype(np.int64),
        segment=segment[back],
        norm_key=[t.vocabularies["norm_key"][key] for t, key in zip(owners, keys, strict=True)],
        episode_id=[t.episode_ids[r].as_py() for t, r in zip(owners, row.tolist(), strict=True)],
    )  # fmt: skip


def _chunks(
    parts: Sequence[tuple[Table, slice]], rows: NDArray[np.int64], here: NDArray[np.int64], episodes: NDArray[Any],
    rule: ActionRule,
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:  # fmt: skip
    """The chunks that begin at rows `here` of the tables' steps: float32 [b, h, 18], and bool [b, h] inside."""
    action = np.empty((len(rows), rule.horizon, N_SLOTS), np.float32)
    end = episodes["end_step"][:, None]
    ahead = here[:, None] + np.arange(rule.horizon)
    if rule.rate_hz is None:
        inside = ahead < end
        ahead = np.minimum(ahead, end - 1)
        for source, mine in parts:
            _take(source.action, ahead[mine], action[mine])
        return action, inside
    inside = np.empty(ahead.shape, np.bool_)
    steps = here - episodes["first_step"]
    for source, mine in parts:
        action[mine], inside[mine] = read_chunks(source, rows[mine], steps[mine], rule)
    return action, inside


def _take(source: NDArray[Any], rows: NDArray[np.int64], out: NDArray[Any]) -> None:
    """Copies rows without the buffer that numpy uses where it checks them."""
    np.take(source, rows, axis=0, out=out, mode="clip")


def choose_language(
    rows: Rows, positions: NDArray[np.int64], rule: LanguageRule, seed: int
) -> tuple[list[str], NDArray[np.bool_]]:
    """The text of every sample, and whether it is its segment's; a pure function of seed and position.

    A sample without a segment text takes one of its episode's instructions, each as likely, or else the task's name.
    """
    wants_segment = _unit(position_hash(seed, "language", positions)) * (rule.segment + rule.task) < rule.segment
    words = position_hash(seed, "instruction", positions)
    texts, is_segment = [], np.zeros(len(positions), np.bool_)
    for i, (table, row) in enumerate(zip(rows.tables, rows.row, strict=True)):
        text = table.segment_texts[int(rows.segment[i])].as_py() if wants_segment[i] and rows.segment[i] >= 0 else ""
        is_segment[i] = bool(text)
        texts.append(text or _task_text(table, int(row), int(words[i])))
    return texts, is_segment


def _task_text(table: Table, row: int, word: int) -> str:
    instructions = [text for text in table.languages[row].as_py() or () if text]
    if instructions:
        return instructions[word % len(instructions)]
    return table.vocabularies["task"][table.codes("task")[row]]


def _unit(words: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Words as numbers in [0, 1)."""
    return (words >> np.uint64(11)).astype(np.float64) / 2**53
