"""Pictures of the demo's world: a camera that looks down at the table from behind the robot, and one in each hand."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from trainers.demo.world import Array, Body, Scene, State, arm_points, hand_positions, world_to_base

FLOOR, TABLE = (196, 190, 180), (226, 222, 212)
LINK, JOINT, FINGER = (92, 98, 110), (52, 56, 66), (30, 30, 36)
COLOURS = {
    "red": (214, 38, 38),
    "green": (34, 158, 60),
    "blue": (36, 78, 214),
    "yellow": (238, 190, 20),
    "orange": (232, 120, 20),
    "purple": (140, 50, 170),
}
# The picture is this wide on the table, and its middle looks at this height above the lower edge of the scene.
VIEW_M, MIDDLE_M = 0.84, 0.41
WRIST_VIEW_M = 0.42
TILT_X, TILT_Z = 0.92, 0.40


def draw_base(body: Body, scene: Scene, state: State, width: int, height: int) -> NDArray[np.uint8]:
    """The exterior camera, fixed to the robot's base: uint8 [height, width, 3], forward is up, left is left.

    Whatever the format, a metre is as many parts of the picture's width.
    """
    scale = width / VIEW_M

    def project(points: Array) -> list[tuple[float, float]]:
        u = width / 2 - scale * points[..., 1]
        v = height / 2 + scale * (MIDDLE_M - 0.06 - TILT_X * points[..., 0] - TILT_Z * points[..., 2])
        return [(float(a), float(b)) for a, b in zip(np.atleast_1d(u), np.atleast_1d(v), strict=True)]

    picture = Image.new("RGB", (width, height), FLOOR)
    draw = ImageDraw.Draw(picture)
    table = world_to_base(state.base, np.array([[0.16, 0.75, 0], [0.16, -0.75, 0], [0.95, -0.75, 0], [0.95, 0.75, 0]]))
    draw.polygon(project(table), fill=TABLE)
    for index in np.argsort(-state.items[:, 0]):
        item = scene.items[index]
        low, high = _corners(np.array(item.size))
        rgb = np.array(COLOURS[item.colour])
        front = [low[0], low[1], high[1], high[0]]
        place = state.items[index]
        draw.polygon(project(world_to_base(state.base, place + np.array(front))), fill=tuple((rgb * 0.72).astype(int)))
        draw.polygon(project(world_to_base(state.base, place + np.array(high))), fill=tuple(rgb))
    for arm, points in enumerate(arm_points(body, state.joints)):
        _draw_arm(draw, project(points), scale, float(state.gripper[arm]))
    return np.asarray(picture)


def draw_wrist(body: Body, scene: Scene, state: State, arm: int, width: int, height: int) -> NDArray[np.uint8]:
    """The camera in one hand, straight down, nearer things larger: uint8 [height, width, 3]."""
    hand = hand_positions(body, state.joints)[arm]
    distance = hand[2] + 0.20
    scale = height / WRIST_VIEW_M * 0.30

    def project(points: Array) -> list[tuple[float, float]]:
        per_m = scale / np.maximum(0.08, distance - points[..., 2])
        u = width / 2 - per_m * (points[..., 1] - hand[1])
        v = 0.62 * height - per_m * (points[..., 0] - hand[0])
        return [(float(a), float(b)) for a, b in zip(u, v, strict=True)]

    picture = Image.new("RGB", (width, height), TABLE)
    draw = ImageDraw.Draw(picture)
    for index, item in enumerate(scene.items):
        low, high = _corners(np.array(item.size))
        rgb = np.array(COLOURS[item.colour])
        for face, shade in ((low, 0.6), (high, 1.0)):
            corners = world_to_base(state.base, state.items[index] + np.array(face))
            draw.polygon(project(corners), fill=tuple((rgb * shade).astype(int)))
    gap = width * (0.05 + 0.13 * (1.0 - float(state.gripper[arm])))
    for side in (-1, 1):
        x = width / 2 + side * gap
        draw.rectangle([x - 0.03 * width, 0.55 * height, x + 0.03 * width, height], fill=FINGER)
    return np.asarray(picture)


def _corners(size: Array) -> tuple[list[Array], list[Array]]:
    """The lower and upper four corners of a block around its centre, near edge first."""
    x, y, z = size / 2
    ring = ((-x, y), (-x, -y), (x, -y), (x, y))
    return [np.array([a, b, -z]) for a, b in ring], [np.array([a, b, z]) for a, b in ring]


def _draw_arm(draw: ImageDraw.ImageDraw, points: list[tuple[float, float]], scale: float, gripper: float) -> None:
    """Links as thin lines, so that they hide little, and two fingers whose gap shows the gripper."""
    draw.line(points[:3], fill=LINK, width=max(2, round(0.030 * scale)), joint="curve")
    draw.line(points[2:], fill=LINK, width=max(1, round(0.018 * scale)))
    for u, v in points[:3]:
        radius = 0.022 * scale
        draw.ellipse([u - radius, v - radius, u + radius, v + radius], fill=JOINT)
    u, v = points[3]
    gap = scale * (0.012 + 0.035 * (1.0 - gripper))
    for side in (-1, 1):
        x = u + side * gap
        draw.line([(x, v - 0.03 * scale), (x, v + 0.02 * scale)], fill=FINGER, width=max(2, round(0.018 * scale)))
    top = v - 0.03 * scale
    draw.line([(u - gap, top), (u + gap, top)], fill=FINGER, width=max(1, round(0.014 * scale)))
