"""The plan of a conversion: which episode goes to which shard, decided by content before any work begins."""

import hashlib
import importlib.metadata
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields, replace
from typing import Any

from pipelines.contract.embodiments import Robots
from pipelines.contract.episode import Reference
from pipelines.contract.errors import FailedWork
from pipelines.contract.native import EpisodeLocation, Found, Reject
from pipelines.conversion.code_hash import code_hash
from pipelines.mapping.adapters import Adapter
from pipelines.shards.manifest import InputRecord
from pipelines.shards.sidecar import ShardId, is_split_name
from pipelines.storage.files import write_atomically
from pipelines.storage.mirror import DEFAULT_KEPT_GB
from pipelines.storage.paths import StoragePath, as_storage_path

WORK = ".work"
# Episodes of one shard where the user states no number of shards; the fewest shards, so that several workers have work.
EPISODES_PER_SHARD = 64
FEWEST_SHARDS = 4
# Keys of an entry's parts and cameras that were added when datasets had been made, with their defaults.
_LATER_KEYS: Mapping[str, Any] = {"units": (), "when": "always", "crop": ()}


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a worker must know to convert any shard; small, since it travels with every bundle.

    directory: the dataset's version folder. robot, task: replace what the source says, if not empty.
    robots: the entries of the robots that episodes may be of; workers look none up.
    partial: the input lacks files, and is taken so on purpose.
    appended_to, fixed_cameras: the version that this one adds to, and its cameras, which then are this one's too.
    trust_images: pictures that are copied are not decoded before.
    input_cache_gb: what a worker process keeps of an input in an object store; changes no byte of the output.
    episodes_sha256, texts_sha256: of the lists from outside that say which episodes are kept and what they are called;
    "" for none. Workers read them in the work folder.
    """

    directory: str
    name: str
    version: str
    adapter: Adapter
    robot: str = ""
    robots: Robots = Robots()
    task: str = ""
    has_frozen_statistics: bool = False
    appended_to: str = ""
    fixed_cameras: tuple[str, ...] = ()
    trust_images: bool = False
    input_cache_gb: float = DEFAULT_KEPT_GB
    partial: bool = False
    episodes_sha256: str = ""
    texts_sha256: str = ""
    options_hash: str = ""

    @property
    def folder(self) -> StoragePath:
        """The dataset's version folder."""
        return as_storage_path(self.directory)

    @property
    def work(self) -> StoragePath:
        """Where an unfinished conversion keeps its plan and results."""
        return self.folder / WORK

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
    moves to `val`, by hash. splits: the splits to keep; all if empty. Episodes of a split that no file can be named
    after are rejects. Raises FailedWork when nothing is left.
    """
    named = [located for located in found.episodes if is_split_name(located.reference.split)]
    unnamed = [_reject_split(located) for located in found.episodes if not is_split_name(located.reference.split)]
    episodes = [_with_split(located, val_fraction) for located in named]
    kept = [located for located in episodes if not splits or located.reference.split in splits]
    rejects = tuple(reject for reject in (*found.rejects, *unnamed) if not splits or reject.split in splits)
    if not kept:
        there = sorted({located.reference.split for located in episodes})
        lost = f"; {len(rejects)} could not be read, the first: {rejects[0].detail}" if rejects else ""
        raise FailedWork(f"expected episodes to convert, found none (splits found: {', '.join(there) or 'none'}){lost}")
    by_split: dict[str, list[EpisodeLocation]] = {}
    # By hash, so that neither the order of a listing nor that of recording decides what lies together in a shard.
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
    """Returns 16 hex digits that change whenever options, adapter entry, input or given statistics do.

    The code is left out: a finished dataset stays known under any version of it (see `code_hash`). So are robots, whose
    entries the manifest holds, settings that still have their default, and an entry's title and note, which change no
    byte of a shard.
    """
    digest = hashlib.sha256()
    options = _stated(job, leave_out=("directory", "options_hash", "input_cache_gb", "robots"))
    options["adapter"] = _without_later_keys(_stated(job.adapter, leave_out=("title", "note")))
    digest.update(json.dumps(options, sort_keys=True, default=str).encode())
    for shard, episodes in sorted(plan.shards.items()):
        digest.update(json.dumps([asdict(shard), [asdict(located) for located in episodes]], sort_keys=True).encode())
    digest.update(hashlib.sha256(statistics).digest())
    return digest.hexdigest()[:16]


def _without_later_keys(adapter: Mapping[str, Any]) -> dict[str, Any]:
    """Leaves out the keys of parts and cameras that entries did not have before, where this one does not use them."""
    nested = {
        name: {
            key: {k: v for k, v in record.items() if k not in _LATER_KEYS or v != _LATER_KEYS[k]}
            for key, record in adapter[name].items()
        }
        for name in ("state", "action", "camera_forms")
        if name in adapter
    }
    return {**adapter, **nested}


def _stated(record: Any, leave_out: Collection[str]) -> dict[str, Any]:
    """Returns the fields of a dataclass that differ from their defaults, so that a new setting changes no old hash."""
    plain = asdict(record)
    stated = {}
    for field in fields(record):
        value = getattr(record, field.name)
        default = field.default_factory() if field.default_factory is not MISSING else field.default
        if field.name not in leave_out and value != default:
            stated[field.name] = plain[field.name]
    return stated


@dataclass(frozen=True, kw_only=True)
class PlanOrigin:
    """What an unfinished conversion was made from; `input` shows whether the files are still the same."""

    options_hash: str
    code_hash: str
    input: InputRecord | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def save_plan(job: Job, plan: ConversionPlan, source: InputRecord | None = None) -> None:
    """Writes one file of references per shard, which workers read, and last what the plan was made from."""
    for shard, episodes in plan.shards.items():
        content = json.dumps([asdict(located) for located in episodes])
        write_atomically(_references_path(job, shard), content.encode())
    origin = replace(_origin(job), input=source)
    write_atomically(job.work / "plan.json", json.dumps(origin.to_json()).encode())


def load_origin(job: Job) -> PlanOrigin | None:
    """Returns what an unfinished conversion in this folder was made from, if there is one."""
    path = job.work / "plan.json"
    if not path.exists():
        return None
    content = json.loads(path.read_text())
    known = content.get("input")
    return PlanOrigin(**{**content, "input": InputRecord(**known) if known else None})


def is_saved(job: Job) -> bool:
    """Says whether this very plan was saved by an earlier run of the same code."""
    saved = load_origin(job)
    return saved is not None and replace(saved, input=None) == _origin(job)


def _origin(job: Job) -> PlanOrigin:
    # Shards that other code wrote are not mixed with this code's: an unfinished conversion starts over.
    return PlanOrigin(options_hash=job.options_hash, code_hash=code_hash(job.adapter, job.robots))


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
    # Episodes that share a file stay together, else every shard would fetch and read that file again.
    return digest, located.place if located.group else (), reference.key


def _reject_split(located: EpisodeLocation) -> Reject:
    reference = located.reference
    return Reject(
        source_uri=reference.uri,
        source_key=reference.key,
        split=reference.split[:64],
        level="episode",
        start=0,
        end=0,
        reason="bad_name",
        detail=f"{reference.uri}: split: expected a name of letters, digits, _ and -, found {reference.split[:80]!r}",
    )


def _with_split(located: EpisodeLocation, val_fraction: float) -> EpisodeLocation:
    """Moves a share of `train` to `val`, by the hash of the key alone."""
    reference = located.reference
    if not val_fraction or reference.split != "train":
        return located
    # By the key alone, so that an episode stays on its side when others are added.
    share = int(hashlib.sha256(f"val\0{reference.key}".encode()).hexdigest()[:13], 16) / 16**13
    if share >= val_fraction:
        return located
    return replace(located, reference=replace(reference, split="val"))
