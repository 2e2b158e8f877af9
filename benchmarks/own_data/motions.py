"""What a set of demonstrations shows, in the canonical slots: the truth that a conversion is compared with."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

T, N_EPISODES = 40, 2
D = 18
TASKS = ("lift the cube", "put the cube in the bowl")
SIDE = 64
_COLOURS = {"base_0_rgb": (200, 40), "left_wrist_0_rgb": (40, 200), "right_wrist_0_rgb": (70, 120)}


@dataclass(frozen=True, kw_only=True)
class Demonstration:
    """One episode: its instruction, and state and action [t, 18] in rad, m and 0 open .. 1 closed."""

    task: str
    state: NDArray[np.float64]
    action: NDArray[np.float64]


def swing(number: int, n: int, rate: float = 8.0) -> NDArray[np.float64]:
    """Columns that swing about different centres with different widths, so that a swapped pair shows, [t, n]."""
    i, j = np.arange(T)[:, None], np.arange(n)[None, :]
    return 0.1 * (j - n / 2) + (0.3 + 0.05 * j) * np.sin(i / rate + 0.7 * j + number)


def closing(number: int) -> NDArray[np.float64]:
    """A gripper that begins open (0.04), closes (0.96) in the middle and opens, [t]."""
    return 0.5 - 0.46 * np.cos(2 * np.pi * np.arange(T) / (T - 1) + 0.1 * number)


def lead(state: NDArray[np.float64]) -> NDArray[np.float64]:
    """Commands of positions: the next state, a little beyond, so that state and action are never the same."""
    return np.concatenate([state[1:], state[-1:]]) + 0.01


def pictures(camera: str, number: int) -> NDArray[np.uint8]:
    """Frames [t, 64, 64, 3] whose red and green name the camera, whose blue counts; the top quarter is bright."""
    red, green = _COLOURS[camera]
    frames = np.zeros((T, SIDE, SIDE, 3), np.uint8)
    frames[..., 0], frames[..., 1] = red, green
    frames[..., 2] = (20 + 5 * np.arange(T) + number)[:, None, None]
    frames[:, : SIDE // 4, :, :2] = 235
    return frames


def save_truth(
    path: Path, episodes: list[Demonstration], cameras: tuple[str, ...], slots: dict[str, list[int]]
) -> None:
    """slots: of state and action, those that the set holds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {f"state/{i}": e.state for i, e in enumerate(episodes)}
    arrays |= {f"action/{i}": e.action for i, e in enumerate(episodes)}
    arrays |= {f"{camera}/{i}": pictures(camera, i) for i in range(len(episodes)) for camera in cameras}
    arrays |= {f"{side}_slots": np.array(numbers) for side, numbers in slots.items()}
    np.savez(path, tasks=np.array([e.task for e in episodes]), cameras=np.array(cameras), **arrays)
