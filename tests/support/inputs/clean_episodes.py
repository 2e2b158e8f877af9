"""Episodes of a simulated arm in every control mode that no check has anything to say about, to seed faults into."""

import functools
from collections.abc import Sequence

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from pipelines.contract.episode import Episode, Reference
from pipelines.contract.slots import CONTROL_MODES

HZ = 20.0
N_STEPS = 120
CAMERAS = ("base_0_rgb", "left_wrist_0_rgb")
TASKS = ("lift the red cube", "open the drawer")


def clean_episode(number: int, control_mode: str = "joint_position", split: str = "train") -> Episode:
    """A lone six-joint arm that reaches, grasps something half as wide as its fingers open, and lets it go."""
    assert control_mode in CONTROL_MODES
    targets = _targets(number, is_pose=control_mode.startswith("ee"))
    state, action = np.zeros((2, N_STEPS, 18), np.float32)
    state[:, :6] = _follow(targets)
    action[:, :6] = _commands(targets, state[:, :6], control_mode)
    state[:, 6], action[:, 6] = _gripper(number)
    mask = np.arange(18) < 7
    return Episode(
        reference=Reference(uri=f"logs/{number}", key=f"ep{number}", split=split),
        robot="ur5e",
        control_mode=control_mode,
        control_hz=HZ,
        state=state,
        action=action,
        timestamp_s=np.arange(N_STEPS) / HZ,
        state_mask=mask,
        action_mask=mask,
        parts={"arm0": (0, 1, 2, 3, 4, 5), "gripper0": (6,)},
        images={camera: pictures(10 * number + i) for i, camera in enumerate(CAMERAS)},
        dataset_cameras=CAMERAS,
        task=TASKS[number % 2],
        language=(TASKS[number % 2],),
        success=1,
        is_terminal=True,
        reward=np.zeros(N_STEPS, np.float32),
        discount=np.ones(N_STEPS, np.float32),
        is_idle=np.zeros(N_STEPS, bool),
    )


def clean_episodes(control_mode: str = "joint_position", n: int = 4) -> list[Episode]:
    """Several of them."""
    return [clean_episode(number, control_mode) for number in range(n)]


@functools.cache
def pictures(seed: int) -> Sequence[bytes]:
    """N_STEPS pictures of a block that moves over a gray ground."""
    frames = []
    for step in range(N_STEPS):
        pixels = np.full((224, 224, 3), 60 + seed % 100, np.uint8)
        x = 8 * (step % 25)
        pixels[40 + seed % 60 : 80 + seed % 60, x : x + 30] = (200, 40, 40)
        frames.append(simplejpeg.encode_jpeg(pixels, quality=80, colorspace="RGB"))
    return frames


def _targets(number: int, is_pose: bool) -> NDArray[np.float64]:
    """Commanded joints or poses [t, 6]: four smooth moves between places that depend on the number."""
    rng = np.random.default_rng(number)
    reach = np.array([0.15, 0.15, 0.1, 0.4, 0.4, 0.6]) if is_pose else np.full(6, 0.8)
    center = np.array([0.45, 0.0, 0.25, 0.0, 0.0, 0.0]) if is_pose else np.array([0.0, -1.5, 1.6, -1.6, -1.5, 0.0])
    places = center + reach * rng.uniform(-1, 1, (5, 6))
    phase = np.linspace(0, 4, N_STEPS)
    index = np.minimum(phase.astype(int), 3)
    blend = (phase - index)[:, None]
    blend = blend**3 * (10 - 15 * blend + 6 * blend**2)
    return places[index] * (1 - blend) + places[index + 1] * blend


def _follow(targets: NDArray[np.float64]) -> NDArray[np.float64]:
    """Where an arm is that nears its target by half in every step."""
    reached = targets.copy()
    for step in range(1, N_STEPS):
        reached[step] = reached[step - 1] + 0.5 * (targets[step - 1] - reached[step - 1])
    return reached


def _commands(targets: NDArray[np.float64], state: NDArray[np.float32], control_mode: str) -> NDArray[np.float64]:
    if control_mode in ("joint_position", "ee_absolute"):
        return targets
    change = np.diff(state, axis=0, append=state[-1:])
    return change * HZ if control_mode == "joint_velocity" else change / 0.9


def _gripper(number: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Fingers and command [t]: open, closed for 50 steps around something, open again."""
    command = np.zeros(N_STEPS)
    command[35 + number % 5 : 85 + number % 5] = 1.0
    fingers = np.zeros(N_STEPS)
    for step in range(1, N_STEPS):
        aim = min(command[step - 1], 0.5)
        fingers[step] = fingers[step - 1] + np.clip(aim - fingers[step - 1], -0.1, 0.1)
    return fingers, command
