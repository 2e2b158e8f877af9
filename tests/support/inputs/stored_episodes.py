"""Small canonical episodes, and small datasets made of them, for the tests of storage."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import simplejpeg

from pipelines.contract.episode import Episode, Reference, Segment
from pipelines.contract.slots import IMAGE_SIZE
from pipelines.shards.schema import write_metadata
from pipelines.shards.statistics import NormStatistics, merge_statistics, save_statistics, summarize_episode
from pipelines.shards.writer import ShardSummary, write_shard

CAMERAS = ("base_0_rgb", "left_wrist_0_rgb")
OPTIONS_HASH = "0123abcd"


def picture(seed: int, size: int = IMAGE_SIZE) -> bytes:
    """A JPEG of size x size with a few random blocks."""
    blocks = np.random.default_rng(seed).integers(0, 256, (7, 7, 3), np.uint8)
    pixels = np.ascontiguousarray(np.kron(blocks, np.ones((size // 7, size // 7, 1), np.uint8)))
    return simplejpeg.encode_jpeg(pixels, quality=90, colorspace="RGB")


def make_episode(number: int = 0, t: int = 5, split: str = "train", wrist: bool = True) -> Episode:
    """An episode of a 6-joint arm at 20 Hz with two segments; values follow from the number."""
    rng = np.random.default_rng(number)
    mask = np.arange(18) < 7
    vectors = (rng.uniform(-3, 3, (2, t, 18)) * mask).astype(np.float32)
    images = {"base_0_rgb": [picture(1000 * number + i) for i in range(t)]}
    if wrist:
        images["left_wrist_0_rgb"] = [picture(1000 * number + 500 + i) for i in range(t)]
    middle = t // 2
    return Episode(
        reference=Reference(uri=f"logs/{number}.zarr", key=f"ur5e/{number}", split=split),
        robot="ur5e",
        control_mode="joint_position",
        control_hz=20.0,
        state=vectors[0],
        action=vectors[1],
        timestamp_s=np.arange(t) / 20,
        state_mask=mask,
        action_mask=mask,
        parts={"arm0": (0, 1, 2, 3, 4, 5), "gripper0": (6,)},
        images=images,
        dataset_cameras=CAMERAS,
        task="pick the cube",
        language=("pick the cube", "take the cube"),
        success=1,
        is_terminal=True,
        reward=(np.arange(t) == t - 1).astype(np.float32),
        discount=np.ones(t, np.float32),
        is_idle=np.arange(t) == 1,
        segments=(
            Segment(start=0, end=middle, text="reach", arms=("arm0",), confidence=0.3),
            Segment(start=middle, end=t, text="", kind="idle", success=1, source="human"),
        ),
    )


def statistics_of(episodes: Sequence[Episode]) -> dict[str, NormStatistics]:
    """The merged statistics of some episodes."""
    return merge_statistics(
        [{e.norm_key: summarize_episode(e.norm_key, e.state, e.action, e.state_mask, e.action_mask)} for e in episodes]
    )


def store_shard(
    directory: Path,
    episodes: Sequence[Episode],
    statistics: dict[str, NormStatistics],
    shard: int = 0,
    n_shards: int = 1,
    split: str = "train",
) -> ShardSummary:
    """Writes one shard of the dataset `toy` with no rejects allowed."""

    def fail(reference: Reference, reason: str, detail: str) -> None:
        raise AssertionError(f"{reference.key}: {reason}: {detail}")

    return write_shard(
        directory,
        name="toy",
        split=split,
        shard=shard,
        n_shards=n_shards,
        episodes=episodes,
        statistics=statistics,
        cameras=CAMERAS,
        converter="embodimix 0.1.0",
        options_hash=OPTIONS_HASH,
        on_reject=fail,
    )


def store_dataset(directory: Path, splits: Mapping[str, Sequence[Sequence[Episode]]]) -> None:
    """Writes the complete dataset `toy` 1.0.0: per split the episodes of every shard."""
    statistics = statistics_of([episode for shards in splits.values() for shard in shards for episode in shard])
    save_statistics(directory / "statistics.json", statistics)
    summaries = {
        split: [store_shard(directory, shard, statistics, i, len(shards), split) for i, shard in enumerate(shards)]
        for split, shards in splits.items()
    }
    write_metadata(
        directory,
        name="toy",
        version="1.0.0",
        cameras=CAMERAS,
        shard_lengths={split: [s.n_episodes for s in shards] for split, shards in summaries.items()},
        shard_bytes={split: sum(s.n_bytes for s in shards) for split, shards in summaries.items()},
    )


def with_base_frames(episode: Episode, frames: Sequence[bytes]) -> Episode:
    """The episode with other frames in its base camera."""
    return replace(episode, images={**episode.images, "base_0_rgb": frames})
