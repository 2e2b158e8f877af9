"""Generated episodes with known boundaries, for the tests of `annotation_tools`."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from pipelines.contract.episode import Episode, Reference
from pipelines.contract.images import to_jpeg
from pipelines.contract.native import Reject
from pipelines.conversion.manifest import write_rejects
from pipelines.segments.propose import propose_segments
from pipelines.shards.schema import write_metadata
from pipelines.shards.statistics import merge_statistics, save_statistics, summarize_episode
from pipelines.shards.writer import write_shard

ONE_ARM = {"arm0": (0, 1, 2, 3, 4, 5), "gripper0": (6,)}
TWO_ARMS = {**ONE_ARM, "arm1": (7, 8, 9, 10, 11, 12), "gripper1": (13,)}


@dataclass(frozen=True, kw_only=True)
class Leg:
    """A stretch in which slots go to new values, minimum-jerk, in `duration_s`."""

    duration_s: float
    to: Mapping[int, float]


def episode_of(
    legs: Sequence[Leg],
    *,
    control_hz: float = 20.0,
    control_mode: str = "ee_absolute",
    parts: Mapping[str, tuple[int, ...]] = ONE_ARM,
    noise: float = 0.0,
    seed: int = 0,
) -> Episode:
    """Plays the legs one after the other from zero; state is what was commanded, plus noise on the arms."""
    t = round(sum(leg.duration_s for leg in legs) * control_hz)
    now = np.arange(t) / control_hz
    command, at_s, last = np.zeros((t, 18)), 0.0, np.zeros(18)
    for leg in legs:
        goal = last.copy()
        goal[list(leg.to)] = list(leg.to.values())
        share = np.clip((now - at_s) / leg.duration_s, 0, 1)[:, None]
        command = np.where(share > 0, last + (goal - last) * share**3 * (10 - 15 * share + 6 * share**2), command)
        at_s, last = at_s + leg.duration_s, goal
    mask = np.zeros(18, bool)
    mask[[slot for slots in parts.values() for slot in slots]] = True
    arms = [slot for part, slots in parts.items() if part.startswith("arm") for slot in slots]
    state = command.copy()
    state[:, arms] += np.random.default_rng(seed).normal(0, noise, (t, len(arms)))
    if control_mode == "ee_delta":
        command[:, arms] = np.diff(command[:, arms], axis=0, append=command[-1:, arms])
    return Episode(
        reference=Reference(uri="generated", key=str(seed)),
        robot="generated",
        control_mode=control_mode,
        control_hz=control_hz,
        state=state.astype(np.float32),
        action=command.astype(np.float32),
        timestamp_s=now,
        state_mask=mask,
        action_mask=mask,
        parts=dict(parts),
        images={},
        dataset_cameras=(),
        task="test",
        language=("test",),
        success=-1,
        is_terminal=True,
        reward=np.zeros(t, np.float32),
        discount=np.ones(t, np.float32),
        is_idle=np.zeros(t, bool),
    )


def random_episode(seed: int, control_hz: float, *, two_arms: bool, control_mode: str) -> tuple[Episode, list[float]]:
    """An episode of 6 to 10 sub-tasks of 1.4 to 3.2 s; returns it and the times in s of the boundaries inside.

    Each sub-task moves an arm to a new place (a stop and a turn at its end) or moves and then works the gripper,
    with a short stop; sometimes nothing moves for a while.
    """
    draw = np.random.default_rng([seed, round(control_hz)])
    parts = TWO_ARMS if two_arms else ONE_ARM
    scale = 0.25 if control_mode.startswith("ee") else 1.0
    place, closed, legs, ends, was_idle = np.zeros(18), {6: 0.0, 13: 0.0}, [], [0.0], True
    for _ in range(int(draw.integers(6, 11))):
        offset = 7 * int(draw.integers(2)) if two_arms else 0
        duration_s = float(draw.uniform(1.4, 3.2))
        kind = draw.choice(["move", "grip", "idle"], p=[0.5, 0.4, 0.1])
        if kind == "idle" and not was_idle:
            legs.append(Leg(duration_s=duration_s, to={}))
        else:
            target = draw.normal(0, 1, 3)
            step = target / np.linalg.norm(target) * draw.uniform(0.5, 1.2) * scale
            place[offset : offset + 3] += step
            to = {offset + i: float(place[offset + i]) for i in range(3)}
            grip_s = 0.4 if kind == "grip" else 0.0
            legs.append(Leg(duration_s=duration_s - grip_s, to=to))
            if grip_s:
                closed[6 + offset] = 1.0 - closed[6 + offset]
                legs.append(Leg(duration_s=grip_s, to={6 + offset: closed[6 + offset]}))
        was_idle = kind == "idle"
        ends.append(ends[-1] + duration_s)
    noise = 0.0005 if control_mode.startswith("ee") else 0.002
    episode = episode_of(legs, control_hz=control_hz, control_mode=control_mode, parts=parts, noise=noise, seed=seed)
    return episode, ends[1:-1]


def with_pictures(episode: Episode, seed: int, cameras: Sequence[str] = ("base_0_rgb", "left_wrist_0_rgb")) -> Episode:
    """Adds small pictures whose colour tells camera, episode and step."""
    images = {
        camera: [
            to_jpeg(np.full((24, 32, 3), (60 * number, 40 * seed % 256, step % 256), np.uint8))
            for step in range(episode.n_steps)
        ]
        for number, camera in enumerate(cameras)
    }
    return dataclasses.replace(episode, images=images, dataset_cameras=tuple(cameras))


def shortened(episode: Episode, n_steps: int) -> Episode:
    """The first steps of an episode without pictures."""
    arrays = ("state", "action", "timestamp_s", "reward", "discount", "is_idle")
    return dataclasses.replace(episode, **{name: getattr(episode, name)[:n_steps] for name in arrays})


def make_dataset(
    root: Path,
    n_episodes: int = 4,
    n_shards: int = 2,
    keys: Sequence[str] = (),
    n_steps: int | None = None,
    rejects: Sequence[Reject] = (),
) -> Path:
    """Writes a dataset of short two-armed episodes with proposals and two cameras; returns its folder.

    keys: the source's keys, which go round the shards, so that their order in the dataset is another. n_steps: cuts
    all episodes to this length. rejects: what rejects.parquet lists.
    """
    directory = root / "toy" / "1.0.0"
    episodes = []
    for seed in range(n_episodes):
        episode, _ = random_episode(seed, 10, two_arms=True, control_mode="ee_absolute")
        episode = shortened(episode, n_steps) if n_steps is not None else episode
        episode = dataclasses.replace(with_pictures(episode, seed), task=f"task {seed % 2}")
        if keys:
            episode = dataclasses.replace(episode, reference=Reference(uri="source", key=keys[seed]))
        episodes.append(dataclasses.replace(episode, segments=propose_segments(episode)))
    statistics = merge_statistics(
        {e.norm_key: summarize_episode(e.norm_key, e.state, e.action, e.state_mask, e.action_mask)} for e in episodes
    )
    shards = [
        write_shard(
            directory,
            name="toy",
            split="train",
            shard=shard,
            n_shards=n_shards,
            episodes=episodes[shard::n_shards],
            statistics=statistics,
            cameras=episodes[0].dataset_cameras,
            converter="embodimix 0.1.0",
            options_hash="test",
            on_reject=lambda *reject: pytest.fail(str(reject)),
        )
        for shard in range(n_shards)
    ]
    save_statistics(directory / "statistics.json", statistics)
    if rejects:
        write_rejects(directory / "rejects.parquet", rejects)
    write_metadata(
        directory,
        name="toy",
        version="1.0.0",
        cameras=episodes[0].dataset_cameras,
        shard_lengths={"train": [shard.n_episodes for shard in shards]},
        shard_bytes={"train": sum(shard.n_bytes for shard in shards)},
    )
    return directory
