"""Chunks resampled to one rate, relative chunks, and their statistics."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation, Slerp

from mixtures.actions.chunks import ANGLE, HOLD, LINEAR, SUM, resample, slot_kinds
from mixtures.actions.normalizer import action_form, from_form, to_form
from mixtures.actions.rotations import euler_to_relative, relative_to_euler, wrap_angle
from mixtures.mixture import Mixture, open_mixture
from mixtures.stream.batches import Stream
from pipelines.contract.episode import Episode
from pipelines.shards.statistics import load_statistics, save_statistics
from tests.support.inputs.mixture_data import make_episode, write_dataset, write_spec


def column(values: list[float], kind: int, ratio: float, horizon: int) -> list[float]:
    """One slot's actions resampled."""
    window = np.zeros((1, len(values), 18), np.float32)
    window[0, :, 0] = values
    kinds = np.full((1, 18), LINEAR, np.uint8)
    kinds[0, 0] = kind
    return resample(window, kinds, np.array([ratio]), horizon)[0, :, 0].round(4).tolist()


def test_positions_are_interpolated_between_steps() -> None:
    assert column([0, 1, 4, 9, 16], LINEAR, 0.5, 6) == [0, 0.5, 1, 2.5, 4, 6.5]
    assert column([0, 1, 4, 9, 16, 25], LINEAR, 2.0, 2) == [0, 4]


def test_a_gripper_switches_at_once() -> None:
    assert column([0, 0, 1, 1, 0, 0], HOLD, 0.4, 10) == [0, 0, 0, 0, 0, 1, 1, 1, 1, 1]


def test_deltas_keep_the_movement() -> None:
    slow = column([1, 2, 3, 4, 5, 6, 7, 8], SUM, 2.0, 3)
    assert slow == [3, 7, 11]
    assert column([1, 2, 3, 4], SUM, 0.5, 4) == [0.5, 0.5, 1, 1]


def test_angles_turn_the_short_way() -> None:
    window = np.zeros((1, 3, 18), np.float32)
    window[0, :, 5] = [3.0, -3.0, -3.0]
    found = resample(window, slot_kinds("ee_absolute", '{"arm0": [0, 1, 2, 3, 4, 5]}', 18)[None], np.array([0.5]), 2)
    assert np.abs(found[0, :, 5]) == pytest.approx([3.0, np.pi], abs=1e-4)


@pytest.mark.parametrize("ratio", [0.5, 0.4, 1.5])
def test_orientations_turn_as_one_through_pitch_90(ratio: float) -> None:
    """SciPy's Slerp is the truth; each angle by itself leaves the turn by 5 degrees where a step turns by 10."""
    path = Rotation.from_euler("z", 0.3) * Rotation.from_euler("y", 85.0 + 10 * np.arange(12)[:, None], degrees=True)
    window = np.zeros((1, 12, 18), np.float32)
    window[0, :, 3:6] = path.as_euler("xyz")
    kinds = slot_kinds("ee_absolute", '{"arm0": [0, 1, 2, 3, 4, 5]}', 18)[None]
    found = resample(window, kinds, np.array([ratio]), 6)[0, :, 3:6]
    true = Slerp(np.arange(12), path)(ratio * np.arange(6))
    assert (Rotation.from_euler("xyz", found) * true.inv()).magnitude().max() < 1e-5


def test_slots_are_resampled_by_what_they_mean() -> None:
    parts = '{"arm0": [0, 1, 2, 3, 4, 5], "gripper0": [6], "base": [14, 15], "torso": [17]}'
    kinds = {
        mode: slot_kinds(mode, parts, 18)[[0, 3, 6, 14, 17]].tolist()
        for mode in ("joint_position", "ee_delta", "ee_absolute")
    }
    assert kinds == {
        "joint_position": [LINEAR, LINEAR, HOLD, LINEAR, LINEAR],
        "ee_delta": [SUM, SUM, HOLD, LINEAR, LINEAR],
        "ee_absolute": [LINEAR, ANGLE, HOLD, LINEAR, LINEAR],
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("chunks")
    options = {"cameras": ("base_0_rgb",), "n_steps": 20}
    write_dataset(root, "slow", [make_episode(0, control_hz=5.0, robot="ur5e", **options)], n_shards=1)
    write_dataset(root, "fast", [make_episode(1, control_hz=20.0, **options)], n_shards=1)
    write_dataset(root, "turning", [turning_episode()], n_shards=1)
    return root


def turning_episode() -> Episode:
    """An end-effector episode whose yaw crosses pi."""
    episode = make_episode(2, control_mode="ee_absolute", cameras=("base_0_rgb",), n_steps=10)
    state, action = episode.state.copy(), episode.action.copy()
    state[:, 5] = (3.0 + 0.1 * np.arange(10) + np.pi) % (2 * np.pi) - np.pi
    action[:, 5] = (3.1 + 0.1 * np.arange(10) + np.pi) % (2 * np.pi) - np.pi
    return replace(episode, state=state, action=action)


def opened(folder: Path, name: str, action: str) -> Mixture:
    body = f"datasets: [{{path: {name}/1.0.0}}]\naction: {action}\n"
    return open_mixture(write_spec(folder, body, f"{name}.yaml"), cache=folder / "cache")


def test_sources_of_all_rates_come_at_the_target_rate(folder: Path) -> None:
    for name, first, per_step in (("slow", 0.01, 0.005), ("fast", 1.01, 0.02)):
        with Stream(opened(folder, name, "{horizon: 5, rate_hz: 10}"), batch_size=1) as stream:
            batch = stream.gather([0], [4])
        expected = first + 0.04 + per_step * np.arange(5)
        assert batch.action_physical[0, :, 0] == pytest.approx(expected, abs=1e-5)
        assert batch.control_hz.tolist() == [10.0]


def test_the_episodes_end_is_where_it_is_at_the_target_rate(folder: Path) -> None:
    with Stream(opened(folder, "slow", "{horizon: 5, rate_hz: 10}"), batch_size=1) as stream:
        batch = stream.gather([0], [18])
    assert batch.chunk_mask[0].tolist() == [True, True, True, False, False]
    assert batch.action_physical[0, :, 0] == pytest.approx([0.19, 0.195, 0.2, 0.2, 0.2], abs=1e-5)


def test_the_last_change_of_an_episode_adds_up_what_is_left_of_it(tmp_path: Path) -> None:
    """Nine deltas at half their rate: the fifth step is the ninth delta alone, not twice that."""
    write_dataset(
        tmp_path,
        "deltas",
        [make_episode(0, control_mode="ee_delta", cameras=("base_0_rgb",), n_steps=9, control_hz=20.0)],
        n_shards=1,
    )
    with Stream(opened(tmp_path, "deltas", "{horizon: 6, rate_hz: 10}"), batch_size=1) as stream:
        batch = stream.gather([0], [0])
    assert batch.chunk_mask[0].tolist() == [True] * 5 + [False]
    # Delta t is 0.01 + t / 100 in slot 0.
    assert batch.action_physical[0, :, 0] == pytest.approx([0.03, 0.07, 0.11, 0.15, 0.09, 0.0], abs=1e-6)


def test_a_source_at_the_target_rate_is_left_alone(folder: Path) -> None:
    resampled, native = (opened(folder, "fast", f"{{horizon: 5{rate}}}") for rate in (", rate_hz: 20", ""))
    with Stream(resampled, batch_size=8) as one, Stream(native, batch_size=8) as other:
        assert np.array_equal(one.batch_at(0).action_physical, other.batch_at(0).action_physical)


def test_statistics_are_those_of_the_resampled_chunks(folder: Path) -> None:
    mixture = opened(folder, "fast", "{horizon: 3, rate_hz: 10, mode: relative_to_first_state}")
    action = mixture.statistics["arx/joint_position/pi18/v1"].action
    # Every second step of the source: 0.01, 0.03 and 0.05 from the first state, in 20, 18 and 16 of the chunks.
    assert (action.count[0], action.min[0], action.max[0]) == (
        54,
        pytest.approx(0.01, abs=1e-5),
        pytest.approx(0.05, abs=1e-5),
    )
    assert mixture.action_mean("arx/joint_position/pi18/v1")[0] == pytest.approx(1 + 0.095 + 0.01, abs=1e-4)


def test_relative_rotations_wrap_and_invert(folder: Path) -> None:
    mixture = opened(folder, "turning", "{horizon: 4, mode: relative_to_first_state}")
    with Stream(mixture, batch_size=1) as stream:
        batch = stream.gather([0] * 10, list(range(10)))
    key = "arx/ee_absolute/pi18/v1"
    assert mixture.statistics[key].action.max[5] == pytest.approx(0.4, abs=1e-4)
    assert mixture.statistics[key].action.max[6] > 2
    back = mixture.unnormalize_batch_action(batch, batch.action)
    assert np.abs(back - batch.action_physical).max() < 1e-6


TWO_ARMS = {"arm0": (0, 1, 2, 3, 4, 5), "gripper0": (6,), "arm1": (7, 8, 9, 10, 11, 12), "gripper1": (13,)}


@pytest.mark.parametrize("mode", ["absolute", "relative_to_first_state"])
@pytest.mark.parametrize("rotation", ["euler", "relative_rotvec"])
@pytest.mark.parametrize("control_mode", ["joint_position", "ee_absolute", "ee_delta"])
def test_every_form_and_back_is_exact_for_random_chunks(mode: str, rotation: str, control_mode: str) -> None:
    rng = np.random.default_rng(0)
    state = rng.uniform(-3, 3, (5, 18)).astype(np.float32)
    steps = rng.uniform(-0.2, 0.2, (5, 4, 18))
    action = wrap_angle(state[:, None] + np.cumsum(steps, axis=1)).astype(np.float32)
    known, commanded = rng.random((5, 18)) < 0.8, np.ones((5, 18), np.bool_)
    forms = [action_form(f"a/{control_mode}/pi18/v1", TWO_ARMS, 18, mode, rotation)] * 5  # type: ignore[arg-type]
    moved = to_form(action, state, known, commanded, forms)
    assert np.abs(from_form(moved, state, known, forms) - action).max() < 1e-6


def test_targets_that_cross_pi_do_not_jump_inside_a_chunk() -> None:
    """A hand that points down: roll near pi, its sign changed by noise."""
    roll = np.array([3.10, -3.12, 3.13, -3.10])
    action = np.zeros((1, 4, 18), np.float32)
    action[0, :, 3] = roll
    known = np.ones((1, 18), np.bool_)
    form = action_form("a/ee_absolute/pi18/v1", {"arm0": (0, 1, 2, 3, 4, 5)}, 18, "absolute")
    for start, expected in (
        (3.11, [3.10, 3.1632, 3.13, 3.1832]),
        (-3.13, [-3.1832, -3.12, -3.1532, -3.10]),
    ):
        state = np.full((1, 18), start, np.float32)
        moved = to_form(action, state, known, known, [form])
        assert moved[0, :, 3] == pytest.approx(expected, abs=1e-4)
        assert from_form(moved, state, known, [form])[0, :, 3] == pytest.approx(roll, abs=1e-6)
    unmeasured = to_form(action, np.full((1, 18), -3.13, np.float32), ~known, known, [form])
    assert unmeasured[0, :, 3] == pytest.approx([3.10, 3.1632, 3.13, 3.1832], abs=1e-4)


def test_a_turn_through_pitch_90_is_smooth_as_a_rotation_vector() -> None:
    """The hand pitches from 85 to 95 degrees; Euler angles that stay within 90 flip roll and yaw by pi on the way."""
    degrees = np.arange(11) + 85.5
    rpy = Rotation.from_euler("y", degrees[:, None], degrees=True).as_euler("xyz")
    action = np.zeros((1, 11, 18), np.float32)
    action[0, :, 3:6] = rpy
    assert np.abs(np.diff(rpy, axis=0)).max() > 3
    state, known = action[:, 0], np.ones((1, 18), np.bool_)
    form = action_form("a/ee_absolute/pi18/v1", {"arm0": (0, 1, 2, 3, 4, 5)}, 18, "absolute", "relative_rotvec")
    moved = to_form(action, state, known, known, [form])
    expected = np.stack([np.zeros(11), np.radians(degrees - 85.5), np.zeros(11)], axis=1)
    assert np.abs(moved[0, :, 3:6] - expected).max() < 1e-6
    back = from_form(moved, state, known, [form])[0, :, 3:6]
    turned = Rotation.from_euler("xyz", back) * Rotation.from_euler("xyz", rpy).inv()
    assert turned.magnitude().max() < 1e-6


def test_a_source_whose_pitch_passes_90_gets_its_own_angles_back() -> None:
    rpy = np.stack([np.full(5, 0.2), np.linspace(1.5, 1.7, 5), np.full(5, -0.4)], axis=1)
    found = relative_to_euler(euler_to_relative(rpy[None], rpy[:1]), rpy[:1])
    assert np.abs(found[0] - rpy).max() < 1e-9


def test_rotation_vectors_have_the_axes_of_the_robots_base() -> None:
    """A hand that points down (roll pi) and turns by 0.1 about the base's z axis: the vector is (0, 0, 0.1)."""
    down = np.array([[np.pi, 0.0, 0.3]])
    target = np.array([[[np.pi, 0.0, 0.4]]])
    assert euler_to_relative(target, down)[0, 0] == pytest.approx([0, 0, 0.1], abs=1e-9)


@pytest.mark.parametrize("mode", ["absolute", "relative_to_first_state"])
def test_a_mixture_of_rotation_vectors_inverts(folder: Path, mode: str) -> None:
    mixture = opened(folder, "turning", f"{{horizon: 4, mode: {mode}, rotation: relative_rotvec}}")
    with Stream(mixture, batch_size=1) as stream:
        batch = stream.gather([0] * 10, list(range(10)))
    back = mixture.unnormalize_batch_action(batch, batch.action)
    turned = Rotation.from_euler("xyz", back[..., 3:6].reshape(-1, 3))
    recorded = Rotation.from_euler("xyz", batch.action_physical[..., 3:6].reshape(-1, 3))
    assert (turned * recorded.inv()).magnitude().max() < 1e-5
    assert np.abs(back - batch.action_physical)[..., [0, 1, 2, 6]].max() < 1e-5
    assert np.abs(batch.action[..., 3:6]).max() < 1.5
    assert mixture.lock()["action"]["rotation"] == "relative_rotvec"


def test_errors_of_angles_are_the_short_way(folder: Path) -> None:
    mixture = opened(folder, "turning", "{horizon: 4}")
    with Stream(mixture, batch_size=1) as stream:
        batch = stream.gather([0], [0])
    predicted = batch.action_physical.copy()
    predicted[:, :, 5] += 2 * np.pi - 0.02
    predicted[:, :, 0] += 7
    error = mixture.near_recorded(batch, predicted) - batch.action_physical
    assert error[0, :, 5] == pytest.approx(-0.02, abs=1e-5) and error[0, :, 0] == pytest.approx(7)


def test_chunks_of_old_datasets_keep_the_old_rule_of_scales(tmp_path: Path) -> None:
    home = write_dataset(tmp_path, "old", [make_episode(0, cameras=("base_0_rgb",))], n_shards=1)
    old = {
        key: replace(value, state=replace(value.state, rule="span/v1"), action=replace(value.action, rule="span/v1"))
        for key, value in load_statistics(home / "statistics.json").items()
    }
    save_statistics(home / "statistics.json", old)
    mixture = opened(tmp_path, "old", "{horizon: 4, mode: relative_to_first_state}")
    found = mixture.statistics["arx/joint_position/pi18/v1"]
    assert (found.state.rule, found.action.rule) == ("span/v1", "span/v1")
