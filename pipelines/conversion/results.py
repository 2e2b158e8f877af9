"""The result of each shard, kept in the work folder until the dataset is complete."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pipelines.contract.native import Reject
from pipelines.conversion.plan import Job
from pipelines.shards.sidecar import ShardId
from pipelines.shards.writer import finished_shard
from pipelines.storage.paths import StoragePath


@dataclass(frozen=True, kw_only=True)
class KeptEpisode:
    """A record that was written: where it came from, its length, the cameras it lacks, and notes on its quality.

    source_key: the name that the source itself gives the episode, if it does. record_key: the name that the scan of
    the input gave it, by file and number, which decides its shard and by which an append knows it. inferred:
    what the source did not state and its reader concluded or repaired, a sentence each. episode_id: the record's; ""
    in results of versions that did not keep it.
    """

    source_uri: str
    source_key: str
    record_key: str
    place: tuple[int, ...]
    n_steps: int
    missing_cameras: tuple[str, ...]
    notes: Mapping[str, float]
    inferred: tuple[str, ...] = ()
    episode_id: str = ""


@dataclass(frozen=True, kw_only=True)
class ShardResult:
    """What became of every episode planned for one shard; kept beside the work until the dataset is whole."""

    shard: ShardId
    options_hash: str
    n_episodes: int
    n_steps: int
    n_bytes: int
    sha256: str
    kept: tuple[KeptEpisode, ...]
    rejects: tuple[Reject, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "ShardResult":
        """Raises TypeError or KeyError where the content is no result."""
        kept = tuple(
            KeptEpisode(**item | {name: tuple(item[name]) for name in ("place", "missing_cameras", "inferred")})
            for item in content["kept"]
        )
        rejects = tuple(Reject(**item) for item in content["rejects"])
        return cls(**{**content, "shard": ShardId(**content["shard"]), "kept": kept, "rejects": rejects})


def result_path(job: Job, shard: ShardId) -> StoragePath:
    """Where a shard's result lies while the dataset is not whole."""
    return job.work / "results" / f"{shard.file_stem}.json"


def load_result(job: Job, shard: ShardId) -> ShardResult | None:
    """Returns the result of a shard that is there, whole, and of this very job; None if it must be done (again)."""
    path = result_path(job, shard)
    if not path.exists():
        return None
    result = ShardResult.from_json(json.loads(path.read_text()))
    summary = finished_shard(
        job.folder,
        name=job.name,
        split=shard.split,
        shard=shard.shard,
        n_shards=shard.n_shards,
        options_hash=job.options_hash,
    )
    return result if summary is not None and result.options_hash == job.options_hash else None
