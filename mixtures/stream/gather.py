"""From samples to their vectors, masks, texts and the byte ranges of their pictures, out of the compiled index."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixtures.actions.chunks import read_chunks
from mixtures.index.compiling import FROM_PROPOSAL, episode_type, step_type
from mixtures.index.tables import CompiledTable
from mixtures.randomness import position_hash
from mixtures.specs.spec import ActionRule, LanguageRule


@dataclass(frozen=True, kw_only=True)
class Rows:
    """What the index holds of b samples: physical vectors, masks, names, and where each picture lies.

    image_offset: int64 [b, 3] in the shard `table.shards[shard]`; image_length: int64 [b, 3], 0 for no picture.
    is_inside: bool [b, h], whether a step of the chunk lies in the episode. control_hz: of the chunk's steps. step_row:
    rows of the tables' `steps`. norm_key: the pools that normalize.
    """

    tables: list[CompiledTable]
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
    step_row: list[int]
    segment: NDArray[np.int32]
    norm_key: list[str]
    episode_id: list[str]


def gather_rows(
    tables: Sequence[CompiledTable],
    table: NDArray[np.int32],
    row: NDArray[np.int64],
    step: NDArray[np.int64],
    rule: ActionRule,
    pools: Sequence[Mapping[tuple[str, float], str]],
) -> Rows:
    """Reads the index at `step` of episode `row` of `tables[table]`, for b samples. pools: see `Pools.names`.

    Slices of mapped files are joined: numpy lets other threads run at every `take`, and a thread that decodes then
    takes its turn for longer than the copy lasts.
    """
    owners = [tables[number] for number in table.tolist()]
    numbers, n_slots = row.tolist(), tables[0].n_slots
    episodes = _picked([table.episode_bytes for table in owners], numbers, episode_type(n_slots))
    here = (episodes["first_step"] + step).tolist()
    steps = _picked([table.step_bytes for table in owners], here, step_type(n_slots))
    if rule.rate_hz is None:
        control_hz = episodes["control_hz"]
        action, is_inside = _native_chunks(owners, here, episodes["end_step"].tolist(), rule.horizon)
    else:
        control_hz = np.full(len(row), rule.rate_hz, np.float32)
        action, is_inside = _chunks_at_rate(tables, table, row, step, rule)
    return Rows(
        tables=owners,
        row=row,
        state=np.ascontiguousarray(steps["state"]),
        action=action,
        is_inside=is_inside,
        state_mask=np.ascontiguousarray(episodes["state_mask"]),
        action_mask=np.ascontiguousarray(episodes["action_mask"]),
        camera_mask=np.ascontiguousarray(episodes["camera_mask"]),
        control_hz=control_hz,
        shard=episodes["shard"],
        image_offset=episodes["image_base"] + steps["image_start"],
        # A masked camera has black JPEGs in the shard, which need not be read.
        image_length=np.where(episodes["camera_mask"], steps["image_length"], 0).astype(np.int64),
        step_row=here,
        segment=np.array([t.segment_numbers[i] for t, i in zip(owners, here, strict=True)], np.int32),
        norm_key=[
            pools[number][tables[number].vocabularies["norm_key"][key], hz]
            for number, key, hz in zip(
                table.tolist(), episodes["norm_key"].tolist(), episodes["control_hz"].tolist(), strict=True
            )
        ],
        episode_id=[t.episode_id_at[i] for t, i in zip(owners, numbers, strict=True)],
    )


def _native_chunks(
    owners: Sequence[CompiledTable], here: Sequence[int], ends: Sequence[int], horizon: int
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Chunks that begin at rows `here` of the tables' steps, whose episodes end before rows `ends`.

    Float32 [b, h, d], and bool [b, h], whether a step is inside; behind the end the last action is repeated.
    """
    # Behind the end the last action is repeated, not zeros: for positions zero is a place far away, and openpi's and
    # LeRobot's loaders repeat too. `is_inside` keeps these steps out of the loss.
    n_slots = owners[0].n_slots if owners else 0
    size = n_slots * np.dtype(np.float32).itemsize
    parts: list[bytes | memoryview] = []
    for table, begin, end in zip(owners, here, ends, strict=True):
        source = table.action_bytes
        parts.append(source[begin * size : min(begin + horizon, end) * size])
        if end - begin < horizon:
            last = source[(end - 1) * size : end * size]
            parts.append(bytes(last) * (horizon - (end - begin)))
    action = _joined(parts, np.dtype(np.float32)).reshape(len(here), horizon, n_slots)
    return action, np.arange(horizon) < (np.array(ends, np.int64) - np.array(here, np.int64))[:, None]


def _chunks_at_rate(
    tables: Sequence[CompiledTable],
    table: NDArray[np.int32],
    row: NDArray[np.int64],
    step: NDArray[np.int64],
    rule: ActionRule,
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """The same at the rule's rate, table by table."""
    action = np.empty((len(row), rule.horizon, tables[0].n_slots), np.float32)
    inside = np.empty((len(row), rule.horizon), np.bool_)
    for number in np.unique(table).tolist():
        mine = table == number
        action[mine], inside[mine] = read_chunks(tables[number], row[mine], step[mine], rule)
    return action, inside


def _picked(sources: Sequence[memoryview], rows: Sequence[int], kind: np.dtype[Any]) -> NDArray[Any]:
    """One row of each source."""
    size = kind.itemsize
    return _joined([source[i * size : (i + 1) * size] for source, i in zip(sources, rows, strict=True)], kind)


def _joined(parts: Sequence[bytes | memoryview], kind: np.dtype[Any]) -> NDArray[Any]:
    """The parts as one array that can be written to."""
    return np.frombuffer(bytearray().join(parts), kind)


def choose_language(
    rows: Rows, positions: NDArray[np.int64], rule: LanguageRule, seed: int
) -> tuple[list[str], NDArray[np.bool_]]:
    """The text of every sample, and whether it is its segment's; a pure function of seed and position.

    The phrase of a proposal is a segment's text only where the rule asks for it. A sample without a segment text takes
    one of the instructions of its step, each as likely, or else the task's name.
    """
    segments = rows.segment
    if (segments >= 0).any():
        # By position, so that a resumed run, or another number of hosts, draws the same texts.
        drawn = _unit(position_hash(seed, "language", positions)) * (rule.segment + rule.task)
        segments = np.where(drawn < rule.segment, segments, -1)
    words = position_hash(seed, "instruction", positions)
    samples = zip(rows.tables, rows.row.tolist(), rows.step_row, segments.tolist(), words.tolist(), strict=True)
    texts, is_segment = [], np.zeros(len(positions), np.bool_)
    for i, (table, row, step, segment, word) in enumerate(samples):
        text = _segment_text(table, segment, rule.proposals)
        is_segment[i] = bool(text)
        texts.append(text or _task_text(table, row, step, word))
    return texts, is_segment


def _segment_text(table: CompiledTable, segment: int, proposals: bool) -> str:
    if segment < 0 or (not proposals and table.segments["source"][segment] == FROM_PROPOSAL):
        return ""
    return table.segment_text_at[segment]


def _task_text(table: CompiledTable, row: int, step: int, word: int) -> str:
    """One of the instructions that hold for a step of an episode.

    Where the source states sentences of single steps, those of other steps do not hold for this one: a robot that is
    asked to close the drawer while it opens one learns the wrong thing. So a step takes an instruction of the whole
    episode, else its own sentence, else none.
    """
    of_steps = table.source_texts(row)
    instructions = [text for text in table.languages_at[row] if text and text not in of_steps]
    if instructions:
        return instructions[word % len(instructions)]
    own = table.source_text_at(step) if of_steps else ""
    task = table.vocabularies["task"][table.codes("task")[row]]
    return own or ("" if task in of_steps else task)


def _unit(words: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Words as numbers in [0, 1)."""
    return (words >> np.uint64(11)).astype(np.float64) / 2**53
