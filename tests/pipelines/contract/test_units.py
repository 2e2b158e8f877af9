"""The unit and the meaning of every slot in every control mode, as literals."""

import numpy as np
import pytest

from pipelines.contract.units import describe_unit, holds_position, is_absolute, is_delta, part_quantities, slot_units

DUAL = {"arm0": (0, 1, 2, 3, 4, 5), "gripper0": (6,), "base": (14, 15, 16), "torso": (17,)}


@pytest.mark.parametrize(
    ("control_mode", "side", "expected"),
    [
        ("joint_position", "state", ["rad"] * 6),
        ("joint_position", "action", ["rad"] * 6),
        ("joint_velocity", "state", ["rad"] * 6),
        ("joint_velocity", "action", ["rad/s"] * 6),
        ("ee_delta", "state", ["m"] * 3 + ["rad"] * 3),
        ("ee_delta", "action", ["m"] * 3 + ["rad"] * 3),
        ("ee_absolute", "action", ["m"] * 3 + ["rad"] * 3),
    ],
)
def test_the_unit_of_an_arm_follows_the_mode_and_the_side(control_mode: str, side: str, expected: list[str]) -> None:
    units = slot_units(control_mode, DUAL, side)
    assert [units[slot] for slot in range(6)] == expected
    assert [units[slot] for slot in (6, 14, 15, 16, 17)] == ["closed", "m/s", "m/s", "rad/s", "m"]
    assert sorted(units) == [0, 1, 2, 3, 4, 5, 6, 14, 15, 16, 17]


def test_a_nonholonomic_base_has_no_sideways_speed() -> None:
    assert slot_units("joint_position", {"base": (14, 15)}, "action") == {14: "m/s", 15: "rad/s"}


def test_pages_say_that_a_delta_is_per_step() -> None:
    quantities = part_quantities("arm0", 6, "ee_delta", "action")
    assert [describe_unit(quantity) for quantity in quantities] == ["m a step"] * 3 + ["rad a step"] * 3


def test_only_two_modes_are_absolute_and_one_is_a_delta() -> None:
    modes = ("joint_position", "joint_velocity", "ee_delta", "ee_absolute")
    assert [mode for mode in modes if is_absolute(mode)] == ["joint_position", "ee_absolute"]
    assert [mode for mode in modes if is_delta(mode)] == ["ee_delta"]


def test_grippers_hold_positions_in_every_mode_and_arms_only_in_absolute_ones() -> None:
    parts = {"arm0": (0, 1), "gripper0": (6,), "base": (14,), "torso": (17,)}
    assert np.flatnonzero(holds_position("joint_position", parts, 18)).tolist() == [0, 1, 6, 17]
    assert np.flatnonzero(holds_position("ee_delta", parts, 18)).tolist() == [6, 17]
