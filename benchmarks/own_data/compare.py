"""Reads converted sets with plain TFDS and prints where they differ from what the twins show; a script.

    python benchmarks/own_data/compare.py TRUTH.npz DATASET

Prints a JSON list of differences, empty where there is none.
"""

import json
import sys
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

# float32 on disk; the rotation of a pose goes through a rotation vector.
_TOLERANCE = 2e-6
# JPEG and H.264 of uniform areas.
_COLOUR = 6.0
CAMERAS = ("base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb")


def differences(truth: Any, dataset: str) -> list[str]:
    found: list[str] = []
    left = set(range(len(truth["tasks"])))
    for episode in tfds.builder_from_directory(dataset).as_dataset(split="train"):
        steps = list(episode["steps"].as_numpy_iterator())
        state = np.stack([step["observation"]["state_physical"] for step in steps])
        number = min(left, key=lambda i: np.abs(state - truth[f"state/{i}"][: len(state)]).sum(), default=None)
        if number is None:
            return [*found, "more episodes than were written"]
        left.discard(number)
        found += [f"episode {number}: {text}" for text in _of_episode(truth, number, steps)]
    return found + [f"episode {number} is missing" for number in sorted(left)]


def _of_episode(truth: Any, number: int, steps: list[Any]) -> list[str]:
    found = []
    t = len(truth[f"state/{number}"])
    if len(steps) != t:
        found.append(f"{len(steps)} steps in place of {t}")
    for side in ("state", "action"):
        holder = [step["observation"] if side == "state" else step for step in steps]
        rows = np.stack([step[f"{side}_physical"] for step in holder])
        for slot in truth[f"{side}_slots"]:
            worst = float(np.abs(rows[:, slot] - truth[f"{side}/{number}"][: len(rows), slot]).max())
            if worst > _TOLERANCE:
                found.append(f"{side} slot {slot} is off by up to {worst:.4f}")
    texts = {step["language_instruction"].decode() for step in steps}
    if texts != {str(truth["tasks"][number])}:
        found.append(f"language {sorted(texts)} in place of {truth['tasks'][number]}")
    for camera in CAMERAS:
        found += _of_camera(truth, number, camera, [step["observation"].get(camera) for step in steps])
    return found


def _of_camera(truth: Any, number: int, camera: str, frames: list[Any]) -> list[str]:
    if camera not in truth["cameras"]:
        return [] if frames[0] is None else [f"{camera} exists and was not written"]
    if frames[0] is None:
        return [f"{camera} is missing"]
    worst = max(_colour_error(a, b) for a, b in zip(frames, truth[f"{camera}/{number}"], strict=False))
    return [f"{camera}: colours differ by up to {worst:.0f} of 255"] if worst > _COLOUR else []


def _colour_error(found: Any, wanted: Any) -> float:
    """The most that the middles of the bright top and of the rest differ."""
    high, low = found.shape[0] // 8, found.shape[0] * 5 // 8
    middle, own = found.shape[1] // 2, wanted.shape[1] // 2
    pairs = ((found[high, middle], wanted[wanted.shape[0] // 8, own]), (found[low, middle], wanted[-8, own]))
    return float(max(np.abs(a.astype(float) - b).max() for a, b in pairs))


if __name__ == "__main__":
    print(json.dumps(differences(np.load(sys.argv[1]), sys.argv[2])))
