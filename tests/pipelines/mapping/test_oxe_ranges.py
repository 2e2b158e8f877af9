"""Every Open X-Embodiment entry on values as the real data hold them: least, greatest and typical, as published.

States come from RDT's `dataset_stat.json` (cases/oxe_ranges.csv: metres, rad, 1 = open), put into native keys as RDT's
own code reads them; actions from the statistics of OpenVLA's readers. Neither knows our entries.
"""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from pipelines.contract.embodiments import get_embodiment
from pipelines.contract.episode import Episode
from pipelines.contract.native import NativeEpisode
from pipelines.mapping.adapters import Adapter, get_adapter, load_adapters
from pipelines.mapping.to_slots import to_episode
from pipelines.mapping.validate import find_fault
from tests.support.checkout import ROOT
from tests.support.inputs.oxe_values import (
    ACTIONS,
    STATES,
    Motion,
    Quantity,
    Way,
    action_motion,
    native_episode,
    read_ranges,
    state_motion,
)

Floats = NDArray[np.float64]
WORKSPACE_M = 2.0
# Entries whose stored actions are poses, by the published means: metres (or mm) that equal those of the state.
POSES = {
    "toto",
    "iamlab_cmu_pickup_insert",
    "ucsd_kitchen",
    "utokyo_pr2_opening_fridge",
    "utokyo_pr2_tabletop_manipulation",
    "utokyo_xarm_pick_and_place",
    "utokyo_xarm_bimanual",
}
# Published ranges of these go by another name. RDT clips Dobb-E's positions, where the tracking was lost, to +-10.
_RDT_NAMES = {"bridge_oxe": "bridge", "bridge_orig": "bridgev2", "fmb_dataset": "fmb", "droid_cartesian": "droid"}
STATISTICS = {
    get_adapter(name).name: found
    for name, found in read_ranges(ROOT / "tests/support/inputs/oxe_action_ranges.csv").items()
}


def published(name: str, shared_ranges: dict[str, dict[str, Quantity]]) -> dict[str, Quantity]:
    """The state's ranges of one entry, by RDT's names of quantities."""
    adapter = get_adapter(name)
    for candidate in (_RDT_NAMES.get(name, ""), name, *adapter.aliases):
        if candidate in shared_ranges:
            return shared_ranges[candidate]
    raise KeyError(name)


def converted(adapter: Adapter, native: NativeEpisode) -> Episode:
    episode = to_episode(native, adapter, get_embodiment(adapter.robot), tuple(adapter.all_cameras))
    assert find_fault(episode) is None
    return episode


@pytest.fixture(scope="session")
def rdt_ranges() -> dict[str, dict[str, Quantity]]:
    return read_ranges(ROOT.parent / "shared/cases/oxe_ranges.csv")


@pytest.mark.shared
@pytest.mark.parametrize("name", sorted(STATES))
def test_states_come_out_in_metres_as_published(name: str, rdt_ranges: dict[str, dict[str, Quantity]]) -> None:
    adapter, ranges = get_adapter(name), published(name, rdt_ranges)
    hz = adapter.control_hz or 10.0
    motion = state_motion(ranges, hz)
    if {"left_eef_pos_x", "left_arm_joint_0_pos"} & set(ranges):
        motion = replace(motion, left=state_motion(ranges, hz, "left_"))
    native = native_episode(adapter, motion.n_steps, (STATES[name], motion))
    episode = converted(adapter, native)
    assert [stretch.reason for stretch in episode.dropped] in ([], ["first_step_zero_action"])
    motion = _cut(motion, slice(motion.n_steps - episode.n_steps, None))
    arms = {"arm0": motion.left, "arm1": motion} if motion.left else {"arm0": motion}
    for part, arm in arms.items():
        assert arm is not None
        if adapter.control_mode.startswith("ee"):
            check_pose(episode, part, arm, hz, "eef_pos_x" in ranges)
        check_gripper(episode, part.replace("arm", "gripper"), arm, name)


def check_pose(episode: Episode, part: str, arm: Motion, hz: float, is_published: bool) -> None:
    """The state is what was published, in m and rad: no further than an arm reaches, no faster than it was made."""
    slots = np.array(episode.parts[part])
    mask = episode.state_mask[slots]
    if is_published and mask[:3].any():
        xyz, expected = episode.state[:, slots[:3][mask[:3]]], arm.xyz[:, mask[:3]]
        assert np.allclose(xyz, expected, atol=1e-4)
        assert np.ptp(xyz, axis=0).max() < WORKSPACE_M
        assert (np.linalg.norm(np.diff(xyz, axis=0), axis=1) * hz).max() < 3
    if mask[3:].all():
        turned = Rotation.from_euler("xyz", episode.state[:, slots[3:]])
        assert (turned * arm.rotation.inv()).magnitude().max() < 1e-3


def check_gripper(episode: Episode, part: str, arm: Motion, name: str) -> None:
    slots = episode.parts.get(part, ())
    if not slots or not episode.state_mask[slots[0]] or name in OTHER_GRIPPERS:
        return
    closedness = episode.state[:, slots[0]]
    assert np.corrcoef(closedness, arm.openness)[0, 1] < -0.9
    assert closedness[np.argmax(arm.openness)] < 0.25
    assert closedness[np.argmin(arm.openness)] > 0.75


# RDT calls RoboSet's Robotiq joint, which grows as it closes, `gripper_open`, and copies it unread.
OTHER_GRIPPERS = {"roboset"}


@pytest.mark.parametrize("name", sorted(STATISTICS))
def test_actions_as_published_reject_no_episode(name: str) -> None:
    """Typical steps, and the published least and greatest in one step each: what is absurd loses that step."""
    adapter, ranges = get_adapter(name), STATISTICS[name]
    hz = adapter.control_hz or 10.0
    rows = np.sin(np.arange(100) / 5)
    if name in POSES:
        rows = np.sin(np.arange(400) / 400 * 2 * np.pi)
    else:
        rows[40], rows[60] = np.inf, -np.inf
    native = native_episode(adapter, len(rows), (ACTIONS[name], action_motion(ranges, rows)))
    episode = converted(adapter, native)
    assert len(rows) - episode.n_steps <= 2
    if adapter.units == "native":
        assert episode.norm_key.endswith(f"/{adapter.name}")
        return
    assert adapter.control_mode == ("ee_absolute" if name in POSES else "ee_delta")
    xyz = episode.action[:, list(episode.parts["arm0"][:3])]
    if name in POSES:
        assert np.abs(xyz).max() < WORKSPACE_M
        assert 0.01 < (np.linalg.norm(np.diff(xyz, axis=0), axis=1) * hz).max() < 3
    else:
        speed = np.linalg.norm(xyz, axis=1) * hz
        assert 0.005 < np.median(speed) < 3
        assert np.quantile(speed, 0.95) < 3


@pytest.mark.parametrize(
    ("name", "dropped"),
    [
        ("fractal20220817_data", 2),  # 22.1 and -5.5 m in a step
        ("dobbe", 2),  # tracking lost: 38.6 and -124 m
        ("taco_play", 0),  # commands of up to 4.2, which are 8 cm
        ("bridge_orig", 0),  # a yaw of 6.28 is no turn
        ("fmb_dataset", 0),  # commands of 1.4
        ("ucsd_pick_and_place", 0),
    ],
)
def test_published_extremes_lose_only_what_no_robot_does(name: str, dropped: int) -> None:
    adapter = get_adapter(name)
    rows = np.sin(np.arange(100) / 5)
    rows[40], rows[60] = np.inf, -np.inf
    native = native_episode(adapter, 100, (ACTIONS[name], action_motion(STATISTICS[name], rows)))
    lost = [stretch for stretch in converted(adapter, native).dropped if not stretch.reason.startswith("first_step")]
    assert sum(stretch.end - stretch.start for stretch in lost) == dropped


@pytest.mark.parametrize("name", ["viola", "austin_buds", "austin_sirius"])
def test_an_all_zero_matrix_loses_its_step_not_the_episode(name: str) -> None:
    adapter = get_adapter(name)
    way = Way(hz=20, length_m=0.3)
    t = len(way.share)
    motion = Motion(
        xyz=np.array([0.5, 0, 0.2]) + 0.1 * way.share[:, None],
        rotation=Rotation.from_rotvec(np.tile([3.1, 0, 0], (t, 1))),
        openness=np.full(t, 0.5),
        joints=np.zeros((t, 7)),
        changes=np.zeros((t, 7)),
    )
    native = native_episode(adapter, t, (STATES[name], motion))
    key, words = next((key, words) for key, words in STATES[name].items() if "columns" in words)
    native.arrays[key][5] = 0.0
    episode = converted(adapter, native)
    assert [(d.start, d.end, d.reason) for d in episode.dropped] == [(5, 6, "all_zero_matrix")]
    assert episode.n_steps == t - 1


@pytest.mark.parametrize("name", sorted(name for name, a in load_adapters().items() if a.format == "rlds"))
def test_an_episode_at_rest_is_no_reason_to_reject(name: str) -> None:
    """Entries of which nothing is published; their cards' keys, at rest."""
    adapter = get_adapter(name)
    episode = converted(adapter, native_episode(adapter, 6))
    assert episode.units == ("metric" if adapter.units == "metric" else name)


def test_commands_of_taco_play_come_out_as_the_motion_they_cause() -> None:
    """ErickRosete/tacorl: stored times 50 and 20, so that 1.0 is 2 cm and 0.05 rad."""
    adapter = get_adapter("taco_play")
    native = native_episode(adapter, 4)
    commands = np.array([[1, 0, 0, 0, 0, 0], [0, -0.5, 0, 0, 0, 1], [4.2, 0, 0.25, 0, 0, 0], [0] * 6], np.float32)
    native.arrays["action/rel_actions_world"] = np.concatenate([commands, np.ones((4, 1), np.float32)], axis=1)
    episode = converted(adapter, native)
    expected = [[0.02, 0, 0, 0, 0, 0], [0, -0.01, 0, 0, 0, 0.05], [0.084, 0, 0.005, 0, 0, 0], [0] * 6]
    assert np.allclose(episode.action[:, list(episode.parts["arm0"])], expected, atol=1e-6)


def test_one_motion_is_one_action_whatever_controller_recorded_it() -> None:
    """1 cm upwards in a step: 0.2 of deoxys' 0.05 m, 0.5 of taco_play's 0.02 m, and 0.01 m in furniture_bench."""
    stored = {
        "austin_sirius": ("action", [0, 0, 0.2, 0, 0, 0, -1]),
        "taco_play": ("action/rel_actions_world", [0, 0, 0.5, 0, 0, 0, 1]),
        "furniture_bench": ("action", [0, 0, 0.01, 0, 0, 0, 1, -1]),
    }
    for name, (key, row) in stored.items():
        adapter = get_adapter(name)
        native = native_episode(adapter, 3)
        native.arrays[key] = np.tile(np.array(row, np.float32), (3, 1))
        episode = converted(adapter, native)
        arm = episode.action[:, list(episode.parts["arm0"])]
        assert np.allclose(arm, [0, 0, 0.01, 0, 0, 0], atol=1e-6), name
        assert np.allclose(episode.action[:, list(episode.parts["gripper0"])], 0), name
        assert episode.norm_key == "franka/ee_delta/pi18/v1", name


def test_units_that_nobody_published_have_statistics_of_their_own() -> None:
    adapter = get_adapter("ucsd_pick_and_place")
    episode = converted(adapter, native_episode(adapter, 3))
    assert episode.norm_key == "xarm/ee_delta/pi18/v1/ucsd_pick_and_place"


def _cut(motion: Motion, steps: slice) -> Motion:
    return Motion(
        xyz=motion.xyz[steps],
        rotation=motion.rotation[steps],
        openness=motion.openness[steps],
        joints=motion.joints[steps],
        changes=motion.changes[steps],
        left=_cut(motion.left, steps) if motion.left else None,
    )
