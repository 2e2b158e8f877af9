"""The RLDS schema of stored datasets, and the TFDS metadata that lets plain TFDS read them."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.contract.layouts import get_layout
from pipelines.contract.slots import CAMERAS, IMAGE_SIZE, LAYOUT
from pipelines.storage.files import write_atomically
from pipelines.storage.paths import StoragePath

if TYPE_CHECKING:
    import tensorflow_datasets as tfds

IMAGE_KEY = "steps/observation/{camera}"


def write_metadata(
    directory: StoragePath,
    *,
    name: str,
    version: str,
    cameras: Sequence[str],
    shard_lengths: Mapping[str, Sequence[int]],
    shard_bytes: Mapping[str, int],
    description: str = "",
    layout: str = LAYOUT,
) -> None:
    """Writes features.json and then dataset_info.json, which marks the dataset as complete.

    layout: of the vectors of all episodes.
    shard_lengths: per split the number of episodes of every shard; shard_bytes: per split the bytes of all shards.
    """
    import tensorflow_datasets as tfds

    with tempfile.TemporaryDirectory() as scratch:
        template = tfds.core.ShardedFileTemplate(data_dir=scratch, dataset_name=name, filetype_suffix="tfrecord")
        identity = tfds.core.dataset_info.DatasetIdentity(
            name=name, version=tfds.core.Version(version), data_dir=scratch, module_name="embodimix"
        )
        features = _tfds_features(cameras, get_layout(layout).n_slots)
        info = tfds.core.DatasetInfo(builder=identity, description=description, features=features)
        info.set_file_format(tfds.core.FileFormat.TFRECORD)
        info.set_splits(tfds.core.splits.SplitDict(_split_infos(template, shard_lengths, shard_bytes)))
        info.write_to_directory(scratch)
        for file_name in ("features.json", "dataset_info.json"):
            write_atomically(directory / file_name, (Path(scratch) / file_name).read_bytes())


def _tfds_features(cameras: Sequence[str], n_slots: int) -> "tfds.features.FeaturesDict":
    import tensorflow_datasets as tfds

    def vector(size: int, dtype: type[np.generic]) -> Any:
        return tfds.features.Tensor(shape=(size,), dtype=dtype)

    image = tfds.features.Image(shape=(IMAGE_SIZE, IMAGE_SIZE, 3), dtype=np.uint8, encoding_format="jpeg")
    text, flag = tfds.features.Text(), tfds.features.Scalar(dtype=np.bool_)
    real, integer = tfds.features.Scalar(dtype=np.float32), tfds.features.Scalar(dtype=np.int32)
    floats = vector(n_slots, np.float32)
    observation = {"state": floats, "state_physical": floats, **{camera: image for camera in cameras}}
    steps = {
        "observation": observation,
        "action": floats,
        "action_physical": floats,
        "language_instruction": text,
        "segment_text": text,
        "segment_id": integer,
        "timestamp_s": real,
        "timestamp_ns": tfds.features.Scalar(dtype=np.int64),
        "is_idle": flag,
        "is_first": flag,
        "is_last": flag,
        "is_terminal": flag,
        "reward": real,
        "discount": real,
    }
    texts = (
        "episode_id",
        "dataset",
        "source_uri",
        "source_key",
        "robot",
        "control_mode",
        "layout",
        "task",
        "norm_key",
        "converter",
        "segments",
        "parts",
    )
    metadata = {
        **dict.fromkeys(texts, text),
        "language": tfds.features.Sequence(text),
        "control_hz": real,
        "success": integer,
        "n_steps": integer,
        "state_mask": vector(n_slots, np.bool_),
        "action_mask": vector(n_slots, np.bool_),
        "camera_mask": vector(len(CAMERAS), np.bool_),
    }
    return tfds.features.FeaturesDict({"steps": tfds.features.Dataset(steps), "episode_metadata": metadata})


def _split_infos(
    template: "tfds.core.ShardedFileTemplate",
    shard_lengths: Mapping[str, Sequence[int]],
    shard_bytes: Mapping[str, int],
) -> list["tfds.core.SplitInfo"]:
    import tensorflow_datasets as tfds

    return [
        tfds.core.SplitInfo(
            name=split, shard_lengths=list(lengths), num_bytes=shard_bytes[split], filename_template=template
        )
        for split, lengths in sorted(shard_lengths.items())
    ]
