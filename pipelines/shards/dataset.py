"""A stored dataset as readers see it: complete, with its splits, shards, sidecars, cameras and statistics."""

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from pipelines.contract.droid import slots_of
from pipelines.contract.errors import FailedWork, MissingPath, describe_missing
from pipelines.contract.slots import LAYOUT, layout_of
from pipelines.shards.sidecar import ShardName, read_fingerprint
from pipelines.shards.statistics import NormStatistics, load_statistics
from pipelines.storage.paths import StoragePath, as_storage_path

INFO_FILE = "dataset_info.json"
_TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
_COPY_AGAIN = "Copy it again from where it was whole, or run the same convert command again."


@dataclass(frozen=True, kw_only=True)
class ShardPaths:
    """One shard, its sidecar, and the number of its episodes."""

    shard: StoragePath
    sidecar: StoragePath
    n_episodes: int


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A complete dataset. cameras: the picture features of a step. statistics: by norm key, empty if it has none.

    is_droid: whether its records hold DROID's own features, and the pictures under DROID's names.
    """

    path: StoragePath
    name: str
    version: str
    cameras: tuple[str, ...]
    splits: dict[str, tuple[ShardPaths, ...]]
    statistics: dict[str, NormStatistics]
    is_droid: bool = False

    @classmethod
    def open(cls, path: str | StoragePath) -> "Dataset":
        """Opens a dataset and checks that every shard and sidecar is there and has the size it was written with.

        Raises FailedWork that says what is missing or changed, and what to do.
        """
        path = as_storage_path(path)
        info, features = read_info(path)
        splits = {split["name"]: _shards(path, info, split) for split in info["splits"]}
        for files in (f for shards in splits.values() for f in shards):
            _check_size(files)
        statistics = path / "statistics.json"
        return cls(
            path=path,
            name=info["name"],
            version=info["version"],
            cameras=picture_features(features),
            splits=splits,
            statistics=load_statistics(statistics) if statistics.exists() else {},
            is_droid=has_droid_features(features),
        )

    @property
    def layout(self) -> str:
        """The layout of its vectors; the default one where no statistics name one."""
        return next((layout_of(key) for key in self.statistics), LAYOUT)

    @property
    def n_episodes(self) -> int:
        return sum(files.n_episodes for shards in self.splits.values() for files in shards)

    def sidecars(self, split: str) -> tuple[StoragePath, ...]:
        """The sidecars of a split, in the order of its shards."""
        return tuple(files.sidecar for files in self.splits[split])

    def verify_hashes(self) -> None:
        """Reads every shard and compares its sha256 with the sidecar's. Raises FailedWork at the first mismatch."""
        for files in (f for shards in self.splits.values() for f in shards):
            check_hash(files.shard, files.sidecar)


def read_info(path: StoragePath) -> tuple[dict[str, Any], dict[str, Any]]:
    """Reads dataset_info.json and features.json. Raises FailedWork when the folder is no complete dataset."""
    if not path.is_dir():
        # Names beside it help on a disk; a bucket would have to be listed for them.
        beside = f"; {describe_missing(path)}" if isinstance(path, Path) else ""
        raise MissingPath(f"{path}: expected the folder of a dataset, <root>/<name>/<version>, found none{beside}")
    if not (path / INFO_FILE).exists():
        if any(path.glob("*.tfrecord-*")) or (path / "index").exists() or (path / "manifest.json").exists():
            raise FailedWork(f"{path}: the conversion is not finished; run the same convert command again to finish it")
        versions = sorted(p.parent.name for p in path.glob(f"*/{INFO_FILE}"))
        hint = f"Give one of its versions: {', '.join(versions)}." if versions else "Give <root>/<name>/<version>."
        raise MissingPath(f"{path}: expected a dataset, found no {INFO_FILE}. {hint}")
    info, features = _read_json(path / INFO_FILE), _read_json(path / "features.json")
    if info.get("fileFormat", "tfrecord") != "tfrecord":
        raise FailedWork(f"{path}: expected TFRecord shards, found {info['fileFormat']!r}")
    if fault := _find_info_fault(info):
        raise FailedWork(f"{path / INFO_FILE}: expected {fault}. {_COPY_AGAIN}")
    return info, features


def _find_info_fault(info: dict[str, Any]) -> str | None:
    """What a dataset_info.json lacks that readers need."""
    for name in ("name", "version"):
        if not re.fullmatch(r"\w[\w.]*", str(info.get(name, ""))):
            return f"a {name}, found {info.get(name)!r}"
    splits = info.get("splits")
    if not isinstance(splits, list) or not all(isinstance(split, dict) for split in splits):
        return f"a list of splits, found {splits!r}"
    for split in splits:
        lengths = split.get("shardLengths", [])
        is_sound = isinstance(lengths, list) and all(str(length).isdecimal() for length in lengths)
        if not re.fullmatch(r"\w[\w-]*", str(split.get("name", ""))) or not is_sound:
            return f"a split with a name and shardLengths, found {split!r}"
    return None


def check_hash(shard: StoragePath, sidecar: StoragePath, advice: str = _COPY_AGAIN) -> None:
    """Reads a shard and compares its sha256 with its sidecar's. Raises FailedWork, which ends with `advice`."""
    with shard.open("rb") as file:
        found = sha256_of(file)
    expected = read_fingerprint(sidecar).sha256
    if found != expected:
        raise FailedWork(f"{shard}: expected sha256 {expected}, found {found}. {advice}")


def sha256_of(file: IO[bytes]) -> str:
    """The hex digest of what is left to read of a file."""
    digest = hashlib.sha256()
    while chunk := file.read(1 << 20):
        digest.update(chunk)
    return digest.hexdigest()


def picture_features(features: dict[str, Any]) -> tuple[str, ...]:
    """The names of the JPEG or PNG features under `steps/observation`, sorted, from a features.json.

    Of a conversion with DROID's names, the camera slots that they stand for.
    """
    observation = _down(step_features(features), "observation", "featuresDict", "features")
    names = sorted(name for name, feature in observation.items() if "image" in feature)
    return slots_of(names) if has_droid_features(features) else tuple(names)


def has_droid_features(features: dict[str, Any]) -> bool:
    """Whether records are of this package and hold DROID's own features, too."""
    return {"action_physical", "action_dict"} <= set(step_features(features))


def step_features(features: dict[str, Any]) -> dict[str, Any]:
    """The features of a step from a features.json. Raises FailedWork when the dataset is not in RLDS form."""
    steps = _down(features, "featuresDict", "features", "steps", "sequence", "feature", "featuresDict", "features")
    if not steps:
        raise FailedWork("features.json: expected RLDS episodes with a feature 'steps', found none")
    return steps


def _down(content: Any, *keys: str) -> dict[str, Any]:
    """What lies at nested keys; {} where there is nothing of the kind."""
    for key in keys:
        content = content.get(key) if isinstance(content, dict) else None
    return content if isinstance(content, dict) else {}


def split_shards(info: dict[str, Any], split: dict[str, Any]) -> list[tuple[ShardName, int]]:
    """The names and numbers of episodes of a split's shards, from a dataset_info.json."""
    template = split.get("filepathTemplate", _TEMPLATE)
    if template != _TEMPLATE:
        raise FailedWork(f"{INFO_FILE}: expected files named {_TEMPLATE!r}, found {template!r}")
    lengths = [int(length) for length in split.get("shardLengths", [])]
    return [
        (ShardName(name=info["name"], split=split["name"], shard=i, n_shards=len(lengths)), length)
        for i, length in enumerate(lengths)
    ]


def _shards(path: StoragePath, info: dict[str, Any], split: dict[str, Any]) -> tuple[ShardPaths, ...]:
    return tuple(
        ShardPaths(shard=name.shard_path(path), sidecar=name.sidecar_path(path), n_episodes=length)
        for name, length in split_shards(info, split)
    )


def _check_size(files: ShardPaths) -> None:
    if not files.shard.exists():
        raise FailedWork(f"{files.shard}: expected the shard, found no such file. {_COPY_AGAIN}")
    if not files.sidecar.exists():
        raise FailedWork(
            f"{files.sidecar}: expected the shard's sidecar, found no such file. "
            f"Run `embodimix index {files.shard.parent}` to build it from the shards."
        )
    expected, found = read_fingerprint(files.sidecar).size, files.shard.stat().st_size
    if expected != found:
        raise FailedWork(f"{files.shard}: expected {expected} bytes, found {found}. {_COPY_AGAIN}")


def _read_json(path: StoragePath) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise FailedWork(f"{path}: expected a JSON file of TFDS metadata, found {error}. {_COPY_AGAIN}") from error
    if not isinstance(content, dict):
        raise FailedWork(f"{path}: expected a JSON object, found {type(content).__name__}")
    return content
