"""What the numbers themselves say: units by range, grippers by their ends, rotations, and how actions follow states."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.contract.document import OPEN_QUESTION
from pipelines.contract.native import NativeEpisode
from pipelines.inspection.description import columns_of
from pipelines.inspection.roles import Block

Floats = NDArray[np.float64]
# No joint turns further; beyond it angles are degrees, and beyond a turn in degrees servo ticks.
_MOST_RAD, _MOST_DEGREES = 6.5, 400.0
# No arm on a table reaches further (m).
_REACH_M = 3.0
# Scales of grippers that many drivers share.
USUAL_ENDS = ((0.0, 1.0), (-1.0, 1.0), (0.0, 100.0), (0.0, 255.0), (0.0, 1000.0))
# A rotation vector is at most this long (rad), with some rounding.
_HALF_TURN = np.pi * 1.01


@dataclass(frozen=True, kw_only=True)
class Guess:
    """A value of a draft and why, or an open question: what to look for, and the choices."""

    value: object
    why: str

    @property
    def is_open(self) -> bool:
        return self.value == OPEN_QUESTION


def ask(why: str) -> Guess:
    """An open question."""
    return Guess(value=OPEN_QUESTION, why=why)


def span_of(blocks: Sequence[Block]) -> tuple[float, float]:
    """The least and greatest number of some blocks."""
    low = min(float(np.nanmin(block.feature.low[block.start : block.stop])) for block in blocks)
    return low, max(float(np.nanmax(block.feature.high[block.start : block.stop])) for block in blocks)


def joint_units(blocks: Sequence[Block]) -> Guess:
    """Whether joints are in degrees: True, False (rad), or an open question."""
    low, high = span_of(blocks)
    most = max(abs(low), abs(high))
    stated = {block.feature.unit for block in blocks if block.feature.unit}
    if stated == {"rad"}:
        return Guess(value=False, why="the source states rad")
    if most > _MOST_DEGREES:
        return ask(f"values reach {most:.4g}, more than a turn in degrees: servo ticks? Replace by scale and offset")
    if most > _MOST_RAD:
        return Guess(value=True, why=f"values reach {most:.4g}; in rad no joint turns so far")
    if most <= 1.001 and most >= 0.999:
        return ask("values end at exactly 1: shares of each joint's range? Then units: native; false: rad")
    if most < 0.05:
        return ask(f"values stay within {most:.2g}: false: rad, true: degrees")
    return Guess(value=False, why=f"values stay within {most:.3g}, as rad do")


def gripper_ends(block: Block, is_joint: bool = False) -> tuple[float, float]:
    """The two ends of a gripper's range, lower first: of a usual scale where the values fill one, else as seen.

    is_joint: whether it is called a joint, whose angle is no share of anything: only what fills a scale is on it.
    """
    low, high = span_of([block])
    for ends in USUAL_ENDS:
        width = ends[1] - ends[0]
        fits = low >= ends[0] - 0.1 * width and high <= ends[1] + 0.1 * width
        if fits and high - low > (0.97 if is_joint else 0.35) * width:
            return ends
    return float(f"{low:.3g}"), float(f"{high:.3g}")


def is_gripper_like(episodes: Sequence[NativeEpisode], key: str, column: int) -> bool:
    """Whether a column looks like a gripper's: few values, or within 0..1 or 0..100 while others go below zero."""
    columns = [columns_of(episode, key) for episode in episodes if key in episode.arrays]
    values = np.concatenate([array[:, column] for array in columns])
    others = np.concatenate([np.delete(array, column, axis=1) for array in columns])
    if len(values) > 10 and 1 < len(np.unique(values.round(3))) <= 3:
        return True
    low, high = float(values.min()), float(values.max())
    is_fraction = -0.1 < low < 0.4 and 0.8 < high < 1.15
    is_percent = low >= -1 and 1.5 < high <= 101 and np.abs(others).max() > _MOST_RAD
    return bool((is_fraction or is_percent) and (others < -0.02).any())


def has_unit_quaternion(episodes: Sequence[NativeEpisode], key: str, start: int) -> bool:
    """Whether four columns are of length one at every step, as quaternions are and nothing else is."""
    found = [columns_of(episode, key)[:, start : start + 4] for episode in episodes if key in episode.arrays]
    if not found or any(rows.shape[1] < 4 for rows in found):
        return False
    rows = np.concatenate(found)
    moves = rows.std(axis=0).max() > 1e-6
    return bool(moves and np.allclose(np.linalg.norm(rows, axis=1), 1.0, atol=1e-3))


def rotation_form(episodes: Sequence[NativeEpisode], block: Block, words: set[str]) -> Guess:
    """How three angles are to be read, by names, then by what a rotation vector or a pitch cannot be."""
    if words & {"rotvec", "axis"}:
        return Guess(value="xyz_rotvec", why="its name says a rotation vector")
    if words & {"rpy", "roll", "euler"}:
        return Guess(value="xyz_rpy", why="its name says roll, pitch, yaw; another order of angles has another form")
    found = [columns_of(episode, block.key) for episode in episodes if block.key in episode.arrays]
    rows = np.concatenate([array[:, block.start : block.start + 3] for array in found])
    if (longest := float(np.linalg.norm(rows, axis=1).max())) > _HALF_TURN:
        return Guess(value="xyz_rpy", why=f"no rotation vector: those end at 3.14, these are up to {longest:.3g} long")
    if (pitch := float(np.abs(rows[:, 1]).max())) > np.pi / 2 + 0.05:
        return Guess(value="xyz_rotvec", why=f"no roll, pitch, yaw: the second angle reaches {pitch:.3g}, beyond 1.57")
    return ask("three angles without a name: xyz_rpy, xyz_rotvec, xyz_euler_zyx or xyz_euler_zxy")


@dataclass(frozen=True, kw_only=True)
class Relation:
    """How an action relates to the state of the same columns.

    kind: `absolute` (the action is where the state goes), `delta` (what it changes by), or "". slope: action per
    change of the state. why: a sentence with the numbers.
    """

    kind: str
    slope: float = 1.0
    why: str = ""


def relate(episodes: Sequence[NativeEpisode], state: Block, action: Block) -> Relation:
    """Compares the action's columns with the next states, and with their changes.

    Columns of one name belong together: drivers publish states by the alphabet, commands from base to tool.
    """
    is_named = bool(state.names) and sorted(state.names) == sorted(action.names)
    order = [action.names.index(name) for name in state.names] if is_named else list(range(action.width))
    pairs = [
        (_columns(episode, state), _columns(episode, action)[:, order])
        for episode in episodes
        if state.key in episode.arrays and action.key in episode.arrays and episode.n_steps > 3
    ]
    if not pairs or state.width != action.width:
        return Relation(kind="")
    now = np.concatenate([s[:-1] for s, _ in pairs])
    after = np.concatenate([s[1:] for s, _ in pairs])
    commands = np.concatenate([a[:-1] for _, a in pairs])
    spread = np.ptp(now, axis=0)
    moving = spread > 1e-4
    if not moving.any():
        return Relation(kind="", why="the state does not move")
    error = float(np.median(np.abs(commands - after)[:, moving] / spread[moving]))
    follows = _correlation(commands, after)[moving]
    changes = _correlation(commands, after - now)[moving]
    if error < 0.2 and np.nanmedian(follows) > 0.7:
        share = f"{error:.1%} of its range"
        return Relation(kind="absolute", why=f"actions are where the state goes next (within {share} of it)")
    if np.nanmedian(changes) > 0.3:
        step = (after - now)[:, moving]
        slope = float((commands[:, moving] * step).sum() / max((step * step).sum(), 1e-12))
        why = f"actions follow the state's changes (correlation {np.nanmedian(changes):.2f}), {slope:.3g} times them"
        return Relation(kind="delta", slope=slope, why=why)
    return Relation(kind="", why="actions follow neither the next state nor its changes")


def _columns(episode: NativeEpisode, block: Block) -> Floats:
    return columns_of(episode, block.key)[:, block.start : block.stop]


def _correlation(x: Floats, y: Floats) -> Floats:
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    size = np.sqrt((x * x).sum(axis=0) * (y * y).sum(axis=0))
    return np.where(size > 0, (x * y).sum(axis=0) / np.where(size > 0, size, 1.0), np.nan)


def describe_ends(episodes: Sequence[NativeEpisode], block: Block) -> str:
    """How far a gripper goes, and where it begins and ends its episodes, by which a person sees which end is open."""
    low, high = span_of([block])
    found = [_columns(episode, block).mean(axis=1) for episode in episodes if block.key in episode.arrays]
    first, last = (np.median([values[i] for values in found]) for i in (0, -1))
    return f"values run from {low:.3g} to {high:.3g}, episodes begin at {first:.3g} and end at {last:.3g}"


def runs_against(episodes: Sequence[NativeEpisode], state: Block, action: Block) -> bool:
    """Whether a gripper's command falls where its state rises, so that their open ends are not the same."""
    pairs = [
        (_columns(episode, state).mean(axis=1), _columns(episode, action).mean(axis=1))
        for episode in episodes
        if state.key in episode.arrays and action.key in episode.arrays
    ]
    if not pairs:
        return False
    now, commands = (np.concatenate(side)[:, None] for side in zip(*pairs, strict=True))
    return bool(_correlation(now, commands)[0] < -0.3)
