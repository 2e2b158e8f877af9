"""Small native sources for tests: RLDS records with pictures, written without TensorFlow."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.contract.images import to_jpeg
from pipelines.shards.example_wire import encode_example
from pipelines.shards.tfrecord import write_record

T = 12


def picture(seed: int, size: int = 32) -> bytes:
    """A JPEG with a gradient that tells `seed`."""
    ramp = np.linspace(0, 255, size, dtype=np.uint8)
    image = np.stack([np.tile(ramp, (size, 1)), np.full((size, size), seed % 256), np.tile(ramp, (size, 1)).T], -1)
    return to_jpeg(image.astype(np.uint8), size=size)


def bridge_features(number: int, t: int = T, **changes: Any) -> dict[str, Any]:
    """The features of one episode as bridge_orig has them: a first step of no motion, then a straight way.

    changes: features to replace, by the last part of their name; None removes one.
    """
    state = np.zeros((t, 7), np.float32)
    state[:, 0] = 0.2 + 0.01 * np.arange(t) + 0.001 * number
    state[:, 6] = 1.0
    action = np.zeros((t, 7), np.float32)
    action[1:, 0] = 0.01
    action[:, 6] = np.where(np.arange(t) < t // 2, 1.0, 0.0)
    features: dict[str, Any] = {
        "steps/is_first": (np.arange(t) == 0).astype(np.int64),
        "steps/is_last": (np.arange(t) == t - 1).astype(np.int64),
        "steps/is_terminal": (np.arange(t) == t - 1).astype(np.int64),
        "steps/reward": np.zeros(t, np.float32),
        "steps/discount": np.ones(t, np.float32),
        "steps/observation/state": state.ravel(),
        "steps/action": action.ravel(),
        "steps/language_instruction": [b"put the cup away"] * t,
        "steps/observation/image_0": [picture(10 * number + i) for i in range(t)],
    }
    for name, value in changes.items():
        key = next(key for key in features if key.endswith(name))
        if value is None:
            del features[key]
        else:
            features[key] = value
    return features


def write_rlds(
    folder: Path, splits: Mapping[str, Sequence[Mapping[str, Any]]], name: str = "tiny", info: bool = True
) -> Path:
    """Writes one TFRecord file per split, and dataset_info.json if `info`; returns the folder."""
    folder.mkdir(parents=True)
    for split, episodes in splits.items():
        with open(folder / f"{name}-{split}.tfrecord-00000-of-00001", "wb") as file:
            for features in episodes:
                write_record(file, b"".join(encode_example(features).chunks))
    if info:
        listed = [{"name": split, "shardLengths": [str(len(e))]} for split, e in splits.items()]
        (folder / "dataset_info.json").write_text(json.dumps({"name": name, "splits": listed}))
    return folder
