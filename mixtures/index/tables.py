"""The index of one dataset split in fixed-width, memory-mapped files, compiled once per host from its sidecars.

Reading one sample touches a few pages of them; nothing is parsed and memory does not grow with the dataset.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mixtures.index.compiling import CODED, FORMAT, SEGMENT, compile_table, episode_type, one_array, step_type
from mixtures.index.mapped import map_file
from mixtures.index.sealed import ensure_sealed
from mixtures.index.shard_times import check_times
from mixtures.index.stated import STATED
from mixtures.index.texts import TextLists, Texts
from mixtures.stores.arrow import is_remote
from mixtures.stores.remote import mirror_metadata, open_mirror, shard_sizes
from pipelines.contract.errors import FailedWork, UsageError, nearest
from pipelines.contract.layouts import get_layout
from pipelines.contract.slots import LAYOUT
from pipelines.shards.dataset import INFO_FILE, Dataset, read_info


@dataclass(frozen=True, kw_only=True)
class CompiledTable:
    """One compiled split. Arrays are memory-mapped; e episodes, t steps of all episodes, cameras as in `CAMERAS`.

    path: the dataset's folder or URI; home: a local folder with its metadata, the same for a local dataset.
    fingerprint: names the content of shards, sidecars and segments. shards: their paths; shard_sizes: their bytes.
    layout: of the compiled vectors, source_layout: of those in the shards.
    segment_folder: holds the segments that replace those of the shards, if any do.
    vocabularies: per coded attribute (robot, task, ...) its values; `codes(attribute)` are indices into them.
    """

    folder: Path
    path: str
    home: str
    name: str
    version: str
    split: str
    fingerprint: str
    cameras: tuple[str, ...]
    shards: tuple[str, ...]
    shard_sizes: tuple[int, ...]
    vocabularies: Mapping[str, tuple[str, ...]]
    n_episodes: int
    n_steps: int
    layout: str = LAYOUT
    source_layout: str = LAYOUT
    segment_folder: Path | None = None

    @cached_property
    def n_slots(self) -> int:
        """The width of the compiled vectors."""
        return get_layout(self.layout).n_slots

    @cached_property
    def source_slots(self) -> tuple[int, ...]:
        """The compiled slot of each slot that the shards have."""
        slots = get_layout(self.layout).slots_from(self.source_layout)
        assert slots is not None, (self.layout, self.source_layout)
        return slots

    @cached_property
    def first_step(self) -> NDArray[np.int64]:
        """Row of each episode's first step, and behind the last one the number of all steps; int64 [e + 1]."""
        return self._array("first_step", np.int64)

    @cached_property
    def n_steps_of(self) -> NDArray[np.int64]:
        """Steps of each episode, int64 [e]."""
        return np.diff(self.first_step)

    @cached_property
    def episodes(self) -> NDArray[Any]:
        """What a sample needs of its episode, `episode_type` [e]."""
        return self._array("episodes", episode_type(self.n_slots))

    @cached_property
    def steps(self) -> NDArray[Any]:
        """What a sample needs of its step, `step_type` [t]."""
        return self._array("steps", step_type(self.n_slots))

    @property
    def image_base(self) -> NDArray[np.int64]:
        """Offset of the first JPEG in its shard, int64 [e, 3]; -1 where the dataset lacks the camera."""
        return self.episodes["image_base"]

    @property
    def image_start(self) -> NDArray[np.uint32]:
        """Offset of each JPEG behind its episode's first one, uint32 [t, 3]."""
        return self.steps["image_start"]

    @property
    def image_length(self) -> NDArray[np.uint32]:
        """Bytes of each JPEG, uint32 [t, 3]."""
        return self.steps["image_length"]

    @property
    def camera_mask(self) -> NDArray[np.bool_]:
        """bool [e, 3]."""
        return self.episodes["camera_mask"]

    @property
    def state(self) -> NDArray[np.float32]:
        """Physical state, float32 [t, d]."""
        return self.steps["state"]

    @cached_property
    def action(self) -> NDArray[np.float32]:
        """Physical action, float32 [t, d]."""
        return self._array("action", np.float32, self.n_slots)

    @property
    def state_mask(self) -> NDArray[np.bool_]:
        """bool [e, d]."""
        return self.episodes["state_mask"]

    @property
    def action_mask(self) -> NDArray[np.bool_]:
        """bool [e, d]."""
        return self.episodes["action_mask"]

    @property
    def control_hz(self) -> NDArray[np.float32]:
        """float32 [e]."""
        return self.episodes["control_hz"]

    @cached_property
    def is_idle(self) -> NDArray[np.bool_]:
        """bool [t]."""
        return self._array("is_idle", np.bool_)

    @cached_property
    def segment(self) -> NDArray[np.int32]:
        """Row of each step's segment in `segment_texts` and `segments`, int32 [t]; -1 outside all segments."""
        return self._array("segment", np.int32, folder=self.segment_folder)

    @cached_property
    def n_segmented(self) -> NDArray[np.int32]:
        """Steps of each episode that lie in a segment, int32 [e]."""
        return self._array("n_segmented", np.int32, folder=self.segment_folder)

    @cached_property
    def segments(self) -> NDArray[Any]:
        """The segments of all episodes, `SEGMENT` [segments]."""
        return self._array("segments", SEGMENT, folder=self.segment_folder)

    @property
    def segment_kind(self) -> NDArray[np.uint8]:
        """Index into `KINDS`, uint8 [segments]."""
        return self.segments["kind"]

    @cached_property
    def success(self) -> NDArray[np.int8]:
        """1, 0, or -1 unknown; int8 [e]."""
        return self._array("success", np.int8)

    @cached_property
    def motion(self) -> NDArray[np.uint64]:
        """A word per episode that copies and trimmed copies of it share (see `motion_words`), uint64 [e]."""
        return self._array("motion", np.uint64)

    @cached_property
    def episode_ids(self) -> pa.Array:
        """Text [e]."""
        return load_column(self.folder / "episode_id.arrow")

    @cached_property
    def source_keys(self) -> pa.Array:
        """The names that the sources themselves give the episodes, by which outside lists know them; text [e]."""
        return load_column(self.folder / "source_key.arrow")

    @cached_property
    def languages(self) -> pa.Array:
        """List of texts [e]."""
        return load_column(self.folder / "language.arrow")

    @cached_property
    def segment_texts(self) -> pa.Array:
        """Text [segments]."""
        return load_column((self.segment_folder or self.folder) / "segment_text.arrow")

    @cached_property
    def episode_bytes(self) -> memoryview:
        """The bytes of `episodes`, for a few of many; also below."""
        return _bytes(self.episodes)

    @cached_property
    def step_bytes(self) -> memoryview:
        """The bytes of `steps`."""
        return _bytes(self.steps)

    @cached_property
    def action_bytes(self) -> memoryview:
        """The bytes of `action`."""
        return _bytes(self.action)

    @cached_property
    def segment_numbers(self) -> memoryview:
        """The same as `segment`."""
        return self.segment.data

    @cached_property
    def episode_id_at(self) -> Texts:
        """The same as `episode_ids`, for a few of many."""
        return Texts(self.episode_ids)

    @cached_property
    def languages_at(self) -> TextLists:
        """The same as `languages`, for a few of many."""
        return TextLists(self.languages)

    @cached_property
    def segment_text_at(self) -> Texts:
        """The same as `segment_texts`, for a few of many."""
        return Texts(self.segment_texts)

    def source_text_at(self, step: int) -> str:
        """The source's own sentence for a step (a row of `steps`), "" where it states none for single steps."""
        # Stretches and not a text for each step: few datasets state any, and those repeat a text for many steps.
        number = int(np.searchsorted(self._stated["first"], step, side="right")) - 1
        return self._stated_texts[number] if number >= 0 and step < self._stated["end"][number] else ""

    def source_texts(self, row: int) -> frozenset[str]:
        """The source's own sentences for single steps of an episode; empty for one whose text holds for all steps.

        They are those of the shards, whatever segments a table or a merge laid over them.
        """
        if not len(self._stated):  # most datasets: what follows costs more than the rest of a sample's text
            return frozenset()
        first, end = np.searchsorted(self._stated["episode"], [row, row + 1])
        return frozenset(self._stated_texts[number] for number in range(first, end))

    @cached_property
    def _stated(self) -> NDArray[Any]:
        return self._array("stated", STATED)

    @cached_property
    def _stated_texts(self) -> Texts:
        return Texts(load_column(self.folder / "stated_text.arrow"))

    @cached_property
    def is_remote(self) -> bool:
        """Whether the shards lie in an object store."""
        return is_remote(self.path)

    def codes(self, attribute: str) -> NDArray[np.int32]:
        """The index of each episode's value in the attribute's vocabulary, int32 [e]."""
        return self._codes[attribute]

    @cached_property
    def _codes(self) -> dict[str, NDArray[np.int32]]:
        return {attribute: self._array(f"{attribute}_code", np.int32) for attribute in CODED}

    def _array(self, name: str, kind: Any, width: int | None = None, folder: Path | None = None) -> NDArray[Any]:
        # Mapped, as fast as reading: the pages are shared by all processes of the host, and the system may drop them.
        array = np.frombuffer(map_file((folder or self.folder) / f"{name}.bin"), kind)
        return array if width is None else array.reshape(-1, width)


def cache_folder(cache: str | Path | None = None) -> Path:
    """Where compiled files live: `cache`, or $EMBODIMIX_CACHE, or ~/.cache/embodimix."""
    return Path(cache or os.environ.get("EMBODIMIX_CACHE") or Path.home() / ".cache" / "embodimix")


def open_table(path: str, split: str, cache: Path, layout: str = LAYOUT) -> CompiledTable:
    """Opens a split's compiled index; compiles it first where that has not been done on this host.

    layout: of the compiled vectors. Raises FailedWork for a dataset, shard or sidecar that is missing, incomplete or
    changed, UsageError for a split that the dataset lacks, and where the layout has no slots for its vectors.
    """
    home = str(mirror_metadata(path, cache)) if is_remote(path) else path
    folder = cache / "tables" / _state_of_files(home, split, layout)
    if not os.path.exists(os.path.join(home, INFO_FILE)):
        read_info(Path(home))  # raises the error that names what is missing

    def write(scratch: Path) -> None:
        info, _ = read_info(Path(home))
        splits = [entry["name"] for entry in info["splits"]]
        if split not in splits:
            raise UsageError(f"{path}: no split {split!r}. {nearest(split, splits)}")
        dataset = open_mirror(Path(home), path) if is_remote(path) else Dataset.open(path)
        compile_table(dataset, split, scratch, layout)

    # Compiled once per host: reading sidecars when a sample needs them costs 0.67 ms a load, since nearly every sample
    # of a global order lies in another shard.
    ensure_sealed(folder, write)
    table = _load(folder, path, home)
    found = _remote_sizes(table) if table.is_remote else [_local_state(shard) for shard in table.shards]
    for shard, expected, (size, _) in zip(table.shards, table.shard_sizes, found, strict=True):
        _check_size(shard, expected, size)
    if not table.is_remote:
        times = folder.with_name(f"{folder.name}.shard_times.json")
        check_times(times, Path(home), [Path(shard) for shard in table.shards], [time_ns for _, time_ns in found])
    return table


def _state_of_files(path: str, split: str, layout: str) -> str:
    """Names a split in a layout by the sizes and times of its sidecars, without opening any."""
    index = os.path.join(path, "index")
    # By sizes and times and not by content: each start would else read every sidecar of every dataset. FORMAT is part
    # of the name, so that two versions of the code keep their own files, and so is the real path, so that a link
    # compiles nothing twice.
    entries = sorted(
        (entry.name, entry.stat().st_size, entry.stat().st_mtime_ns)
        for entry in (os.scandir(index) if os.path.isdir(index) else ())
        if entry.name.startswith(f"{split}-")
    )
    # The default layout has no name here, so that what was compiled before there were others stays in use.
    named = [] if layout == LAYOUT else [layout]
    identity = json.dumps([FORMAT, os.path.realpath(path), split, entries, *named])
    return hashlib.sha256(identity.encode()).hexdigest()[:32]


def _remote_sizes(table: CompiledTable) -> list[tuple[int | None, int]]:
    sizes = shard_sizes(table.path)
    return [(sizes.get(shard.rpartition("/")[2]), 0) for shard in table.shards]


def _local_state(shard: str) -> tuple[int | None, int]:
    """Bytes of a shard, None where it is missing, and when it was last written to."""
    try:
        found = os.stat(shard)
    except FileNotFoundError:
        return None, 0
    return found.st_size, found.st_mtime_ns


def _check_size(shard: str, size: int, found: int | None) -> None:
    if found is None:
        raise FailedWork(f"{shard}: expected the shard, found no such file. Copy it again from where it was whole.")
    # Offsets of the index would point into other pictures of a shard that was replaced, mostly without any error.
    if found != size:
        raise FailedWork(f"{shard}: expected {size} bytes, found {found}. It changed under its index; copy it again.")


def _load(folder: Path, path: str, home: str) -> CompiledTable:
    content = json.loads((folder / "table.json").read_text())
    return CompiledTable(
        folder=folder,
        path=path,
        home=home,
        name=content["name"],
        version=content["version"],
        split=content["split"],
        fingerprint=content["fingerprint"],
        cameras=tuple(content["cameras"]),
        shards=tuple(f"{path.rstrip('/')}/{name}" for name in content["shards"]),
        shard_sizes=tuple(content["shard_sizes"]),
        n_episodes=content["n_episodes"],
        n_steps=content["n_steps"],
        layout=content.get("layout", LAYOUT),
        source_layout=content.get("source_layout", LAYOUT),
        vocabularies={name: tuple(values) for name, values in content["vocabularies"].items()},
    )


def _bytes(array: NDArray[Any]) -> memoryview:
    return array.reshape(-1).view(np.uint8).data


def load_column(path: Path) -> pa.Array:
    """Maps an Arrow array from a file."""
    return one_array(pa.ipc.open_file(pa.BufferReader(pa.py_buffer(map_file(path)))).read_all().column(0))
