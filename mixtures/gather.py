"""From samples to their vectors, masks, texts and the places of their pictures, out of the compiled index."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mixtures.chunks import read_chunks
from mixtures.compiled import Table
from mixtures.sampler import position_hash
from mixtures.spec import ActionRule, LanguageRule
from pipelines.slots import CAMERAS, N_SLOTS


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
    """Reads the index at `step` of episode `row` of `tables[table]`, for b samples."""
    b = len(row)
    state = np.empty((b, N_SLOTS), np.float32)
    action = np.empty((b, rule.horizon, N_SLOTS), np.float32)
    is_inside = np.empty((b, rule.horizon), np.bool_)
    masks = np.empty((3, b, N_SLOTS), np.bool_)
    control_hz = np.empty(b, np.float32)
    shard, segment = np.empty(b, np.int32), np.empty(b, np.int32)
    offset, length = np.empty((b, len(CAMERAS)), np.int64), np.empty((b, len(CAMERAS)), np.int64)
    for number in np.unique(table):
        source, mine = tables[number], np.flatnonzero(table == number)
        rows = row[mine]
        here = source.first_step[rows] + step[mine]
        action[mine], is_inside[mine] = read_chunks(source, rows, step[mine], rule)
        state[mine] = source.state[here]
        masks[0, mine], masks[1, mine] = source.state_mask[rows], source.action_mask[rows]
        masks[2, mine, : len(CAMERAS)] = source.camera_mask[rows]
        control_hz[mine] = source.control_hz[rows] if rule.rate_hz is None else rule.rate_hz
        shard[mine], segment[mine] = source.shard[rows], source.segment[here]
        offset[mine] = source.image_base[rows] + source.image_start[here]
        length[mine] = source.image_length[here]
    camera_mask = masks[2, :, : len(CAMERAS)]
    owners = [tables[number] for number in table]
    return Rows(
        tables=owners, row=row, state=state, action=action, is_inside=is_inside, state_mask=masks[0],
        action_mask=masks[1], camera_mask=camera_mask, control_hz=control_hz, shard=shard, image_offset=offset,
        image_length=np.where(camera_mask, length, 0), segment=segment,
        norm_key=[t.vocabularies["norm_key"][t.codes("norm_key")[r]] for t, r in zip(owners, row, strict=True)],
        episode_id=[t.episode_ids[int(r)].as_py() for t, r in zip(owners, row, strict=True)],
    )  # fmt: skip


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
