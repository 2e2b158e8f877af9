"""Relabels actions with the motion that the arm then made, instead of the commanded one."""

import numpy as np
from numpy.typing import NDArray

from pipelines.contract.layouts import Slots
from pipelines.contract.native import NativeEpisode, Rejected
from pipelines.mapping.forms import wrap_angles
from pipelines.mapping.steps import keep_steps

Filled = tuple[NDArray[np.float32], NDArray[np.bool_]]
_FIRST_ANGLE = 3


def relabel_reached(native: NativeEpisode, state: Filled, action: Filled, slots: Slots) -> tuple[NativeEpisode, Filled]:
    """Returns the episode without its last step, which has no next state, and its actions relabelled.

    state, action: float32 [t, d] and masks [d], poses and changes of poses. slots: the action's, by part. An arm's
    action becomes the next state less this one, angles the short way round; grippers keep their commands. So do Octo
    (`relabel_actions`) and OpenVLA (`relabel_bridge_actions`) on Bridge, where commands of a slow controller and what
    the arm did differ; theirs do not wrap angles. Raises Rejected where the state lacks a slot of the arm.
    """
    (values, values_mask), (actions, actions_mask) = state, action
    moved = values[1:].astype(np.float64) - values[:-1]
    relabelled = actions[:-1].copy()
    for part, numbers in slots.items():
        if not part.startswith("arm"):
            continue
        lacking = [slot for slot in numbers if actions_mask[slot] and not values_mask[slot]]
        if lacking:
            raise Rejected("missing_key", f"{part}: expected a state in slots {lacking} to relabel actions by")
        angles = list(numbers[_FIRST_ANGLE:])
        moved[:, angles] = wrap_angles(moved[:, angles])
        chosen = [slot for slot in numbers if actions_mask[slot]]
        relabelled[:, chosen] = moved[:, chosen]
    kept = np.arange(native.n_steps) < native.n_steps - 1
    return keep_steps(native, kept, "no_reached_state"), (relabelled, actions_mask)
