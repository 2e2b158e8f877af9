"""Tables of LeRobot datasets, Parquet or, before v2.0, Arrow: which rows of a file are of which episode."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipelines.contract.native import Rejected, check_array_size
from pipelines.sources.folders import check_regular
from pipelines.sources.lerobot_files.records import PARQUET_ERRORS
from pipelines.storage.paths import StoragePath


def is_arrow(path: StoragePath) -> bool:
    """Whether a table is a stream of Arrow batches, as `datasets` saves them."""
    return path.name.endswith(".arrow")


def map_arrow(path: Path) -> pa.Table:
    """The table of an Arrow file, mapped and not read. Raises what `PARQUET_ERRORS` lists where it is none."""
    check_regular(path)
    return pa.ipc.open_stream(pa.memory_map(str(path))).read_all()


def read_schema(path: StoragePath) -> pa.Schema:
    """The columns of a table. Raises what `PARQUET_ERRORS` lists where it is none."""
    with path.open("rb") as file:
        return pa.ipc.open_stream(file).schema if is_arrow(path) else pq.ParquetFile(file).schema_arrow


def runs_of(path: StoragePath) -> list[tuple[int, int, int]]:
    """The episodes of a file of many: number, first row, row behind its last, by the file's `episode_index` column.

    An episode whose rows do not lie together is there several times. Empty where the file has no such column. Raises
    Rejected where the file cannot be read.
    """
    try:
        numbers = _read_numbers(path)
    except PARQUET_ERRORS as error:
        raise Rejected("unreadable_parquet", f"{path}: {error}") from error
    edges = np.flatnonzero(np.diff(numbers)) + 1
    starts = [0, *edges.tolist()] if len(numbers) else []
    stops = [*starts[1:], len(numbers)]
    return [(int(numbers[start]), start, stop) for start, stop in zip(starts, stops, strict=True)]


def _read_numbers(path: StoragePath) -> NDArray[np.int64]:
    """The column `episode_index`; empty where there is none."""
    if isinstance(path, Path):
        check_regular(path)
    with path.open("rb") as file:
        if is_arrow(path):
            table = pa.ipc.open_stream(file).read_all()
            names = table.column_names
        else:
            parquet = pq.ParquetFile(file)
            names = parquet.schema_arrow.names
            check_array_size(str(path), (parquet.metadata.num_rows,), 8)
            table = parquet.read(columns=["episode_index"]) if "episode_index" in names else None
        if "episode_index" not in names:
            return np.zeros(0, np.int64)
        return table["episode_index"].to_numpy()
