"""GR00T's modality.json: parts of state and action, and cameras, under the names that it gives them."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pipelines.contract.errors import FailedWork
from pipelines.contract.native import Rejected
from pipelines.sources.lerobot_files.records import read_metadata_json
from pipelines.storage.paths import StoragePath

# Where GR00T looks for what has no `original_key`.
_USUAL = {"state": "observation.state", "action": "action"}


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Columns `start` up to `stop` of a column of vectors."""

    key: str
    start: int
    stop: int


@dataclass(frozen=True, kw_only=True)
class Modality:
    """What modality.json names: `state.left_arm` and its columns, `video.ego_view` and its camera."""

    parts: Mapping[str, Columns] = field(default_factory=dict)
    cameras: Mapping[str, str] = field(default_factory=dict)

    def arrays_by_name(self, arrays: Mapping[str, NDArray[np.float64]], where: str) -> dict[str, NDArray[np.float64]]:
        """The parts of an episode's arrays, [t, k] each. Raises Rejected for one that its column is too narrow for."""
        named = {}
        for name, columns in self.parts.items():
            if columns.key not in arrays or name in arrays:
                continue
            array = arrays[columns.key].reshape(len(arrays[columns.key]), -1)
            if columns.stop > array.shape[1]:
                raise Rejected(
                    "wrong_dims",
                    f"{where}: modality.json: {name}: expected columns {columns.start} to {columns.stop} of "
                    f"{columns.key}, found {array.shape[1]}",
                )
            named[name] = array[:, columns.start : columns.stop]
        return named

    def names_by_part(self, dim_names: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        """The names of the parts' dims, where the dataset names those of the column."""
        return {
            name: dim_names[columns.key][columns.start : columns.stop]
            for name, columns in self.parts.items()
            if len(dim_names.get(columns.key, ())) >= columns.stop
        }


def read_modality(root: StoragePath) -> Modality:
    """Reads meta/modality.json; nothing where there is none. Raises FailedWork where it is malformed."""
    path = root / "meta/modality.json"
    if not path.exists():
        return Modality()
    content = read_metadata_json(path)
    parts, cameras = {}, {}
    for side, usual in _USUAL.items():
        for name, spec in _entries(path, content, side).items():
            start, stop = spec.get("start"), spec.get("end")
            if not isinstance(start, int) or not isinstance(stop, int) or not 0 <= start < stop:
                raise FailedWork(f"{path}: {side}.{name}: expected start below end, found {start!r} and {stop!r}")
            parts[f"{side}.{name}"] = Columns(key=str(spec.get("original_key") or usual), start=start, stop=stop)
    for name, spec in _entries(path, content, "video").items():
        cameras[f"video.{name}"] = str(spec.get("original_key") or f"observation.images.{name}")
    return Modality(parts=parts, cameras=cameras)


def _entries(path: StoragePath, content: Mapping[str, object], side: str) -> Mapping[str, Mapping[str, object]]:
    entries = content.get(side, {})
    if not isinstance(entries, dict) or not all(isinstance(spec, dict) for spec in entries.values()):
        raise FailedWork(f"{path}: {side}: expected names with start and end, found {entries!r:.80}")
    return entries
