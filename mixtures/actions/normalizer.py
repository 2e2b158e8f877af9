"""Actions relative to a chunk's first state, and the normalization of states and chunks by pool of statistics."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixtures.actions.rotations import euler_to_relative, relative_to_euler, unwrap_chunk, wrap_angle
from mixtures.specs.grammar import ActionMode, Normalization, RotationForm
from pipelines.contract.units import is_absolute
from pipelines.shards.scales import Affine
from pipelines.shards.statistics import NormStatistics

RELATIVE_PARTS = ("arm0", "arm1", "torso", "waist", "head")
ARMS = ("arm0", "arm1")
_ROTATIONS = slice(3, 6)

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]
Triple = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class ActionForm:
    """How the chunks of one pool are stated. relative, angles: bool [d]; rotations: the slots of roll, pitch, yaw.

    relative: slots that are stated from the first state on. angles: slots of Euler angles, unwrapped inside a chunk.
    rotations: of arms that are stated as rotation vectors; their slots are neither relative nor angles.
    """

    relative: Mask
    angles: Mask
    rotations: tuple[Triple, ...] = ()


def action_form(
    norm_key: str,
    parts: Mapping[str, Sequence[int]],
    n_slots: int,
    mode: ActionMode,
    rotation: RotationForm = "euler",
) -> ActionForm:
    """The form of a norm key's (or pool's) chunks under a mixture's action rule. n_slots: the width of the chunks.

    Arms, torso, waist and head of modes whose actions are targets (joint_position, ee_absolute) can be relative;
    grippers, the base and modes whose actions are changes stay as they are. Only ee_absolute has Euler angles.

    >>> parts = {"arm0": (0, 1, 2, 3, 4, 5), "gripper0": (6,)}
    >>> form = action_form("a/ee_absolute/pi18/v1", parts, 18, "relative_to_first_state")
    >>> np.flatnonzero(form.relative).tolist(), np.flatnonzero(form.angles).tolist()
    ([0, 1, 2, 3, 4, 5], [3, 4, 5])
    >>> action_form("a/ee_absolute/pi18/v1", parts, 18, "absolute", "relative_rotvec").rotations
    ((3, 4, 5),)
    """
    relative, angles = np.zeros(n_slots, np.bool_), np.zeros(n_slots, np.bool_)
    control_mode = norm_key.split("/")[1]
    if is_absolute(control_mode) and mode == "relative_to_first_state":
        for part in RELATIVE_PARTS:
            relative[list(parts.get(part, ()))] = True
    rotations: list[Triple] = []
    if control_mode == "ee_absolute":
        for part in ARMS:
            slots = tuple(parts.get(part, ()))[_ROTATIONS]
            if rotation == "relative_rotvec" and len(slots) == 3:
                rotations.append((slots[0], slots[1], slots[2]))
                relative[list(slots)] = False
            else:
                angles[list(slots)] = True
    return ActionForm(relative=relative, angles=angles, rotations=tuple(rotations))


def to_form(
    action: NDArray[Any], state: NDArray[Any], known: Mask, action_mask: Mask, forms: Sequence[ActionForm]
) -> NDArray[np.float64]:
    """Physical chunks [b, h, d] as their forms state them; float64. state: of the first step, [b, d].

    known: bool [b, d], slots that are both measured and commanded. A slot that is not measured stays absolute, and its
    angles are unwrapped from the chunk's first target on.
    """
    moved = action.astype(np.float64)
    d = action.shape[-1]
    relative, angles = _masks(forms, "relative", d) & known, _masks(forms, "angles", d) & action_mask
    for triple, rows in _rotations(forms, known):
        cut = _cut(rows, moved.shape[1], triple)
        moved[cut] = euler_to_relative(moved[cut], state[rows][:, list(triple)].astype(np.float64))
    if angles.any():
        start = np.where(angles & known, state, moved[:, 0]).astype(np.float64)
        moved = np.where(angles[:, None], unwrap_chunk(moved, start), moved)
    # After unwrapping, so that a difference of 2 pi between state and target does not stay in it.
    moved -= np.where(relative, state, 0)[:, None]
    return moved


def from_form(
    action: NDArray[np.float64], state: NDArray[Any], known: Mask, forms: Sequence[ActionForm]
) -> NDArray[np.float64]:
    """The inverse of `to_form`, with angles in (-pi, pi]."""
    physical = action + np.where(_masks(forms, "relative", action.shape[-1]) & known, state, 0)[:, None]
    angles = _masks(forms, "angles", action.shape[-1])
    if angles.any():
        physical = np.where(angles[:, None], wrap_angle(physical), physical)
    for triple, rows in _rotations(forms, known):
        cut = _cut(rows, physical.shape[1], triple)
        physical[cut] = relative_to_euler(physical[cut], state[rows][:, list(triple)].astype(np.float64))
    return physical


def _cut(rows: NDArray[np.int64], horizon: int, triple: Triple) -> tuple[NDArray[np.int64], ...]:
    """The index of some samples' slots at every step of chunks [b, h, d]."""
    return rows[:, None, None], np.arange(horizon)[None, :, None], np.array(triple)[None, None]


def _masks(forms: Sequence[ActionForm], name: str, n_slots: int) -> Mask:
    return np.stack([getattr(form, name) for form in forms]) if forms else np.zeros((0, n_slots), np.bool_)


def _rotations(forms: Sequence[ActionForm], known: Mask) -> list[tuple[Triple, NDArray[np.int64]]]:
    """The samples of every triple of rotation slots that is measured and commanded."""
    triples = dict.fromkeys(triple for form in forms for triple in form.rotations)
    has = {
        triple: np.array([triple in form.rotations for form in forms]) & known[:, list(triple)].all(axis=1)
        for triple in triples
    }
    return [(triple, np.flatnonzero(rows)) for triple, rows in has.items() if rows.any()]


@dataclass(frozen=True, kw_only=True)
class Normalizer:
    """Maps physical states and action chunks to what the model sees, and back.

    statistics: by pool, which is the norm key where a mixture does not divide it (see `mixtures.actions.pools`); those
    of the actions are of the form that the chunks have. parts: by pool, the action slots of each part of the robot.
    """

    statistics: Mapping[str, NormStatistics]
    parts: Mapping[str, Mapping[str, tuple[int, ...]]]
    mode: ActionMode
    normalization: Normalization
    rotation: RotationForm = "euler"

    @property
    def n_slots(self) -> int:
        """The width of the vectors."""
        return next(iter(self.statistics.values())).n_slots

    def normalize_state(self, norm_keys: Sequence[str], state: Floats, mask: Mask) -> Floats:
        """Physical [b, d] to normalized float32 [b, d], unclipped; slots outside mask [b, d] are 0."""
        center, half_range = self._affines("state", norm_keys)
        return np.where(mask, (state - center) / half_range, 0).astype(np.float32)

    def normalize_action(
        self, norm_keys: Sequence[str], action: Floats, state: Floats, state_mask: Mask, action_mask: Mask
    ) -> Floats:
        """Physical chunks [b, h, d] to normalized float32 [b, h, d]; state [b, d] is that of the first step."""
        moved: NDArray[Any] = action
        # Most batches are stated as they were recorded; the test saves two copies of them.
        if self._changes(norm_keys):
            moved = to_form(action, state, state_mask & action_mask, action_mask, self._forms_of(norm_keys))
        center, half_range = self._affines("action", norm_keys)
        values = np.subtract(moved, center[:, None])
        values /= half_range[:, None]
        normalized = np.zeros(values.shape, np.float32)
        np.copyto(normalized, values, where=action_mask[:, None], casting="same_kind")
        return normalized

    def unnormalize_action(
        self, norm_keys: Sequence[str], action: Floats, state: Floats, state_mask: Mask, action_mask: Mask
    ) -> Floats:
        """The inverse of `normalize_action`: absolute physical chunks, float32 [b, h, d]; masked slots are 0."""
        center, half_range = self._affines("action", norm_keys)
        physical = action * half_range[:, None] + center[:, None]
        if self._changes(norm_keys):
            physical = from_form(physical, state, state_mask & action_mask, self._forms_of(norm_keys))
        return np.where(action_mask[:, None], physical, 0).astype(np.float32)

    def near(self, norm_keys: Sequence[str], action: Floats, reference: Floats) -> Floats:
        """Chunks [b, h, d] with every Euler angle of ee_absolute within half a turn of the reference's."""
        forms = [action_form(key, self.parts[key], self.n_slots, "absolute") for key in norm_keys]
        angles = _masks(forms, "angles", self.n_slots)[:, None]
        close = reference + wrap_angle(action.astype(np.float64) - reference)
        return np.where(angles, close, action).astype(np.float32)

    def _changes(self, norm_keys: Sequence[str]) -> bool:
        """Whether any sample's chunk has another form than the recorded one."""
        return any(self._changed[key] for key in set(norm_keys))

    def _forms_of(self, norm_keys: Sequence[str]) -> list[ActionForm]:
        return [self._forms[key] for key in norm_keys]

    @cached_property
    def _forms(self) -> dict[str, ActionForm]:
        return {
            key: action_form(key, self.parts[key], value.n_slots, self.mode, self.rotation)
            for key, value in self.statistics.items()
        }

    @cached_property
    def _changed(self) -> dict[str, bool]:
        return {
            key: bool(form.relative.any() or form.angles.any() or form.rotations) for key, form in self._forms.items()
        }

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {key: row for row, key in enumerate(self.statistics)}

    @cached_property
    def _tables(self) -> dict[str, NDArray[np.float64]]:
        """Per array, centers and half ranges of all pools, float64 [2, pools, d]."""

        def stack(affines: Sequence[Affine]) -> NDArray[np.float64]:
            return np.array([[a.center for a in affines], [a.half_range for a in affines]])

        values = self.statistics.values()
        return {
            "state": stack([s.state.affine(self.normalization) for s in values]),
            "action": stack([s.action.affine(self.normalization) for s in values]),
        }

    def _affines(self, array: str, norm_keys: Sequence[str]) -> NDArray[np.float64]:
        """Centers and half ranges of the samples, float64 [2, b, d]."""
        rows = self._rows
        return self._tables[array].take([rows[key] for key in norm_keys], axis=1)
