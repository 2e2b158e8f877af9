"""The plan of a conversion: which episode goes to which shard, decided by content before any work begins."""

import hashlib
import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import resources

from pipelines.contract.episode import Reference
from pipelines.contract.errors import FailedWork
from pipelines.contract.native import EpisodeLocation, Found, Reject
from pipelines.mapping.adapters import Adapter
from pipelines.storage.files import write_atomically
from pipelines.storage.mirror import DEFAULT_KEPT_GB
from pipelines.storage.paths import StoragePath, as_storage_path

WORK = ".work"
# Episodes of one shard, if nobody says how many shards; and the fewest shards, so that several workers have work.
EPISODES_PER_SHARD = 64
FEWEST_SHARDS = 4
# The files whose content decides what a shard holds.
_CODE = {
    "pipelines.contract": ("embodiments.py", "episode.py", "frames.py", "images.py", "slots.py"),
    "pipelines": ("embodiments.yaml",),
    "pipelines.conversion": ("plan.py", "shard_work.py"),
    "pipelines.mapping": ("adapters.py", "dim_names.py", "forms.py", "to_slots.py", "validate.py"),
    "pipelines.shards": (
        "example_wire.py",
        "record.py",
        "schema.py",
        "sidecar.py",
        "statistics.py",
        "summaries.py",
        "tfrecord.py",
        "writer.py",
    ),
    "pipelines.sources": (
        "alignment.py",
        "aloha.py",
        "bridge.py",
        "dp.py",
        "droid.py",
        "hdf5.py",
        "lerobot.py",
        "restricted_pickle.py",
        "rlds.py",
        "robomimic.py",
        "video.py",
        "zarr.py",
    ),
    "pipelines.segments": ("motion.py", "phrases.py", "propose.py"),
}


@dataclass(frozen=True, kw_only=True, order=True)
class ShardId:
    """Shard number `shard` of `n_shards` of a split."""

    split: str
    shard: int
    n_shards: int

    @property
    def file_stem(self) -> str:
        return f"{self.split}-{self.shard:05d}-of-{self.n_shards:05d}"


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a worker must know to convert any shard; small, since it travels with every bundle.

    directory: the dataset's version folder. robot, task: replace what the source says, if not empty.
    appended_to, fixed_cameras: the version that this one adds to, and its cameras, which then are this one's too.
    input_cache_gb: what a worker process keeps of an input in an object store; changes no byte of the output.
    """

    directory: str
    name: str
    version: str
    adapter: Adapter
    robot: str = ""
    task: str = ""
    has_frozen_statistics: bool = False
    appended_to: str = ""
    fixed_cameras: tuple[str, ...] = ()
    input_cache_gb: float = DEFAULT_KEPT_GB
    options_hash: str = ""

    @property
    def place(self) -> StoragePath:
        """The dataset's version folder."""
        return as_storage_path(self.directory)

    @property
    def work(self) -> StoragePath:
        """Where an unfinished conversion keeps its plan and results."""
        return self.place / WORK

    @property
    def frozen_path(self) -> StoragePath:
        """Statistics that were given instead of measured ones."""
        return self.work / "frozen_statistics.json"

    @property
    def converter(self) -> str:
        return f"embodimix {importlib.metadata.version('embodimix')}"


@dataclass(frozen=True, kw_only=True)
class ConversionPlan:
    """Every episode found, by shard and in the order of its records, and what the scan could not use."""

    shards: Mapping[ShardId, tuple[EpisodeLocation, ...]]
    rejects: tuple[Reject, ...]


def make_plan(found: Found, n_shards: int | None, val_fraction: float, splits: Sequence[str]) -> ConversionPlan:
    """Assigns every episode to a shard by the hash of its key, so the plan does not depend on the order found.

    n_shards: of the largest split; smaller splits get shards in proportion. val_fraction: the share of `train` that
    moves to `val`, by hash. splits: the splits to keep; all if empty. Raises FailedWork when nothing is left.
    """
    episodes = [_with_split(located, val_fraction) for located in found.episodes]
    kept = [located for located in episodes if not splits or located.reference.split in splits]
    rejects = tuple(reject for reject in found.rejects if not splits or reject.split in splits)
    if not kept:
        there = sorted({located.reference.split for located in episodes})
        lost = f"; {len(rejects)} could not be read, the first: {rejects[0].detail}" if rejects else ""
        raise FailedWork(f"expected episodes to convert, found none (splits found: {', '.join(there) or 'none'}){lost}")
    by_split: dict[str, list[EpisodeLocation]] = {}
    for located in sorted(kept, key=_rank):
        by_split.setdefault(located.reference.split, []).append(located)
    largest = max(len(group) for group in by_split.values())
    most = n_shards or max(FEWEST_SHARDS, -(-largest // EPISODES_PER_SHARD))
    shards: dict[ShardId, tuple[EpisodeLocation, ...]] = {}
    for split, group in sorted(by_split.items()):
        n = max(1, min(len(group), round(most * len(group) / largest)))
        for i in range(n):
            part = group[i * len(group) // n : (i + 1) * len(group) // n]
            shards[ShardId(split=split, shard=i, n_shards=n)] = tuple(part)
    return ConversionPlan(shards=shards, rejects=rejects)


def options_hash(job: Job, plan: ConversionPlan, statistics: bytes = b"") -> str:
    """Returns 16 hex digits that change whenever a shard's bytes could: options, adapter, input, code, statistics."""
    digest = hashlib.sha256()
    options = asdict(job) | {"directory": "", "options_hash": "", "input_cache_gb": 0}
    digest.update(json.dumps(options, sort_keys=True, default=str).encode())
    for shard, episodes in sorted(plan.shards.items()):
        digest.update(json.dumps([asdict(shard), [asdict(located) for located in episodes]], sort_keys=True).encode())
    digest.update(hashlib.sha256(statistics).digest())
    digest.update(code_hash().encode())
    return digest.hexdigest()[:16]


def code_hash() -> str:
    """Returns the sha256 of the source files that decide what a shard holds."""
    digest = hashlib.sha256()
    for package, names in sorted(_CODE.items()):
        for name in names:
            digest.update(resources.files(package).joinpath(name).read_bytes())
    return digest.hexdigest()


def save_plan(job: Job, plan: ConversionPlan) -> None:
    """Writes one file of references per shard, which workers read, and last the plan's hash."""
    for shard, episodes in plan.shards.items():
        content = json.dumps([asdict(located) for located in episodes])
        write_atomically(_references_path(job, shard), content.encode())
    write_atomically(job.work / "plan.json", json.dumps({"options_hash": job.options_hash}).encode())


def is_saved(job: Job) -> bool:
    """Says whether this very plan was saved by an earlier run."""
    path = job.work / "plan.json"
    return path.exists() and json.loads(path.read_text())["options_hash"] == job.options_hash


def load_references(job: Job, shard: ShardId) -> list[EpisodeLocation]:
    """Reads the episodes of one shard, in the order of its records."""
    content = json.loads(_references_path(job, shard).read_text())
    return [
        EpisodeLocation(reference=Reference(**item["reference"]), place=tuple(item["place"]), group=item["group"])
        for item in content
    ]


def count_episodes(plan: ConversionPlan) -> int:
    """Returns the number of episodes planned."""
    return sum(len(episodes) for episodes in plan.shards.values())


def _references_path(job: Job, shard: ShardId) -> StoragePath:
    return job.work / "references" / f"{shard.file_stem}.json"


def _rank(located: EpisodeLocation) -> tuple[str, tuple[int, ...], str]:
    """Orders by the hash of the key; a group's episodes stay together, in their order."""
    reference = located.reference
    named = located.group or reference.key
    digest = hashlib.sha256(f"{reference.split}\0{named}".encode()).hexdigest()
    return digest, located.place if located.group else (), reference.key


def _with_split(located: EpisodeLocation, val_fraction: float) -> EpisodeLocation:
    """Moves a share of `train` to `val`, by the hash of the key alone."""
    reference = located.reference
    if not val_fraction or reference.split != "train":
        return located
    place = int(hashlib.sha256(f"val\0{reference.key}".encode()).hexdigest()[:13], 16) / 16**13
    if place >= val_fraction:
        return located
    return replace(located, reference=replace(reference, split="val"))
