"""Small stored datasets for tests of mixtures and streams: every number and colour says which sample it is from."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipelines.contract.episode import Episode, Reference, Segment
from pipelines.contract.slots import CAMERAS, IMAGE_SIZE
from pipelines.shards.statistics import NormStatistics, merge_statistics, save_statistics, summarize_episode
from pipelines.shards.writer import write_shard

ARM = {"arm0": (0, 1, 2, 3, 4, 5), "gripper0": (6,)}


def colour(number: int, step: int, camera: int) -> tuple[int, int, int]:
    """The colour of all pixels of a picture: red says the episode, green the step, blue the camera."""
    return 8 * (number % 32), 8 * (step % 32), 80 * (camera + 1)


def make_episode(
    number: int,
    *,
    n_steps: int = 12,
    robot: str = "arx",
    task: str = "fold",
    control_mode: str = "joint_position",
    cameras: Sequence[str] = CAMERAS[:2],
    missing: Sequence[str] = (),
    success: int = 1,
    control_hz: float = 10.0,
    language: Sequence[str] = ("fold the shirt", "fold it"),
    idle: Sequence[int] = (),
    segments: bool = True,
) -> Episode:
    """Episode `number`: state[t, s] = number + t / 100 + s / 1000, action = state + 0.01, in seven slots."""
    steps = np.arange(n_steps)
    slots = np.arange(18)
    mask = slots < 7
    state = ((number + steps[:, None] / 100 + slots / 1000) * mask).astype(np.float32)
    images = {
        camera: [
            np.tile(np.array(colour(number, int(step), CAMERAS.index(camera)), np.uint8), (IMAGE_SIZE, IMAGE_SIZE, 1))
            for step in steps
        ]
        for camera in cameras
        if camera not in missing
    }
    halves = (
        Segment(start=0, end=n_steps // 2, text=f"reach {number}", kind="subtask"),
        Segment(start=n_steps // 2, end=n_steps, text=f"close {number}", kind="recovery"),
    )
    return Episode(
        reference=Reference(uri=f"log-{number}", key=f"key-{number}"),
        robot=robot,
        control_mode=control_mode,
        control_hz=control_hz,
        state=state,
        action=(state + 0.01 * mask).astype(np.float32),
        timestamp_s=steps / control_hz,
        state_mask=mask,
        action_mask=mask,
        parts=ARM,
        images=images,
        dataset_cameras=tuple(cameras),
        task=task,
        language=tuple(language),
        success=success,
        is_terminal=True,
        reward=np.zeros(n_steps, np.float32),
        discount=np.ones(n_steps, np.float32),
        is_idle=np.isin(steps, idle),
        segments=halves if segments else (),
    )


def write_dataset(
    root: Path, name: str, episodes: Sequence[Episode], *, n_shards: int = 2, split: str = "train"
) -> Path:
    """Writes a complete dataset with the metadata that readers need, and returns its folder."""
    folder = root / name / "1.0.0"
    folder.mkdir(parents=True)
    statistics = merge_statistics([{e.norm_key: summarize(e)} for e in episodes])
    cameras = episodes[0].dataset_cameras
    lengths = []
    for shard in range(n_shards):
        summary = write_shard(
            folder,
            name=name,
            split=split,
            shard=shard,
            n_shards=n_shards,
            episodes=episodes[shard::n_shards],
            statistics=statistics,
            cameras=cameras,
            converter="test",
            options_hash="0",
            on_reject=_refuse,
        )
        lengths.append(str(summary.n_episodes))
    save_statistics(folder / "statistics.json", statistics)
    step = {"observation": {"featuresDict": {"features": {camera: {"image": {}} for camera in cameras}}}}
    features = {"steps": {"sequence": {"feature": {"featuresDict": {"features": step}}}}}
    (folder / "features.json").write_text(json.dumps({"featuresDict": {"features": features}}))
    info = {"name": name, "version": "1.0.0", "splits": [{"name": split, "shardLengths": lengths}]}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    return folder


def write_spec(folder: Path, body: str, name: str = "mixture.yaml") -> Path:
    """Writes a spec with the two lines that every spec begins with."""
    path = folder / name
    path.write_text(f"schema: embodimix.mixture/v1\nname: test\n{body}")
    return path


def summarize(e: Episode) -> NormStatistics:
    """The statistics of an episode as conversion measures them."""
    return summarize_episode(e.norm_key, e.state, e.action, e.state_mask, e.action_mask, e.parts, e.control_hz)


def _refuse(reference: Reference, reason: str, detail: str) -> None:
    raise AssertionError(f"{reference.key} was rejected: {reason}: {detail}")
