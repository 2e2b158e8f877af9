"""The demo's small world: robots at a table, objects to lift, the physics of one step, and the success check."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

PHYSICS_HZ = 100.0
JOINT_LAG_S = 0.08
GRIP_REACH_M = 0.07
GRIP_CLOSED = 0.4
GRIP_WITH_ITEM = 0.55
LIFTED_M = 0.08


@dataclass(frozen=True, kw_only=True)
class Body:
    """A robot of the demo.

    robot: its name in the embodiment registry. shoulders: per arm, left first, xyz in the base frame (x forward,
    y left, z up; m; the table top is z = 0). links: upper arm, forearm, hand down to the fingertips (m).
    joint_index: where yaw, shoulder, elbow, wrist pitch and hand roll stand among the arm's joints; others stay 0.
    keeps_heading: whether the hand rolls against the arm's yaw, so that it always points the same way.
    pace: how much longer than a quick robot it takes for every motion.
    """

    robot: str
    control_hz: float
    shoulders: tuple[tuple[float, float, float], ...] = ((0.0, 0.0, 0.2),)
    links: tuple[float, float, float] = (0.42, 0.40, 0.14)
    n_joints: int = 6
    joint_index: tuple[int, int, int, int, int] = (0, 1, 2, 3, 5)
    is_mobile: bool = False
    keeps_heading: bool = True
    pace: float = 1.0

    @property
    def n_arms(self) -> int:
        return len(self.shoulders)

    @property
    def physics_steps(self) -> int:
        """Physics steps in one control step, so that they are `PHYSICS_HZ` or a little off it."""
        return max(1, round(PHYSICS_HZ / self.control_hz))


TWO_SHOULDERS = ((0.0, 0.28, 0.2), (0.0, -0.28, 0.2))
SEVEN_JOINTS = (0, 1, 3, 5, 6)
WIDOWX = Body(robot="widowx", control_hz=5.0, links=(0.34, 0.32, 0.10), keeps_heading=False, pace=2.0)
FRANKA = Body(robot="franka", control_hz=15.0, n_joints=7, joint_index=SEVEN_JOINTS, pace=1.2)
UR5E = Body(robot="ur5e", control_hz=20.0)
UR5E_DUAL = Body(robot="ur5e_dual", control_hz=20.0, shoulders=TWO_SHOULDERS)
MOBILE_DUAL = Body(robot="mobile_fibocom", control_hz=50.0, shoulders=TWO_SHOULDERS, is_mobile=True, pace=0.65)


@dataclass(frozen=True, kw_only=True)
class Item:
    """An object on the table: a block of one colour, gripped at all of its handles at once.

    size: extent in x, y, z (m). handles: xyz from its centre, one per arm that must hold it, left first.
    """

    colour: str
    size: tuple[float, float, float]
    handles: tuple[tuple[float, float, float], ...] = ((0.0, 0.0, 0.0),)


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What does not change during an episode: the objects, which one the sentence means, and the sentence."""

    items: tuple[Item, ...]
    target: int
    task: str


@dataclass(frozen=True, kw_only=True)
class State:
    """What changes: joints [arms, joints] in rad, gripper [arms] from 0 open to 1 closed, base pose x, y, yaw in the
    world, items [items, 3] (centres, m, world), and per arm the (item, handle) it holds or None."""

    joints: Array
    gripper: Array
    base: Array
    items: Array
    held: tuple[tuple[int, int] | None, ...]


@dataclass(frozen=True, kw_only=True)
class Command:
    """Targets for one control step: joints [arms, joints], gripper [arms], base velocity vx, vy, wz (m/s, rad/s)."""

    joints: Array
    gripper: Array
    base: Array


def hand_positions(body: Body, joints: Array) -> Array:
    """Forward kinematics: joints [..., arms, joints] -> fingertips [..., arms, 3] in the base frame."""
    yaw, shoulder, elbow, wrist, _ = (joints[..., i] for i in body.joint_index)
    upper, fore, hand = body.links
    reach = upper * np.cos(shoulder) + fore * np.cos(shoulder + elbow) + hand * np.cos(shoulder + elbow + wrist)
    height = upper * np.sin(shoulder) + fore * np.sin(shoulder + elbow) + hand * np.sin(shoulder + elbow + wrist)
    return np.stack([reach * np.cos(yaw), reach * np.sin(yaw), height], axis=-1) + np.array(body.shoulders)


def headings(body: Body, joints: Array) -> Array:
    """Which way the hands point about the vertical: joints [..., arms, joints] -> rad [..., arms], 0 straight ahead."""
    return joints[..., body.joint_index[0]] - joints[..., body.joint_index[4]]


def arm_points(body: Body, joints: Array) -> Array:
    """Shoulder, elbow, wrist and fingertips of each arm, [arms, 4, 3] in the base frame: what a picture shows."""
    yaw, shoulder, elbow, _, _ = (joints[..., i] for i in body.joint_index)
    upper, fore, _ = body.links
    forward = np.stack([np.cos(yaw), np.sin(yaw), np.zeros_like(yaw)], axis=-1)
    up = np.array([0.0, 0.0, 1.0])
    base = np.array(body.shoulders)
    mid = base + upper * (np.cos(shoulder)[:, None] * forward + np.sin(shoulder)[:, None] * up)
    lower = shoulder + elbow
    wrist = mid + fore * (np.cos(lower)[:, None] * forward + np.sin(lower)[:, None] * up)
    return np.stack([base, mid, wrist, hand_positions(body, joints)], axis=1)


def joints_for(body: Body, hands: Array) -> Array:
    """Inverse kinematics, hand pointing down, elbow up: fingertips [..., arms, 3] -> joints [..., arms, joints].

    A point out of reach gives the joints that stretch toward it.
    """
    upper, fore, hand = body.links
    delta = hands - np.array(body.shoulders)
    yaw = np.arctan2(delta[..., 1], delta[..., 0])
    reach, height = np.hypot(delta[..., 0], delta[..., 1]), delta[..., 2] + hand
    bend = (reach**2 + height**2 - upper**2 - fore**2) / (2 * upper * fore)
    elbow = -np.arccos(np.clip(bend, -1.0, 1.0))
    shoulder = np.arctan2(height, reach) - np.arctan2(fore * np.sin(elbow), upper + fore * np.cos(elbow))
    joints = np.zeros((*hands.shape[:-1], body.n_joints))
    roll = yaw if body.keeps_heading else np.zeros_like(yaw)
    values = (yaw, shoulder, elbow, -np.pi / 2 - shoulder - elbow, roll)
    for index, value in zip(body.joint_index, values, strict=True):
        joints[..., index] = value
    return joints


def base_to_world(base: Array, points: Array) -> Array:
    """Moves points [..., 3] from the frame of a base at x, y, yaw into the world."""
    cos, sin = np.cos(base[2]), np.sin(base[2])
    x, y = points[..., 0], points[..., 1]
    return np.stack([base[0] + cos * x - sin * y, base[1] + sin * x + cos * y, points[..., 2]], axis=-1)


def world_to_base(base: Array, points: Array) -> Array:
    """The inverse of `base_to_world`."""
    cos, sin = np.cos(base[2]), np.sin(base[2])
    x, y = points[..., 0] - base[0], points[..., 1] - base[1]
    return np.stack([cos * x + sin * y, -sin * x + cos * y, points[..., 2]], axis=-1)


def physics_steps(body: Body, scene: Scene, state: State, command: Command) -> Iterator[State]:
    """Yields the states of one control step at the physics rate; the last one is where the step ends."""
    duration_s = 1.0 / (body.control_hz * body.physics_steps)
    for _ in range(body.physics_steps):
        state = _physics_step(body, scene, state, command, duration_s)
        yield state


def step(body: Body, scene: Scene, state: State, command: Command) -> State:
    """Advances the world by one control step."""
    *_, last = physics_steps(body, scene, state, command)
    return last


def lifted(scene: Scene, state: State) -> NDArray[np.bool_]:
    """Which objects hang clear of the table, bool [items]."""
    heights = zip(state.items[:, 2], scene.items, strict=True)
    return np.array([centre - item.size[2] / 2 > LIFTED_M for centre, item in heights])


def is_success(scene: Scene, state: State) -> bool:
    """Returns whether the object that the sentence means, and no other one, is lifted clear of the table."""
    up = lifted(scene, state)
    return bool(up[scene.target] and up.sum() == 1)


def _physics_step(body: Body, scene: Scene, state: State, command: Command, duration_s: float) -> State:
    """Joints and grippers lag behind their targets; held objects move with the hands, released ones fall."""
    share = 1.0 - np.exp(-duration_s / JOINT_LAG_S)
    limit = np.where([held is None for held in state.held], 1.0, GRIP_WITH_ITEM)
    turn = base_to_world(np.array([0.0, 0.0, state.base[2]]), np.append(command.base[:2], 0.0))[:2]
    moved = replace(
        state,
        joints=state.joints + share * (command.joints - state.joints),
        gripper=state.gripper + share * (np.minimum(command.gripper, limit) - state.gripper),
        base=state.base + duration_s * np.append(turn, command.base[2]),
    )
    before = base_to_world(state.base, hand_positions(body, state.joints))
    after = base_to_world(moved.base, hand_positions(body, moved.joints))
    held = tuple(_holds(scene, moved, arm, after[arm]) for arm in range(body.n_arms))
    items = state.items.copy()
    for index, item in enumerate(scene.items):
        arms = [arm for arm, grip in enumerate(held) if grip is not None and grip[0] == index]
        if len(arms) == len(item.handles):
            items[index] += (after[arms] - before[arms]).mean(axis=0)
            items[index, 2] = max(items[index, 2], item.size[2] / 2)
        elif not arms:
            items[index, 2] = item.size[2] / 2
    return replace(moved, items=items, held=held)


def _holds(scene: Scene, state: State, arm: int, hand: Array) -> tuple[int, int] | None:
    """The (item, handle) in this arm's gripper: kept while closed, taken when it closes around a free handle."""
    if state.gripper[arm] < GRIP_CLOSED:
        return None
    if state.held[arm] is not None:
        return state.held[arm]
    for index, item in enumerate(scene.items):
        for handle, offset in enumerate(item.handles):
            is_free = (index, handle) not in state.held
            if is_free and np.linalg.norm(state.items[index] + offset - hand) < GRIP_REACH_M:
                return index, handle
    return None
