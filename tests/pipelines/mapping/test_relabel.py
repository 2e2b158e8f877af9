"""Bridge's actions as what the arm then did, as Octo and OpenVLA train on it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipelines.contract.embodiments import get_embodiment
from pipelines.contract.episode import DroppedSteps, Reference
from pipelines.contract.errors import UsageError
from pipelines.contract.native import NativeEpisode, Rejected
from pipelines.mapping.adapters import get_adapter
from pipelines.mapping.to_slots import to_episode
from pipelines.sources import bridge, rlds

WIDOWX = get_embodiment("widowx")
RLDS = replace(get_adapter("bridge_orig"), relabel="reached_states", drop_first="never")
RAW = replace(get_adapter("bridge_raw"), relabel="reached_states")
# What `relabel_actions` of Octo and `relabel_bridge_actions` of OpenVLA (equal to the last bit) give for the first
# episode of the sample: xyz, roll, pitch, yaw; the gripper, 1 open there, is 0 open here.
FOREIGN = [
    [-0.00031341612, -0.00056567043, -0.00048905611, -0.00093895197, 0.00285424292, 0.00024682283, 1.0],
    [0.00028318167, -0.0031920597, -0.00561110675, 0.0008707568, 0.01220455766, -0.11392722279, 1.0],
    [-0.00367696583, -0.00162966549, 0.00027911365, 0.03171049803, -0.02558639646, -0.24240359664, 1.0],
]


def episode_of(state: np.ndarray, action: np.ndarray) -> NativeEpisode:
    return NativeEpisode(
        reference=Reference(uri="x", key="x"),
        n_steps=len(state),
        arrays={"observation/state": state, "action": action},
        frames={"observation/image_0": [np.full((8, 8, 3), t, np.uint8) for t in range(len(state))]},
        step_text=tuple(f"step {t}" for t in range(len(state))),
    )


@pytest.mark.shared
def test_the_sample_gets_the_numbers_of_octo_and_openvla(shared: Path) -> None:
    located = rlds.find(str(shared / "data/real/bridge_rlds/bridge_dataset/1.0.0"), RLDS).episodes[0]
    episode = to_episode(rlds.read(located, RLDS), RLDS, WIDOWX, ["base_0_rgb"])
    expected = np.array(FOREIGN)
    expected[:, 6] = 1 - expected[:, 6]
    assert episode.n_steps == 9
    assert episode.action[:3, :7] == pytest.approx(expected, abs=1e-9)
    assert episode.dropped == (DroppedSteps(start=9, end=10, reason="no_reached_state"),)


def test_the_last_step_goes_and_turns_are_the_short_way_round() -> None:
    state = np.zeros((3, 7))
    state[:, 0] = [0.1, 0.12, 0.11]
    state[:, 5] = [3.13, -3.14, 3.1]
    action = np.tile([0.5, 0, 0, 0, 0, 0, 1.0], (3, 1))
    action[:, 6] = [1, 0, 1]
    episode = to_episode(episode_of(state, action), RLDS, WIDOWX, ["base_0_rgb"])
    assert episode.action[:, :7] == pytest.approx(
        np.array([[0.02, 0, 0, 0, 0, 0.0131853, 0], [-0.01, 0, 0, 0, 0, -0.0431853, 1]]), abs=1e-6
    )
    assert episode.state[:, 0].tolist() == pytest.approx([0.1, 0.12])
    assert [frame[0, 0, 0] for frame in episode.images["base_0_rgb"]] == [0, 1]
    assert [(s.start, s.end, s.text) for s in episode.segments] == [(0, 1, "step 0"), (1, 2, "step 1")]


@pytest.mark.shared
def test_raw_trajectories_are_relabelled_too(shared: Path) -> None:
    located = bridge.find(str(shared / "data/sim/bridge_raw/sim/sim_tabletop1"), RAW).episodes[0]
    native = bridge.read(located, RAW)
    episode = to_episode(native, RAW, WIDOWX, ["base_0_rgb"])
    moved = np.diff(native.arrays["full_state"][:, :3], axis=0)
    assert episode.n_steps == native.n_steps - 1
    assert episode.action[:, :3] == pytest.approx(moved, abs=1e-6)


def test_an_episode_of_one_step_has_no_reached_state() -> None:
    with pytest.raises(Rejected, match="no_reached_state"):
        to_episode(episode_of(np.zeros((1, 7)), np.zeros((1, 7))), RLDS, WIDOWX, ["base_0_rgb"])


def test_only_changes_of_a_pose_can_be_relabelled() -> None:
    with pytest.raises(UsageError, match="relabel: expected control_mode ee_delta, found joint_position"):
        replace(get_adapter("aloha_hdf5"), relabel="reached_states")
