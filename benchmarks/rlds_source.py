"""Generated RLDS episodes to convert in benchmarks, and one episode as long as they come."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import simplejpeg
from PIL import Image

from pipelines.contract.episode import Episode, Reference
from pipelines.shards.example_wire import encode_example
from pipelines.shards.statistics import summarize_episode
from pipelines.shards.tfrecord import write_record
from pipelines.shards.writer import write_shard

STEPS = 50
LONG_STEPS = 20_000
LONG_CAMERAS = ("base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb")


def make_jpegs(n: int, height: int, width: int) -> list[bytes]:
    """JPEGs of smooth random pictures, about as large as real ones at quality 95."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (n, height // 8, width // 8, 3), np.uint8)
    pictures = [np.asarray(Image.fromarray(c).resize((width, height), Image.Resampling.BICUBIC)) for c in coarse]
    return [simplejpeg.encode_jpeg(p, quality=95, colorspace="RGB", colorsubsampling="420") for p in pictures]


def make_source(directory: Path, n_episodes: int) -> Path:
    """Writes an RLDS dataset in the form of Bridge v2 with 256x256 pictures; returns its version folder."""
    import tensorflow_datasets as tfds

    scalar, text = tfds.features.Scalar, tfds.features.Text()
    image = tfds.features.Image(shape=(256, 256, 3), dtype=np.uint8, encoding_format="jpeg")
    floats = tfds.features.Tensor(shape=(7,), dtype=np.float32)
    flags = {name: scalar(dtype=np.bool_) for name in ("is_first", "is_last", "is_terminal")}
    numbers = {name: scalar(dtype=np.float32) for name in ("reward", "discount")}
    steps = {"observation": {"image_0": image, "state": floats}, "action": floats, "language_instruction": text}
    features = tfds.features.FeaturesDict(
        {"steps": tfds.features.Dataset({**steps, **flags, **numbers}), "episode_metadata": {"file_path": text}}
    )
    folder = directory / "toy_bridge" / "1.0.0"
    folder.mkdir(parents=True)
    shard = folder / "toy_bridge-train.tfrecord-00000-of-00001"
    with open(shard, "wb") as file:
        for number in range(n_episodes):
            encoded = encode_example(_bridge_episode(number))
            write_record(file, encoded.chunks, encoded.n_bytes)
    identity = tfds.core.dataset_info.DatasetIdentity(
        name="toy_bridge", version=tfds.core.Version("1.0.0"), data_dir=str(folder), module_name="benchmarks"
    )
    template = tfds.core.ShardedFileTemplate(data_dir=folder, dataset_name="toy_bridge", filetype_suffix="tfrecord")
    info = tfds.core.DatasetInfo(builder=identity, features=features)
    info.set_file_format(tfds.core.FileFormat.TFRECORD)
    split = tfds.core.SplitInfo(
        name="train", shard_lengths=[n_episodes], num_bytes=shard.stat().st_size, filename_template=template
    )
    info.set_splits(tfds.core.splits.SplitDict([split]))
    info.write_to_directory(folder)
    return folder


def write_log(path: Path, number: int, seconds: int = 10, fps: int = 10) -> None:
    """Writes an in-house log of some seconds with one camera of 480x640, commands at 10 Hz and joints at 50 Hz."""
    import zarr

    rng = np.random.default_rng(number)
    joints, command = np.arange(0, seconds * 1000, 20), np.arange(10, seconds * 1000, 100)
    camera = np.arange(5, seconds * 1000, 1000 // fps)
    angles = 0.3 + np.cumsum(rng.normal(0, 0.002, (len(joints), 6)), axis=0)
    coarse = rng.integers(0, 256, (len(camera), 60, 80, 3), np.uint8)
    arrays = {
        "joints/timestamp_ns": joints * 1_000_000,
        "joints/position": angles,
        "gripper/timestamp_ns": joints * 1_000_000,
        "gripper/position": np.zeros((len(joints), 1)),
        "command/timestamp_ns": command * 1_000_000,
        "command/joint_position": angles[: len(command) * 5 : 5],
        "command/gripper": np.zeros((len(command), 1)),
        "camera/base_0/timestamp_ns": camera * 1_000_000,
        "camera/base_0/rgb": np.repeat(np.repeat(coarse, 8, axis=1), 8, axis=2),
    }
    attributes = {
        "schema": "inhouse_log/v1",
        "robot": "ur5e",
        "task": "lift the cube",
        "success": True,
        "control_hz": 10,
        "cameras": {"base_0": {}},
        "joint_names": [f"joint_{i}" for i in range(6)],
    }
    group = zarr.open_group(path, mode="w", attributes=attributes)
    for key, values in arrays.items():
        group.create_array(key, data=values, chunks=(16, *values.shape[1:]) if values.ndim == 4 else values.shape)


def write_long_episode(directory: Path) -> None:
    """Writes a shard with one episode of 20,000 steps and three cameras, about 1.4 GB."""
    frames = _Repeated(make_jpegs(8, 224, 224))
    write_episodes(directory, [still_episode({camera: frames for camera in LONG_CAMERAS})])


def still_episode(images: Mapping[str, Sequence[bytes]]) -> Episode:
    """An episode of an arm that stands still, with these pictures."""
    t = len(next(iter(images.values())))
    still, mask = np.zeros((t, 18), np.float32), np.arange(18) < 7
    return Episode(
        reference=Reference(uri="still", key="still"),
        robot="ur5e",
        control_mode="joint_position",
        control_hz=50.0,
        state=still,
        action=still,
        timestamp_s=np.arange(t) / 50,
        state_mask=mask,
        action_mask=mask,
        parts={"arm0": (0, 1, 2, 3, 4, 5), "gripper0": (6,)},
        images=dict(images),
        dataset_cameras=tuple(images),
        task="stand",
        language=("stand",),
        success=1,
        is_terminal=True,
        reward=np.zeros(t, np.float32),
        discount=np.ones(t, np.float32),
        is_idle=np.ones(t, bool),
    )


def write_episodes(directory: Path, episodes: Sequence[Episode]) -> None:
    """Writes a shard with these episodes."""
    first = episodes[0]
    summary = summarize_episode(first.norm_key, first.state, first.action, first.state_mask, first.action_mask)
    written = write_shard(
        directory,
        name="toy",
        split="train",
        shard=0,
        n_shards=1,
        episodes=episodes,
        statistics={first.norm_key: summary},
        cameras=first.dataset_cameras,
        converter="benchmark",
        options_hash="",
        on_reject=print,
    )
    assert written.n_episodes == len(episodes), written


class _Repeated(Sequence[bytes]):
    """LONG_STEPS frames that are a few over and over, so that the episode itself needs no memory."""

    def __init__(self, frames: Sequence[bytes]) -> None:
        self._frames = frames

    def __len__(self) -> int:
        return LONG_STEPS

    def __getitem__(self, index):  # type: ignore[no-untyped-def, override]
        if index >= LONG_STEPS:
            raise IndexError(index)
        return self._frames[index % len(self._frames)]


def _bridge_episode(number: int) -> dict:
    rng = np.random.default_rng(number)
    state = np.cumsum(rng.normal(0, 0.005, (STEPS, 7)), axis=0) + [0.3, 0, 0.1, 0, 0, 0, 0.5]
    action = np.diff(state, axis=0, append=state[-1:])
    action[:, 6] = 1.0
    flags = np.arange(STEPS)
    return {
        "steps/observation/image_0": make_jpegs(STEPS, 256, 256),
        "steps/language_instruction": [b"put it away"] * STEPS,
        "steps/observation/state": state.astype(np.float32).ravel(),
        "steps/action": action.astype(np.float32).ravel(),
        "steps/is_first": (flags == 0).astype(np.int64),
        "steps/is_last": (flags == STEPS - 1).astype(np.int64),
        "steps/is_terminal": (flags == STEPS - 1).astype(np.int64),
        "steps/reward": np.zeros(STEPS, np.float32),
        "steps/discount": np.ones(STEPS, np.float32),
        "episode_metadata/file_path": [b"generated/%d" % number],
    }


def convert_long_episode(directory: Path) -> None:
    """Converts what `write_long_episode` wrote, as a worker does: measures its shard, then writes it."""
    from pipelines.conversion.launch import ConversionRequest, make_job, plan_conversion, prepare_output
    from pipelines.conversion.measure import measure_shard, settle_measured
    from pipelines.conversion.write import convert_shard
    from pipelines.mapping.adapters import parse_adapter

    parts = {"arm0": "[0:6]", "gripper0": "[6]"}
    entry = {
        "title": "shards of this project",
        "format": "rlds",
        "robot": "ur5e",
        "control_mode": "joint_position",
        "units": "metric",
        "control_hz": 50,
        "cameras": {camera: f"observation/{camera}" for camera in LONG_CAMERAS},
        "widths": {"observation/state_physical": 18, "action_physical": 18},
        "state": _part_sources("observation/state_physical", parts),
        "action": _part_sources("action_physical", parts),
    }
    conversion = ConversionRequest(
        source=str(directory),
        output_root=str(directory / "out"),
        name="long",
        version="1.0.0",
        adapter=parse_adapter("long", entry),
        n_shards=1,
    )
    plan = plan_conversion(conversion, None)
    job = make_job(conversion, plan)
    prepare_output(job, plan, None)
    (shard,) = plan.shards
    result = convert_shard(job, shard, settle_measured(measure_shard(job, shard), job))
    assert result.n_steps == LONG_STEPS, result.rejects


def _part_sources(key: str, parts: Mapping[str, str]) -> dict[str, dict]:
    """The arm's joints and the gripper, as they are stored."""
    kinds = {"arm0": {"form": "joints"}, "gripper0": {"open": 0, "closed": 1}}
    return {part: {"from": key + dims} | kinds[part] for part, dims in parts.items()}


if __name__ == "__main__":
    {"write_long": write_long_episode, "convert_long": convert_long_episode}[sys.argv[1]](Path(sys.argv[2]))
