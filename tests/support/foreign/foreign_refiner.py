"""macrodata-refiner as another program: its own reader of LeRobot datasets. Run by an interpreter that has it.

    python foreign_refiner.py DATASET OUT.npz

Writes of every episode its vectors, task, length, means of its statistics, and the mean colour of each frame.
"""

import asyncio
import sys

import numpy as np
import refiner


def main() -> None:
    found: dict = {}
    for row in refiner.read_lerobot(sys.argv[1]).iter_rows():
        i = row.episode_index
        found[f"{i}/action"] = np.array(row.actions.to_pylist(), np.float32)
        found[f"{i}/state"] = np.array(row.states.to_pylist(), np.float32)
        found[f"{i}/task"] = np.array(row.tasks)
        found[f"{i}/about"] = np.array([row.num_frames, row.fps])
        found[f"{i}/mean"] = np.array(row.stats["action"].mean)
        for name, video in row.videos.items():
            found[f"{i}/{name}"] = asyncio.run(mean_colours(video))
    found["robot"] = np.array(row.robot_type)
    np.savez(sys.argv[2], **found)


async def mean_colours(video) -> np.ndarray:
    return np.array([frame.mean(axis=(0, 1)) async for frame in video.iter_numpy_frames()])


if __name__ == "__main__":
    main()
