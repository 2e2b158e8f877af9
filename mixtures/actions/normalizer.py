"""Actions relative to a chunk's first state, and the normalization of states and chunks by norm key."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixtures.specs.grammar import ActionMode, Normalization
from pipelines.contract.slots import N_SLOTS
from pipelines.contract.units import is_absolute
from pipelines.shards.statistics import Affine, NormStatistics

RELATIVE_PARTS = ("arm0", "arm1", "torso")
_ROTATIONS = slice(3, 6)

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Normalizer:
    """Maps physical states and action chunks to what the model sees, and back.

    statistics: by norm key; those of the actions are of relative values where the mode is relative. parts: by norm
    key, the action slots of each part of the robot.
    """

    statistics: Mapping[str, NormStatistics]
    parts: Mapping[str, Mapping[str, tuple[int, ...]]]
    mode: ActionMode
    normalization: Normalization

    def normalize_state(self, norm_keys: Sequence[str], state: Floats, mask: Mask) -> Floats:
        """Physical [b, 18] to normalized float32 [b, 18], unclipped; slots outside mask [b, 18] are 0."""
        center, half_range = self._affines("state", norm_keys)
        return np.where(mask, (state - center) / half_range, 0).astype(np.float32)

    def normalize_action(
        self, norm_keys: Sequence[str], action: Floats, state: Floats, state_mask: Mask, action_mask: Mask
    ) -> Floats:
        """Physical chunks [b, h, 18] to normalized float32 [b, h, 18]; state [b, 18] is that of the first step."""
        moved: NDArray[Any] = action
        if self.mode == "relative_to_first_state":
            relative, wraps = self.relative_slots(norm_keys, state_mask & action_mask)
            moved = absolute_to_relative(action, state, relative, wraps)
        center, half_range = self._affines("action", norm_keys)
        values = np.subtract(moved, center[:, None])
        values /= half_range[:, None]
        normalized = np.zeros(values.shape, np.float32)
        np.copyto(normalized, values, where=action_mask[:, None], casting="same_kind")
        return normalized

    def unnormalize_action(
        self, norm_keys: Sequence[str], action: Floats, state: Floats, state_mask: Mask, action_mask: Mask
    ) -> Floats:
        """The inverse of `normalize_action`: absolute physical chunks, float32 [b, h, 18]; masked slots are 0."""
        center, half_range = self._affines("action", norm_keys)
        physical = action * half_range[:, None] + center[:, None]
        if self.mode == "relative_to_first_state":
            relative, wraps = self.relative_slots(norm_keys, state_mask & action_mask)
            physical = relative_to_absolute(physical, state, relative, wraps)
        return np.where(action_mask[:, None], physical, 0).astype(np.float32)

    def relative_slots(self, norm_keys: Sequence[str], mask: Mask) -> tuple[Mask, Mask]:
        """Which slots of each sample are relative, and which of those are angles that wrap; both bool [b, 18]."""
        rows = [self._rows[key] for key in norm_keys]
        return self._relative[rows] & mask, self._wraps[rows] & mask

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {key: row for row, key in enumerate(self.statistics)}

    @cached_property
    def _relative(self) -> Mask:
        return np.array([relative_slots(key, self.parts[key])[0] for key in self.statistics])

    @cached_property
    def _wraps(self) -> Mask:
        return np.array([relative_slots(key, self.parts[key])[1] for key in self.statistics])

    @cached_property
    def _tables(self) -> dict[str, NDArray[np.float64]]:
        """Per array, centers and half ranges of all norm keys, float64 [2, keys, 18]."""

        def stack(affines: Sequence[Affine]) -> NDArray[np.float64]:
            return np.array([[a.center for a in affines], [a.half_range for a in affines]])

        values = self.statistics.values()
        return {
            "state": stack([s.state.affine(self.normalization) for s in values]),
            "action": stack([s.action.affine(self.normalization) for s in values]),
        }

    def _affines(self, array: str, norm_keys: Sequence[str]) -> NDArray[np.float64]:
        """Centers and half ranges of the samples, float64 [2, b, 18]."""
        rows = self._rows
        return self._tables[array].take([rows[key] for key in norm_keys], axis=1)


def relative_slots(norm_key: str, parts: Mapping[str, tuple[int, ...]]) -> tuple[Mask, Mask]:
    """The slots that a chunk states relative to its first state, and those among them that are angles; bool [18].

    Arms and torso of modes whose actions are places (joint_position, ee_absolute); grippers, the base and modes
    whose actions are changes stay as they are. The rotations of ee_absolute wrap to (-pi, pi].

    >>> relative, wraps = relative_slots("a/ee_absolute/pi18/v1", {"arm0": (0, 1, 2, 3, 4, 5), "gripper0": (6,)})
    >>> np.flatnonzero(relative).tolist(), np.flatnonzero(wraps).tolist()
    ([0, 1, 2, 3, 4, 5], [3, 4, 5])
    """
    relative, wraps = np.zeros(N_SLOTS, np.bool_), np.zeros(N_SLOTS, np.bool_)
    control_mode = norm_key.split("/")[1]
    if is_absolute(control_mode):
        for part in RELATIVE_PARTS:
            relative[list(parts.get(part, ()))] = True
            if control_mode == "ee_absolute" and part != "torso":
                wraps[list(parts.get(part, ())[_ROTATIONS])] = True
    return relative, wraps


def absolute_to_relative(action: Floats, state: Floats, relative: Mask, wraps: Mask) -> NDArray[np.float64]:
    """action [b, h, 18] minus state [b, 18] in the relative slots [b, 18]; float64."""
    moved = action.astype(np.float64) - np.where(relative, state, 0)[:, None]
    return np.where(wraps[:, None], wrap_angle(moved), moved)


def relative_to_absolute(
    action: NDArray[np.float64], state: Floats, relative: Mask, wraps: Mask
) -> NDArray[np.float64]:
    """The inverse of `absolute_to_relative`, for angles in (-pi, pi]."""
    moved = action + np.where(relative, state, 0)[:, None]
    return np.where(wraps[:, None], wrap_angle(moved), moved)


def wrap_angle(angle: NDArray[np.float64]) -> NDArray[np.float64]:
    """The same angle in (-pi, pi]; angles that are there already stay as they are, bit for bit.

    >>> wrap_angle(np.array([4.0, -4.0, 1.0])).round(4).tolist()
    [-2.2832, 2.2832, 1.0]
    """
    inside = (angle > -np.pi) & (angle <= np.pi)
    return np.where(inside, angle, np.pi - (np.pi - angle) % (2 * np.pi))
