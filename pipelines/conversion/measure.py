"""The first pass over a shard: statistics and cameras of its episodes, without decoding a picture."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace

import numpy as np

from pipelines.contract.episode import Episode
from pipelines.contract.errors import FailedWork, nearest
from pipelines.contract.layouts import get_layout
from pipelines.contract.native import UNREADABLE, EpisodeLocation, Rejected
from pipelines.contract.slots import CAMERAS, LAYOUT, layout_of
from pipelines.conversion.plan import Job, load_references
from pipelines.conversion.read_episode import episodes_at_hand, read_episode, reader_of
from pipelines.mapping.to_slots import name_cameras
from pipelines.shards.sidecar import ShardId
from pipelines.shards.statistics import (
    NormStatistics,
    load_statistics,
    merge_statistics,
    save_statistics,
    summarize_episode,
)
from pipelines.storage.files import write_atomically
from pipelines.storage.retry import with_retries


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What the first pass learns without decoding a picture.

    statistics: by norm key. cameras: episodes per camera of the dataset. names: hashes of the names that the source
    itself gives its episodes; repeated: those of more than one episode, which therefore name none.
    """

    statistics: Mapping[str, NormStatistics]
    cameras: Mapping[str, int]
    n_episodes: int = 0
    names: frozenset[int] = frozenset()
    repeated: frozenset[int] = frozenset()

    @property
    def layout(self) -> str:
        """The layout of all vectors; see `check_layout`."""
        return next((layout_of(key) for key in self.statistics), LAYOUT)

    @property
    def dataset_cameras(self) -> tuple[str, ...]:
        return tuple(camera for camera in CAMERAS if camera in self.cameras)


def hash_name(name: str) -> int:
    """Returns 64 bits of a name: the names of a million episodes would not fit a message of Beam's."""
    return int.from_bytes(hashlib.sha256(name.encode("utf-8", errors="surrogatepass")).digest()[:8], "big")


def name_uniquely(episode: Episode, located: EpisodeLocation, repeated: Set[int]) -> Episode:
    """Returns the episode under a key that no other of the input has.

    Its own name where the source gives one, with the record it stands in where several have that name.
    """
    reference = episode.reference
    if reference.key == located.reference.key or hash_name(reference.key) not in repeated:
        return episode
    return replace(episode, reference=replace(reference, key=f"{reference.key}#{located.reference.key}"))


def measure_shard(job: Job, shard: ShardId) -> Measured:
    """Reads the vectors of a shard's episodes and returns their statistics; rejects are counted by the second pass.

    A read that fails temporarily makes the shard start over. Raises FailedWork when it keeps failing.
    """
    return with_retries(lambda: _measure_shard(job, shard), f"measuring {shard.file_stem} of {job.directory}")


def _measure_shard(job: Job, shard: ShardId) -> Measured:
    vectors, n_episodes = PendingVectors(), 0
    cameras: Counter[str] = Counter()
    names: Counter[int] = Counter()
    for located in episodes_at_hand(job, load_references(job, shard), pictures=False):
        try:
            episode = read_episode(job, located, CAMERAS)
        except Rejected:
            continue
        vectors.add(episode)
        n_episodes += 1
        cameras.update(list(episode.images))
        if episode.reference.key != located.reference.key:
            names[hash_name(episode.reference.key)] += 1
    return Measured(
        statistics=vectors.summarize(),
        cameras=dict(cameras),
        n_episodes=n_episodes,
        names=frozenset(names),
        repeated=frozenset(name for name, n in names.items() if n > 1),
    )


class PendingVectors:
    """Vectors of episodes that are summarized together: a summary costs more by its calls than by its steps.

    Summaries merge bit for bit, so how many go together changes nothing.
    """

    def __init__(self, most_steps: int = 1 << 15) -> None:
        self._most_steps = most_steps
        self._waiting: dict[tuple[object, ...], list[Episode]] = {}
        self._n_steps = 0
        self._statistics: dict[str, NormStatistics] = {}

    def add(self, episode: Episode) -> None:
        """Takes the vectors of one more episode."""
        masks = episode.state_mask.tobytes(), episode.action_mask.tobytes()
        # Only episodes whose slots mean the same are put together; rate is in the key, since deltas at other rates are
        # pooled apart.
        key = episode.norm_key, *masks, episode.control_hz, *sorted(episode.parts.items())
        self._waiting.setdefault(key, []).append(replace(episode, images={}))
        self._n_steps += episode.n_steps
        if self._n_steps >= self._most_steps:
            self.summarize()

    def summarize(self) -> dict[str, NormStatistics]:
        """Returns the statistics of all that was added, by norm key."""
        parts: list[Mapping[str, NormStatistics]] = [self._statistics]
        for episodes in self._waiting.values():
            one = episodes[0]
            state = np.concatenate([episode.state for episode in episodes])
            action = np.concatenate([episode.action for episode in episodes])
            together = summarize_episode(
                one.norm_key, state, action, one.state_mask, one.action_mask, one.parts, one.control_hz
            )
            parts.append({one.norm_key: replace(together, n_episodes=len(episodes))})
        self._statistics = merge_statistics(parts)
        self._waiting, self._n_steps = {}, 0
        return self._statistics


def merge_measured(parts: Sequence[Measured]) -> Measured:
    """Merges the measurements of several shards; the order does not matter."""
    cameras: Counter[str] = Counter()
    names: set[int] = set()
    repeated: set[int] = set()
    for part in parts:
        cameras.update(part.cameras)
        # A name is repeated if any two shards have it, in whatever order Beam merges them.
        repeated |= part.repeated | (part.names & names)
        names |= part.names
    return Measured(
        statistics=merge_statistics([part.statistics for part in parts]),
        cameras=dict(sorted(cameras.items())),
        n_episodes=sum(part.n_episodes for part in parts),
        names=frozenset(names),
        repeated=frozenset(repeated),
    )


def check_cameras(measured: Measured, job: Job, shard: ShardId) -> Measured:
    """Passes the measurements on. Raises FailedWork when no episode has a camera that the adapter demands.

    shard: any one, of which an episode says in the message which cameras there are.
    """
    for slot, native in job.adapter.cameras.items():
        # Once for the whole dataset: one episode without a camera is masked, but a camera that no episode has is a
        # mistake of the entry, which would train on black pictures.
        if measured.n_episodes and slot not in measured.cameras and slot not in job.fixed_cameras:
            camera, n = " or ".join(native), measured.n_episodes
            raise FailedWork(
                f"adapter {job.adapter.name} expects camera {camera} for {slot}, but none of {n} episodes has it; "
                f"found {_cameras_there(job, shard)}. Correct the adapter's cameras (or --camera {slot}=NAME), or list "
                "it under optional_cameras"
            )
    return measured


def _cameras_there(job: Job, shard: ShardId) -> str:
    """The native cameras of the first episode of a shard that can be read."""
    for located in episodes_at_hand(job, load_references(job, shard), pictures=False):
        try:
            return name_cameras(reader_of(job.adapter.format).read(located, job.adapter))
        except (Rejected, *UNREADABLE):
            continue
    return "none that can be read"


def check_layout(statistics: Mapping[str, NormStatistics]) -> None:
    """Raises FailedWork unless the statistics are of one layout, and as wide as it is."""
    by_layout: dict[str, list[str]] = {}
    for key, value in statistics.items():
        layout = layout_of(key)
        by_layout.setdefault(layout, []).append(key)
        if value.n_slots != (expected := get_layout(layout).n_slots):
            raise FailedWork(
                f"statistics of {key}: expected {expected} slots, found {value.n_slots}; give a file of this layout"
            )
    if len(by_layout) > 1:
        listed = "; ".join(f"{layout}: {', '.join(keys)}" for layout, keys in sorted(by_layout.items()))
        raise FailedWork(
            f"expected vectors of one layout in a dataset, found {listed}. Convert the robots of each layout into a "
            "dataset of their own; a mixture draws both"
        )


def settle_measured(measured: Measured, job: Job) -> Measured:
    """Saves the measurements for a rerun, with the statistics that were given instead of measured ones, if any.

    An appending job keeps the statistics of the version it adds to, which its shards are normalized with; robots that
    are new bring their own. Raises FailedWork when given statistics lack a norm key, or the new episodes have a camera
    that the version they are added to lacks.
    """
    if job.has_frozen_statistics:
        frozen = load_statistics(job.frozen_path)
        lacking = sorted(set(measured.statistics) - set(frozen))
        if lacking and not job.appended_to:
            raise FailedWork(f"--statistics: expected norm key {lacking[0]}. {nearest(lacking[0], frozen)}")
        keys = frozen if job.appended_to else measured.statistics
        merged = {key: frozen[key] for key in keys if key in frozen}
        measured = replace(measured, statistics=merged | {key: measured.statistics[key] for key in lacking})
    check_layout(measured.statistics)
    if job.fixed_cameras:
        if extra := [camera for camera in measured.dataset_cameras if camera not in job.fixed_cameras]:
            raise FailedWork(f"--append: expected cameras {', '.join(job.fixed_cameras)}, found {extra[0]} too")
        counts = {camera: measured.cameras.get(camera, 0) for camera in job.fixed_cameras}
        measured = replace(measured, cameras=counts)
    save_statistics(job.work / "statistics.json", measured.statistics)
    measured = replace(measured, names=frozenset())
    numbers = {"cameras": dict(measured.cameras), "n_episodes": measured.n_episodes}
    numbers |= {"repeated": sorted(measured.repeated)}
    write_atomically(job.work / "measured.json", json.dumps(numbers).encode())
    return measured


def load_measured(job: Job) -> Measured | None:
    """Returns the measurements that an earlier run of this job saved, if it came so far."""
    path = job.work / "measured.json"
    if not path.exists():
        return None
    numbers = json.loads(path.read_text())
    numbers["repeated"] = frozenset(numbers.get("repeated", ()))
    return Measured(statistics=load_statistics(job.work / "statistics.json"), **numbers)
