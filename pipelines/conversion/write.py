"""The second pass over a shard: read, check, annotate and write its episodes, one at a time."""

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

from pipelines.contract.episode import Episode, Image, Reference
from pipelines.contract.images import check_copied, codec_seconds
from pipelines.contract.native import UNREADABLE, EpisodeLocation, Reject, Rejected
from pipelines.contract.reject_reasons import explain
from pipelines.contract.slots import CAMERAS
from pipelines.conversion.measure import Measured, name_uniquely
from pipelines.conversion.plan import Job, load_references
from pipelines.conversion.read_episode import episodes_at_hand, read_episode
from pipelines.conversion.results import KeptEpisode, ShardResult, load_result, result_path
from pipelines.jobs.local_workers import return_memory
from pipelines.segments.propose import idle_in, motion_of, propose_segments
from pipelines.shards.sidecar import ShardId
from pipelines.shards.writer import write_shard
from pipelines.storage.files import write_atomically
from pipelines.storage.mirror import with_urls
from pipelines.storage.retry import transient_cause, with_retries


def finish_shard(job: Job, shard: ShardId, measured: Measured) -> tuple[ShardResult, dict[str, float]]:
    """Converts a shard, if that is not done yet; returns the seconds that the codecs took and `all` of it, too.

    A cluster that repeats a task hands out its finished shards again.
    """
    started, before = time.monotonic(), codec_seconds()
    result = load_result(job, shard) or convert_shard(job, shard, measured)
    seconds: dict[str, float] = {stage: spent - before[stage] for stage, spent in codec_seconds().items()}
    return result, seconds | {"all": time.monotonic() - started}


def convert_shard(job: Job, shard: ShardId, measured: Measured) -> ShardResult:
    """Reads, checks and writes the episodes of one shard, one at a time, and records the outcome of each.

    A read that fails temporarily makes the shard start over. Raises FailedWork when it keeps failing.
    """
    try:
        return with_retries(lambda: _convert_shard(job, shard, measured), f"{shard.file_stem} of {job.directory}")
    finally:
        # Blocks that one shard leaves in between would add up from shard to shard.
        return_memory()


def _convert_shard(job: Job, shard: ShardId, measured: Measured) -> ShardResult:
    # Before anything is touched: a dataset that was finished meanwhile has no references any more.
    references = load_references(job, shard)
    rejects: list[Reject] = []
    kept: dict[str, KeptEpisode] = {}
    # Where the first pass kept nothing, an episode's own fault is named, not the lack of cameras that follows from it.
    cameras = measured.dataset_cameras or CAMERAS

    def on_reject(reference: Reference, reason: str, detail: str) -> None:
        described = kept.pop(reference.key, None)
        # Rejects are named by their record: not every one was read so far that its own name is known.
        key = described.record_key if described else reference.key
        rejects.append(make_reject(replace(reference, key=key), reason, detail))

    def read_all() -> Iterator[Episode]:
        for located in episodes_at_hand(job, references, pictures=True):
            try:
                episode = read_episode(job, located, cameras)
            except Rejected as error:
                on_reject(located.reference, error.reason, error.detail)
                continue
            episode = name_uniquely(episode, located, measured.repeated)
            kept[episode.reference.key] = _describe(episode, located)
            yield annotate(_with_guarded_pictures(episode, job))
            if episode.reference.key in kept:
                rejects.extend(_dropped_steps(episode))

    summary = write_shard(
        job.folder,
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
        kept=tuple(
            replace(episode, episode_id=identity)
            for episode, identity in zip(kept.values(), summary.episode_ids, strict=True)
        ),
        rejects=tuple(rejects),
    )
    write_atomically(result_path(job, shard), json.dumps(result.to_json()).encode(), parents=False)
    return result


def annotate(episode: Episode) -> Episode:
    """Adds idle flags and proposed segments of about 2 s where the source has none."""
    motion = motion_of(episode)
    episode = replace(episode, is_idle=idle_in(motion) | episode.is_idle)
    return episode if episode.segments else replace(episode, segments=propose_segments(episode, motion=motion))


class GuardedFrames(Sequence[Image]):
    """The frames of `frames`; whatever a library raises on one rejects its episode and not the run.

    Frames are read only now, when the shard is written. One that would be copied unseen is decoded once, unless
    `trusted`. Reading raises Rejected or CorruptImage, and OSError where a disk failed temporarily.
    """

    def __init__(self, frames: Sequence[Image], where: str, trusted: bool) -> None:
        self._frames, self._where, self._trusted = frames, where, trusted

    def __len__(self) -> int:
        return len(self._frames)

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        if isinstance(index, slice):
            return GuardedFrames(self._frames[index], self._where, self._trusted)
        if index >= len(self):
            # By this error an iteration over a sequence ends.
            raise IndexError(index)
        return self._frame(index)

    def __iter__(self) -> Iterator[Image]:
        return map(self._frame, range(len(self)))

    def _frame(self, index: int) -> Image:
        try:
            frame = self._frames[index]
        except UNREADABLE as error:
            if transient_cause(error):
                raise
            detail = f"{self._where}: picture {index}: {type(error).__name__}: {error}"
            raise Rejected("unreadable_frame", detail) from error
        if not self._trusted:
            check_copied(frame)
        return frame


def _with_guarded_pictures(episode: Episode, job: Job) -> Episode:
    where = episode.reference.uri
    frames: dict[str, Sequence[Image]] = {
        camera: GuardedFrames(frames, f"{where}: {camera}", job.trust_images)
        for camera, frames in episode.images.items()
    }
    return replace(episode, images=frames)


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


def _describe(episode: Episode, located: EpisodeLocation) -> KeptEpisode:
    return KeptEpisode(
        source_uri=episode.reference.uri,
        source_key=episode.reference.key,
        record_key=located.reference.key,
        place=located.place,
        n_steps=episode.n_steps,
        missing_cameras=tuple(camera for camera in episode.dataset_cameras if camera not in episode.images),
        notes=episode.notes,
        inferred=tuple(sorted(episode.inferred.values())),
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
            detail=explain(dropped.reason).meaning,
        )
        for dropped in episode.dropped
    ]
