"""Reads a dataset with LeRobot's own reader, in an interpreter that has LeRobot; run as a script, with nothing of ours.

    python foreign_lerobot_dataset.py ROOT PICTURES OUT.npz STEP...

PICTURES: a folder CAMERA/EPISODE/STEP.png of every picture before it was encoded, of which LeRobot computes statistics.
"""

import json
import sys
from pathlib import Path

import numpy as np
from lerobot.datasets.compute_stats import aggregate_stats, compute_episode_stats
from lerobot.datasets.lerobot_dataset import LeRobotDataset


def main() -> None:
    root, pictures, out, *steps = sys.argv[1:]
    dataset = LeRobotDataset("local/published", root=root, video_backend="pyav")
    columns = dataset.hf_dataset.with_format("numpy")
    features, fps = dataset.meta.features, dataset.meta.fps
    names = [name for name, about in features.items() if about["dtype"] in ("float32", "int64")]
    numbers = {name: np.asarray(columns[name]) for name in names}
    found = {f"column {name}": values for name, values in numbers.items()}
    items = [dataset[int(step)] for step in steps]
    for camera in dataset.meta.camera_keys:
        found[f"frames {camera}"] = np.stack([item[camera].numpy() for item in items])
    found["tasks"] = np.array([item["task"] for item in items])
    stats = []
    for episode in range(dataset.meta.total_episodes):
        own = numbers["episode_index"] == episode
        buffer = {name: values[own] for name, values in numbers.items()}
        # As it records: the time is a number of Python until it is written.
        buffer["timestamp"] = np.stack([frame / fps for frame in range(int(own.sum()))])
        for camera in dataset.meta.camera_keys if pictures != "none" else ():
            buffer[camera] = [str(path) for path in sorted((Path(pictures) / camera / str(episode)).glob("*.png"))]
        stats.append(compute_episode_stats(buffer, features))
    for name, values in flattened(aggregate_stats(stats)).items():
        found[f"computed {name}"] = values
    for name, values in flattened(dataset.meta.stats).items():
        found[f"stored {name}"] = values
    if dataset.meta.has_language_columns:
        rows = dataset.hf_dataset.with_format(None)["language_persistent"]
        found["language"] = np.array([json.dumps(row) for row in rows])
    np.savez(out, **found)


def flattened(stats: dict) -> dict:
    return {f"{key}/{name}": np.asarray(value) for key, own in stats.items() for name, value in own.items()}


main()
