"""Rows of LeRobot's Parquet tables: numbers by column, pictures in columns, and the sentence of each step."""

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipelines.contract.episode import Image
from pipelines.contract.images import CorruptImage
from pipelines.contract.instructions import clean_instruction
from pipelines.contract.native import Rejected, check_array_size
from pipelines.sources.folders import check_regular
from pipelines.sources.lerobot_files.arrow import is_arrow, map_arrow
from pipelines.sources.lerobot_files.meta import Meta
from pipelines.sources.lerobot_files.records import PARQUET_ERRORS, EpisodeFiles
from pipelines.storage.mirror import local_path

# Columns of GR00T's datasets that hold the number of a task text for each step.
_TASK_COLUMNS = ("task_index", "annotation.human.action.task_description", "annotation.human.task_description")
_SUBTASK_TEXTS = ("subtask", "subtask_text")
_PERSISTENT = "language_persistent"
# The column of the sentence in v1.6, and in tables without tasks.
INSTRUCTION = "language_instruction"
# Pictures that are decoded from a column at a time: a row group may hold a whole dataset's.
_BATCH = 16


@dataclass(frozen=True, kw_only=True)
class TableRows:
    """The rows of one episode.

    arrays: float64 [t] or [t, k] of every column of numbers. numbers: int64 [t], where each row lies in the file.
    columns: of text and other kinds, as Python has them. pictures: the columns that hold pictures, which stay unread.
    """

    path: Path
    arrays: Mapping[str, NDArray[np.float64]]
    numbers: NDArray[np.int64]
    columns: Mapping[str, Sequence[Any]]
    pictures: tuple[str, ...] = ()

    @property
    def n(self) -> int:
        return len(self.numbers)


class ColumnFrames(Sequence[Image]):
    """Pictures in a column of a table, as they are stored (JPEG or PNG bytes), for rows `numbers` of the file [t].

    Made for reading in order; going back opens the file again. Raises CorruptImage for a row without a picture.
    """

    def __init__(self, path: Path, column: str, numbers: NDArray[np.int64]) -> None:
        self._path = path
        self._column = column
        self._numbers = numbers
        self._pictures: Iterator[tuple[int, Any]] | None = None
        self._last: tuple[int, Any] = (-1, None)

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        wanted = int(self._numbers[index])
        if self._pictures is None or wanted < self._last[0]:
            self._pictures, self._last = _iterate_column(self._path, self._column, wanted), (-1, None)
        try:
            while self._last[0] < wanted:
                self._last = next(self._pictures)
        except (StopIteration, *PARQUET_ERRORS) as error:
            raise CorruptImage(f"{self._path}: {self._column}: row {wanted}: {error}") from error
        return self._picture(self._last[1])

    def _picture(self, value: Any) -> bytes:
        data = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(data, bytes):
            found = f"a path ({value['path']!r}) alone" if isinstance(value, dict) and value.get("path") else repr(data)
            where = f"{self._path}: {self._column}: row {self._last[0]}"
            raise CorruptImage(f"{where}: expected the bytes of a picture, found {found}")
        return data


def holds_pictures(kind: pa.DataType) -> bool:
    """Says whether a column's type is that of encoded pictures: bytes, or a struct of bytes and a path."""
    if pa.types.is_struct(kind):
        return any(field.name == "bytes" and holds_pictures(field.type) for field in kind)
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def read_rows(episode: EpisodeFiles, start: int | None, stop: int | None) -> TableRows:
    """Reads the numbers and texts of an episode's rows, in the order of their `frame_index`.

    start, stop: the rows of the file among which the episode's lie; None: all of them. Raises Rejected where the
    table's own `episode_index` is another than the episode's.
    """
    assert episode.data is not None
    path = local_path(episode.data)
    try:
        first, table, pictures = _read_table(path, start or 0, stop)
    except PARQUET_ERRORS as error:
        raise Rejected("unreadable_parquet", f"{episode.data}: {error}") from error
    numbers = first + np.arange(table.num_rows)
    if "episode_index" in table.column_names:
        own = to_array(table["episode_index"])
        mine = np.zeros(0, bool) if own is None else own.reshape(-1) == episode.number
        if start is None and not mine.all():
            found = sorted({int(n) for n in np.asarray(own)[~mine]})[:3]
            raise Rejected(
                "wrong_identity",
                f"{episode.data}: expected the rows of episode {episode.number}, found episode_index {found[0]}",
            )
        # The table's own column decides: rows that meta/episodes counts may be another episode's after a dataset was
        # edited.
        table, numbers = table.filter(pa.array(mine)), numbers[mine]
    arrays = {name: array for name in table.column_names if (array := to_array(table[name])) is not None}
    texts = {name: table[name].to_pylist() for name in table.column_names if _is_text(name, table[name].type)}
    rows = TableRows(path=path, arrays=arrays, numbers=numbers, columns=texts, pictures=pictures)
    return _in_order(rows, episode)


def to_array(column: pa.ChunkedArray) -> NDArray[np.float64] | None:
    """float64 [t] or [t, k] of a column of numbers or of lists of equal length; None for anything else.

    A number that is missing is NaN.
    """
    kind = column.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        rows = column.combine_chunks()
        if isinstance(rows, pa.ChunkedArray):
            rows = rows.chunk(0)
        lengths = np.diff(np.asarray(rows.offsets)) if hasattr(rows, "offsets") else np.full(len(rows), kind.list_size)
        if rows.null_count or len(set(lengths.tolist())) != 1 or not _is_number(rows.values.type):
            return _ragged(rows) if rows.null_count else None
        check_array_size("a column", (len(rows), int(lengths[0])), 8)
        return _numbers(rows.flatten()).reshape(len(rows), int(lengths[0]))
    return _numbers(column.combine_chunks()) if _is_number(kind) else None


def read_row_texts(meta: Meta, rows: TableRows, times_s: NDArray[np.float64]) -> tuple[str, ...] | None:
    """Returns the source's own sentence of each step, "" where it has none; None where it has none by step.

    Subtasks come first: the language columns of v3.1, `subtask_index`, a column of texts. Then the numbers of tasks,
    where they change inside the episode.
    """
    if texts := _read_persistent(rows, times_s):
        return texts
    if "subtask_index" in rows.arrays and meta.subtasks:
        return _look_up(rows.arrays["subtask_index"], meta.subtasks)
    for name in _SUBTASK_TEXTS:
        if name in rows.columns:
            return tuple(clean_instruction(text or "") for text in rows.columns[name])
    if len(set(rows.columns.get(INSTRUCTION, ()))) > 1:
        return tuple(clean_instruction(text or "") for text in rows.columns[INSTRUCTION])
    for name in _TASK_COLUMNS:
        if name in rows.arrays and len(np.unique(rows.arrays[name])) > 1:
            return _look_up(rows.arrays[name], meta.tasks)
    return None


def _read_table(path: Path, start: int, stop: int | None) -> tuple[int, pa.Table, tuple[str, ...]]:
    """Rows `start` up to `stop` (None: the end) without pictures: where they begin, the table, and what holds those."""
    if is_arrow(path):
        whole = map_arrow(path)
        check_array_size(str(path), (whole.num_rows,), 8)
        pictures = tuple(field.name for field in whole.schema if holds_pictures(field.type))
        names = [name for name in whole.column_names if name not in pictures]
        stop = whole.num_rows if stop is None else stop
        return start, whole.select(names).slice(start, max(stop - start, 0)), pictures
    check_regular(path)
    with pq.ParquetFile(path) as file:
        check_array_size(str(path), (file.metadata.num_rows,), 8)
        pictures = tuple(field.name for field in file.schema_arrow if holds_pictures(field.type))
        names = [field.name for field in file.schema_arrow if field.name not in pictures]
        return *_read_range(file, names, start, file.metadata.num_rows if stop is None else stop), pictures


def _read_range(file: pq.ParquetFile, names: list[str], start: int, stop: int) -> tuple[int, pa.Table]:
    """Rows `start` up to `stop`, from the row groups that hold them; where they begin, and the table."""
    sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
    ends = np.cumsum(sizes)
    if not len(ends) or start >= stop:
        return start, file.schema_arrow.empty_table().select(names)
    first, last = np.searchsorted(ends, [start, stop - 1], side="right").tolist()
    groups = range(first, min(last + 1, len(sizes)))
    _check_sizes(file, groups, names)
    # Whole row groups are the least that Parquet reads; pictures in columns are left out, and read one by one later.
    table = file.read_row_groups(list(groups), columns=names)
    before = int(ends[first - 1]) if first else 0
    return start, table.slice(start - before, stop - start)


def _check_sizes(file: pq.ParquetFile, groups: Sequence[int], names: Sequence[str]) -> None:
    """Raises Rejected where a column would take more memory than any: a few bytes can stand for 2^31 equal numbers."""
    n_values: Counter[str] = Counter()
    for group in groups:
        row_group = file.metadata.row_group(group)
        for i in range(row_group.num_columns):
            column = row_group.column(i)
            if column.path_in_schema.split(".")[0] not in names:
                continue
            n_values[column.path_in_schema.split(".")[0]] += column.num_values
            check_array_size(f"column {column.path_in_schema}", (column.total_uncompressed_size,), 1)
    for name in names:
        check_array_size(f"column {name}", (n_values[name],), 8)


def _in_order(rows: TableRows, episode: EpisodeFiles) -> TableRows:
    """The rows by their own `frame_index`. Raises Rejected where it, or another column, contradicts them."""
    if "frame_index" not in rows.arrays:
        return rows
    frame_index = rows.arrays["frame_index"].reshape(-1)
    is_ordered = bool((np.diff(frame_index) > 0).all())
    order = np.arange(rows.n) if is_ordered else np.argsort(frame_index, kind="stable")
    if not (np.diff(frame_index[order]) > 0).all():
        raise Rejected(
            "wrong_times", f"{episode.data}: frame_index: expected numbers that rise, found one of them twice"
        )
    # Times that go back in the table's own order are kept and stated; here, they would contradict the new order.
    for name in ("index",) if is_ordered else ("index", "timestamp"):
        if name in rows.arrays and (np.diff(rows.arrays[name].reshape(-1)[order]) < 0).any():
            raise Rejected(
                "wrong_identity",
                f"{episode.data}: expected {name} to rise with frame_index, found that they order the rows in two ways",
            )
    if is_ordered:
        return rows
    return replace(
        rows,
        arrays={name: array[order] for name, array in rows.arrays.items()},
        numbers=rows.numbers[order],
        columns={name: [values[i] for i in order] for name, values in rows.columns.items()},
    )


def _iterate_column(path: Path, column: str, first: int) -> Iterator[tuple[int, Any]]:
    """Row numbers and values of a column, from the row group that holds row `first` on, a few rows at a time."""
    if is_arrow(path):
        values = map_arrow(path)[column]
        for number in range(first, len(values)):
            yield number, values[number].as_py()
        return
    with pq.ParquetFile(path) as file:
        sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
        starts = [0, *itertools.accumulate(sizes)]
        group = max(i for i in range(len(sizes)) if starts[i] <= first)
        number = starts[group]
        groups = list(range(group, len(sizes)))
        for batch in file.iter_batches(batch_size=_BATCH, row_groups=groups, columns=[column]):
            for value in batch.column(0):
                if number >= first:
                    yield number, value.as_py()
                number += 1


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind)


def _numbers(values: pa.Array) -> NDArray[np.float64]:
    if pa.types.is_boolean(values.type):
        values = values.cast(pa.uint8())
    return values.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)


def _ragged(rows: pa.Array) -> NDArray[np.float64] | None:
    """Rows of which some are missing: those are NaN."""
    values = rows.to_pylist()
    widths = {len(row) for row in values if row is not None}
    if len(widths) != 1 or not _is_number(rows.type.value_type):
        return None
    empty = [np.nan] * widths.pop()
    return np.asarray([empty if row is None else row for row in values], np.float64)


def _is_text(name: str, kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or name == _PERSISTENT


def _look_up(numbers: NDArray[np.float64], texts: Mapping[int, str]) -> tuple[str, ...]:
    # -1 is no task: a missing number must not become the text of task 0.
    named = [-1 if np.isnan(number) else int(number) for number in numbers.reshape(-1)]
    return tuple(clean_instruction(texts.get(number, "")) for number in named)


def _read_persistent(rows: TableRows, times_s: NDArray[np.float64]) -> tuple[str, ...] | None:
    """The subtask of each step by the language columns: each holds from its time until the next one.

    Every row repeats the list of the whole episode; a text of None ends the subtask before it.
    """
    listed = next((value for value in rows.columns.get(_PERSISTENT, ()) if value), None)
    if not listed:
        return None
    subtasks = sorted(
        ((float(item["timestamp"]), item["content"]) for item in listed if item["style"] == "subtask"),
        key=lambda subtask: subtask[0],
    )
    if not subtasks:
        return None
    # Times are float32 in both columns; a step that begins a subtask must not fall a rounding error before it.
    starts = np.array([time for time, _ in subtasks]) - 1e-4
    latest = np.searchsorted(starts, times_s, side="right") - 1
    return tuple("" if i < 0 else clean_instruction(subtasks[i][1] or "") for i in latest)
