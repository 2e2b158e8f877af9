"""What a worker does with one shard: measure its vectors, read, check, annotate and write its episodes."""

import hashlib
import importlib
import json
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import ModuleType

import numpy as np

from pipelines.contract.embodiments import Embodiment, get_embodiment
from pipelines.contract.episode import Episode, Reference
from pipelines.contract.errors import FailedWork, UsageError, nearest
from pipelines.contract.images import codec_seconds
from pipelines.contract.native import EpisodeLocation, NativeEpisode, Reject, Rejected
from pipelines.contract.slots import CAMERAS
from pipelines.conversion.cancelling import check_wanted
from pipelines.conversion.plan import Job, ShardId, load_references
from pipelines.mapping.adapters import FROM_LOG
from pipelines.mapping.to_slots import to_episode
from pipelines.mapping.validate import find_fault
from pipelines.segments.propose import idle_in, motion_of, propose_segments
from pipelines.shards.statistics import (
    NormStatistics,
    load_statistics,
    merge_statistics,
    save_statistics,
    summarize_episode,
)
from pipelines.shards.writer import finished_shard, write_shard
from pipelines.storage.files import write_atomically
from pipelines.storage.mirror import FilesOf, staged, with_urls
from pipelines.storage.paths import StoragePath
from pipelines.storage.retry import transient_cause, with_retries

# What numpy and the file libraries raise on hostile bytes; such an episode is rejected by name, the rest goes on.
UNREADABLE = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)
_BEAT_S = 1.0


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What the first pass learns without looking at a pixel.

    statistics: by norm key. cameras: episodes per camera of the dataset.
    """

    statistics: Mapping[str, NormStatistics]
    cameras: Mapping[str, int]
    n_episodes: int = 0

    @property
    def dataset_cameras(self) -> tuple[str, ...]:
        return tuple(camera for camera in CAMERAS if camera in self.cameras)


@dataclass(frozen=True, kw_only=True)
class KeptEpisode:
    """A record that was written: where it came from, its length, the cameras it lacks, and notes on its quality."""

    source_uri: str
    source_key: str
    place: tuple[int, ...]
    n_steps: int
    missing_cameras: tuple[str, ...]
    notes: Mapping[str, float]


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


def measure_shard(job: Job, shard: ShardId) -> Measured:
    """Reads the vectors of a shard's episodes and returns their statistics; rejects are counted by the second pass.

    A read that fails for a moment makes the shard start over. Raises FailedWork when it keeps failing.
    """
    return with_retries(lambda: _measure_shard(job, shard), f"measuring {shard.file_stem} of {job.directory}")


def _measure_shard(job: Job, shard: ShardId) -> Measured:
    vectors, n_episodes = PendingVectors(), 0
    cameras: Counter[str] = Counter()
    for located in _at_hand(job, load_references(job, shard), pictures=False):
        try:
            episode = read_episode(job, located, CAMERAS)
        except Rejected:
            continue
        vectors.add(episode)
        n_episodes += 1
        cameras.update(list(episode.images))
    return Measured(statistics=vectors.summarize(), cameras=dict(cameras), n_episodes=n_episodes)


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
    for part in parts:
        cameras.update(part.cameras)
    return Measured(
        statistics=merge_statistics([part.statistics for part in parts]),
        cameras=dict(sorted(cameras.items())),
        n_episodes=sum(part.n_episodes for part in parts),
    )


def check_cameras(measured: Measured, job: Job) -> Measured:
    """Passes the measurements on. Raises FailedWork when no episode has a camera that the adapter demands."""
    for slot, native in job.adapter.cameras.items():
        if measured.n_episodes and slot not in measured.cameras and slot not in job.fixed_cameras:
            camera, n = " or ".join(native), measured.n_episodes
            raise FailedWork(
                f"adapter {job.adapter.name} expects camera {camera} for {slot}, but none of {n} episodes has it. "
                "Correct the adapter's cameras, or list it under optional_cameras"
            )
    return measured


def settle_measured(measured: Measured, job: Job) -> Measured:
    """Saves the measurements for a rerun, with the statistics that were given in place of measured ones, if any.

    An appending job keeps the statistics of the version it adds to, which its shards are normalized with; robots that
    are new bring their own. Raises FailedWork when given statistics lack a norm key, or the new episodes have a camera
    that the version they are added to has not.
    """
    if job.has_frozen_statistics:
        frozen = load_statistics(job.frozen_path)
        lacking = sorted(set(measured.statistics) - set(frozen))
        if lacking and not job.appended_to:
            raise FailedWork(f"--statistics: expected norm key {lacking[0]}. {nearest(lacking[0], frozen)}")
        keys = frozen if job.appended_to else measured.statistics
        merged = {key: frozen[key] for key in keys if key in frozen}
        measured = replace(measured, statistics=merged | {key: measured.statistics[key] for key in lacking})
    if job.fixed_cameras:
        if extra := [camera for camera in measured.dataset_cameras if camera not in job.fixed_cameras]:
            raise FailedWork(f"--append: expected cameras {', '.join(job.fixed_cameras)}, found {extra[0]} too")
        counts = {camera: measured.cameras.get(camera, 0) for camera in job.fixed_cameras}
        measured = replace(measured, cameras=counts)
    save_statistics(job.work / "statistics.json", measured.statistics)
    numbers = {"cameras": dict(measured.cameras), "n_episodes": measured.n_episodes}
    write_atomically(job.work / "measured.json", json.dumps(numbers).encode())
    return measured


def load_measured(job: Job) -> Measured | None:
    """Returns the measurements that an earlier run of this job saved, if it came so far."""
    path = job.work / "measured.json"
    if not path.exists():
        return None
    return Measured(statistics=load_statistics(job.work / "statistics.json"), **json.loads(path.read_text()))


def finish_shard(job: Job, shard: ShardId, measured: Measured) -> tuple[ShardResult, dict[str, float]]:
    """Converts a shard, if that is not done yet; returns the seconds that the codecs took and `all` of it, too.

    A cluster that repeats a task hands out its finished shards again.
    """
    started, before = time.monotonic(), codec_seconds()
    result = load_result(job, shard) or convert_shard(job, shard, measured)
    seconds: dict[str, float] = {stage: spent - before[stage] for stage, spent in codec_seconds().items()}
    return result, seconds | {"all": time.monotonic() - started}


def convert_shard(job: Job, shard: ShardId, measured: Measured) -> ShardResult:
    """Reads, checks and writes the episodes of one shard, one at a time, and records what became of each.

    A read that fails for a moment makes the shard start over. Raises FailedWork when it keeps failing.
    """
    return with_retries(lambda: _convert_shard(job, shard, measured), f"{shard.file_stem} of {job.directory}")


def _convert_shard(job: Job, shard: ShardId, measured: Measured) -> ShardResult:
    # Before anything is touched: a dataset that was finished meanwhile has no references any more.
    references = load_references(job, shard)
    rejects: list[Reject] = []
    kept: dict[str, KeptEpisode] = {}
    # Where the first pass kept nothing, an episode is still to be told what is wrong with it, not with the cameras.
    cameras = measured.dataset_cameras or CAMERAS

    def on_reject(reference: Reference, reason: str, detail: str) -> None:
        kept.pop(reference.key, None)
        rejects.append(make_reject(reference, reason, detail))

    def read_all() -> Iterator[Episode]:
        for located in _at_hand(job, references, pictures=True):
            try:
                episode = read_episode(job, located, cameras)
            except Rejected as error:
                on_reject(located.reference, error.reason, error.detail)
                continue
            kept[episode.reference.key] = _describe(episode, located)
            yield annotate(episode)
            if episode.reference.key in kept:
                rejects.extend(_dropped_steps(episode))

    summary = write_shard(
        job.place,
        name=job.name,
        split=shard.split,
        shard=shard.shard,
        n_shards=shard.n_shards,
        episodes=read_all(),
        statistics=measured.statistics,
        cameras=measured.dataset_cameras,
        converter=job.converter,
        options_hash=job.options_hash,
        on_reject=on_reject,
    )
    result = ShardResult(
        shard=shard,
        options_hash=job.options_hash,
        n_episodes=summary.n_episodes,
        n_steps=summary.n_steps,
        n_bytes=summary.n_bytes,
        sha256=summary.sha256,
        kept=tuple(kept.values()),
        rejects=tuple(rejects),
    )
    write_atomically(result_path(job, shard), json.dumps(asdict(result)).encode(), parents=False)
    return result


def _at_hand(job: Job, references: Sequence[EpisodeLocation], *, pictures: bool) -> Iterator[EpisodeLocation]:
    """The episodes one by one, each while its files are on this machine; shows the supervisor that work goes on."""

    def on_wait(moved: bool) -> None:
        check_wanted(job.directory)
        if moved:
            beat(job)

    files_of: FilesOf = reader_of(job.adapter.format).files_of
    for located in staged(references, files_of, pictures=pictures, kept_gb=job.input_cache_gb, on_wait=on_wait):
        check_wanted(job.directory)
        beat(job)
        yield located


def read_episode(job: Job, located: EpisodeLocation, cameras: Sequence[str]) -> Episode:
    """Reads one episode into canonical slots and checks it.

    Raises Rejected for whatever is wrong with it, and OSError where only its disk or store failed for a moment.
    """
    try:
        native = reader_of(job.adapter.format).read(located, job.adapter)
        embodiment = _embodiment_of(job, native)
        episode = to_episode(native, job.adapter, embodiment, cameras, job.task)
    except (Rejected, *UNREADABLE) as error:
        if passing := transient_cause(error):
            raise passing from error
        if isinstance(error, Rejected):
            raise
        raise Rejected("unreadable", f"{located.reference.uri}: {type(error).__name__}: {error}") from error
    if fault := find_fault(episode):
        raise Rejected(*fault)
    return episode


def annotate(episode: Episode) -> Episode:
    """Adds idle flags and proposed segments of about 2 s where the source has none."""
    motion = motion_of(episode)
    episode = replace(episode, is_idle=idle_in(motion) | episode.is_idle)
    return episode if episode.segments else replace(episode, segments=propose_segments(episode, motion=motion))


def result_path(job: Job, shard: ShardId) -> StoragePath:
    """Where a shard's result lies while the dataset is not whole."""
    return job.work / "results" / f"{shard.file_stem}.json"


def load_result(job: Job, shard: ShardId) -> ShardResult | None:
    """Returns the result of a shard that is there, whole, and of this very job; None if it must be done (again)."""
    path = result_path(job, shard)
    if not path.exists():
        return None
    content = json.loads(path.read_text())
    where = {"name": job.name, "split": shard.split, "shard": shard.shard, "n_shards": shard.n_shards}
    summary = finished_shard(job.place, **where, options_hash=job.options_hash)
    if content["options_hash"] != job.options_hash or summary is None:
        return None
    kept = tuple(
        KeptEpisode(**item | {"place": tuple(item["place"]), "missing_cameras": tuple(item["missing_cameras"])})
        for item in content["kept"]
    )
    rejects = tuple(Reject(**item) for item in content["rejects"])
    return ShardResult(**content | {"shard": ShardId(**content["shard"]), "kept": kept, "rejects": rejects})


def make_reject(reference: Reference, reason: str, detail: str) -> Reject:
    """The reject row of a whole episode."""
    return Reject(
        source_uri=reference.uri,
        source_key=reference.key,
        split=reference.split,
        level="episode",
        start=0,
        end=0,
        reason=reason,
        detail=with_urls(detail),
    )


def beat(job: Job) -> None:
    """Shows the supervisor of a local run that work goes on."""
    path = heartbeat_path(job)
    if not path.exists() or time.time() - path.stat().st_mtime > _BEAT_S:
        path.touch()


def heartbeat_path(job: Job) -> Path:
    """A file of this machine whose time is that of the last sign of work."""
    name = hashlib.sha256(f"{job.directory}\0{job.options_hash}".encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"embodimix-{name}.beat"


def reader_of(format: str) -> ModuleType:
    """The module that finds and reads a format; imported late, since each needs other libraries."""
    return importlib.import_module(f"pipelines.sources.{format}")


def _embodiment_of(job: Job, native: NativeEpisode) -> Embodiment:
    try:
        told = native.robot or "" if job.adapter.robot == FROM_LOG else job.adapter.robot
        embodiment = get_embodiment(job.robot or told)
        job.adapter.check_robot(embodiment)
    except UsageError as error:
        raise Rejected("unknown_robot", str(error)) from error
    return embodiment


def _describe(episode: Episode, located: EpisodeLocation) -> KeptEpisode:
    return KeptEpisode(
        source_uri=episode.reference.uri,
        source_key=episode.reference.key,
        place=located.place,
        n_steps=episode.n_steps,
        missing_cameras=tuple(camera for camera in episode.dataset_cameras if camera not in episode.images),
        notes=episode.notes,
    )


def _dropped_steps(episode: Episode) -> list[Reject]:
    reference = episode.reference
    return [
        Reject(
            source_uri=reference.uri,
            source_key=reference.key,
            split=reference.split,
            level="steps",
            start=dropped.start,
            end=dropped.end,
            reason=dropped.reason,
            detail="left out by the adapter",
        )
        for dropped in episode.dropped
    ]
