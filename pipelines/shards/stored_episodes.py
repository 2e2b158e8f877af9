"""Stored episodes read back for checks and cards: their vectors from the sidecars, single pictures from the shards."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipelines.contract.errors import FailedWork
from pipelines.contract.slots import CAMERAS, METRIC, units_of
from pipelines.contract.units import slot_units
from pipelines.shards.dataset import Dataset, ShardPaths
from pipelines.shards.sidecar import PictureRanges, jpeg_offsets, read_sidecar
from pipelines.storage.paths import StoragePath

_VECTORS = ("state", "action", "is_idle", "timestamp_s")


@dataclass(frozen=True, kw_only=True)
class StoredEpisode:
    """One episode of a stored dataset, physical values.

    state, action: float32 [t, d]; masks bool [d]; is_idle bool [t]; timestamp_s float64 [t]. state and action are
    [0, d] where the index was made from shards of another writer. pictures: only the cameras that the episode has.
    """

    split: str
    shard: StoragePath
    episode_id: str
    source_key: str
    source_uri: str
    robot: str
    control_mode: str
    norm_key: str
    control_hz: float
    task: str
    language: tuple[str, ...]
    success: int
    n_steps: int
    parts: dict[str, tuple[int, ...]]
    segments: tuple[dict[str, Any], ...]
    state: NDArray[np.float32]
    action: NDArray[np.float32]
    state_mask: NDArray[np.bool_]
    action_mask: NDArray[np.bool_]
    is_idle: NDArray[np.bool_]
    timestamp_s: NDArray[np.float64]
    pictures: dict[str, PictureRanges]

    @property
    def where(self) -> str:
        """How findings name the episode."""
        return f"{self.split}: {self.source_key} ({self.episode_id[:8]})"

    @property
    def has_vectors(self) -> bool:
        return len(self.state) == self.n_steps

    @cached_property
    def arm_slots(self) -> NDArray[np.int64]:
        """The arm slots that both the state and the action have."""
        slots = [slot for part in ("arm0", "arm1") for slot in self.parts.get(part, ())]
        return np.array([slot for slot in slots if self.state_mask[slot] and self.action_mask[slot]], np.int64)

    @property
    def gripper_slots(self) -> tuple[int, ...]:
        return self.parts.get("gripper0", ()) + self.parts.get("gripper1", ())

    def units(self, side: str) -> dict[int, str]:
        """The unit of every slot of the robot's parts: rad, rad/s, m, m/s or closed. side: state or action."""
        return slot_units(self.control_mode, self.parts, side)

    def shown_units(self, side: str) -> dict[int, str]:
        """As `units`, in the words of a page: an arm's numbers whose source states no scale are in `native` units."""
        units = self.units(side)
        if units_of(self.norm_key) == METRIC:
            return units
        arms = {slot for part, slots in self.parts.items() if part.startswith("arm") for slot in slots}
        return {slot: "native" if slot in arms else unit for slot, unit in units.items()}

    def read_pictures(self, camera: str, steps: Sequence[int]) -> list[bytes]:
        """The JPEGs of some steps of a camera, as they lie in the shard."""
        where = self.pictures[camera]
        offsets = jpeg_offsets(where.base, where.lengths)
        with self.shard.open("rb") as file:
            return [_read(file, int(offsets[step]), int(where.lengths[step])) for step in steps]


def iter_stored(dataset: Dataset) -> Iterator[StoredEpisode]:
    """Yields every episode in the order of splits, shards and records, one sidecar in memory at a time."""
    for split in sorted(dataset.splits):
        for files in dataset.splits[split]:
            yield from iter_shard(dataset, split, files)


def iter_shard(dataset: Dataset, split: str, files: ShardPaths) -> Iterator[StoredEpisode]:
    """Yields the episodes of one shard. Raises FailedWork, OSError or ValueError where its sidecar cannot be read."""
    table = read_sidecar(files.sidecar)
    lists = {*_VECTORS, *(f"{camera}_lengths" for camera in dataset.cameras)}
    rows = table.select([name for name in table.column_names if name not in lists]).to_pylist()
    columns = {name: _Lists(table[name].combine_chunks()) for name in lists}
    for i, row in enumerate(rows):
        yield _episode(dataset, split, files.shard, row, {name: column.at(i) for name, column in columns.items()})


def _episode(
    dataset: Dataset, split: str, shard: StoragePath, row: dict[str, Any], lists: dict[str, NDArray[Any]]
) -> StoredEpisode:
    # The mask covers the camera slots; a camera under another writer's name is in every episode.
    present = dict(zip(CAMERAS, row["camera_mask"], strict=True))
    if not re.fullmatch(r"\w[\w-]{0,127}", row["episode_id"]):
        raise FailedWork(f"{shard}: expected an episode_id of letters and digits, found {row['episode_id'][:80]!r}")
    return StoredEpisode(
        split=split,
        shard=shard,
        episode_id=row["episode_id"],
        source_key=row["source_key"],
        source_uri=row["source_uri"],
        robot=row["robot"],
        control_mode=row["control_mode"],
        norm_key=row["norm_key"],
        control_hz=row["control_hz"],
        task=row["task"],
        language=tuple(row["language"]),
        success=row["success"],
        n_steps=row["n_steps"],
        segments=tuple(row["segments"]),
        parts={part: tuple(slots) for part, slots in json.loads(row["parts"]).items()},
        state=lists["state"].reshape(-1, len(row["state_mask"])),
        action=lists["action"].reshape(-1, len(row["action_mask"])),
        state_mask=np.array(row["state_mask"]),
        action_mask=np.array(row["action_mask"]),
        is_idle=lists["is_idle"].astype(bool),
        timestamp_s=lists["timestamp_s"],
        pictures={
            camera: PictureRanges(base=row[f"{camera}_base"], lengths=lists[f"{camera}_lengths"].astype(np.int64))
            for camera in dataset.cameras
            if present.get(camera, True)
        },
    )


class _Lists:
    """A list column whose rows are arrays, without a Python object per number."""

    def __init__(self, column: pa.ListArray) -> None:
        self._offsets = column.offsets.to_numpy()
        self._values = column.values.to_numpy(zero_copy_only=False)

    def at(self, row: int) -> NDArray[Any]:
        values: NDArray[Any] = self._values[self._offsets[row] : self._offsets[row + 1]]
        return values


def _read(file: Any, offset: int, length: int) -> bytes:
    file.seek(offset)
    data: bytes = file.read(length)
    return data
