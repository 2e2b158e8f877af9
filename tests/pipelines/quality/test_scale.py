"""The measured ratio of motion to command: found where data are in other units, silent where a sensor only looks so."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from pipelines.contract.episode import Episode
from pipelines.quality.checks import check_dataset
from pipelines.quality.findings import Finding
from pipelines.quality.scale import Ratio, _levels, measure_moves, measure_ratios, unwrap
from pipelines.shards.dataset import Dataset
from pipelines.shards.stored_episodes import iter_stored
from tests.support.inputs.clean_episodes import HZ, N_STEPS, clean_episodes
from tests.support.inputs.stored_episodes import store_dataset

Floats = NDArray[np.floating]
MODES = ("joint_position", "joint_velocity", "ee_delta", "ee_absolute")
DEGREES = 180 / np.pi


def stored(folder: Path, episodes: Sequence[Episode]) -> Dataset:
    store_dataset(folder / "toy" / "1.0.0", {"train": [episodes]})
    return Dataset.open(folder / "toy" / "1.0.0")


def findings_of(folder: Path, episodes: Sequence[Episode]) -> list[Finding]:
    return check_dataset(stored(folder, episodes))


def ratios_of(folder: Path, episodes: Sequence[Episode]) -> dict[int, Ratio]:
    moves = [m for episode in iter_stored(stored(folder, episodes)) if (m := measure_moves(episode))]
    return {ratio.slot: ratio for ratio in measure_ratios(moves)}


def changed(episode: Episode, **sides: Callable[[Floats], Floats]) -> Episode:
    """The episode with its arm's six slots changed on one side or both."""
    new = {}
    for side, change in sides.items():
        values = getattr(episode, side).copy()
        values[:, :6] = change(values[:, :6].astype(np.float64))
        new[side] = values
    return replace(episode, **new)


def noise(number: int, size: float) -> Floats:
    return np.random.default_rng(number).normal(0, size, (N_STEPS, 6))


@pytest.mark.parametrize(("mode", "ratio"), [("joint_position", 1.0), ("joint_velocity", 1.0), ("ee_delta", 0.9)])
def test_metric_data_have_a_ratio_of_about_one(tmp_path: Path, mode: str, ratio: float) -> None:
    found = ratios_of(tmp_path, clean_episodes(mode))
    assert sorted(found) == [0, 1, 2, 3, 4, 5]
    for each in found.values():
        assert each.value == pytest.approx(ratio, rel=0.05)
        assert each.low <= each.value <= each.high


def test_a_controllers_scale_is_found_with_its_size(tmp_path: Path) -> None:
    episodes = [changed(e, action=lambda a: a * 0.9 / 0.05) for e in clean_episodes("ee_delta")]
    found = ratios_of(tmp_path / "ratios", episodes)
    assert [round(found[slot].value, 3) for slot in range(3)] == [0.05, 0.05, 0.05]
    (scale,) = (f for f in findings_of(tmp_path, episodes) if f.kind == "scale")
    assert scale.severity == "error"
    assert "slot 0 (m) 0.05 (0.05 to 0.05)" in scale.evidence
    assert "scale: 0.05" in scale.advice and "units: native" in scale.advice


def test_native_units_are_no_error(tmp_path: Path) -> None:
    episodes = [replace(changed(e, action=lambda a: a * 0.9 / 0.05), units="viola") for e in clean_episodes("ee_delta")]
    assert findings_of(tmp_path, episodes) == []


@pytest.mark.parametrize(("side", "factor", "ratio"), [("action", 1000.0, "0.0009"), ("state", 1000.0, "900")])
def test_millimetres_on_one_side(tmp_path: Path, side: str, factor: float, ratio: str) -> None:
    def in_mm(values: Floats) -> Floats:
        return np.concatenate([values[:, :3] * factor, values[:, 3:]], axis=1)

    found = findings_of(tmp_path, [changed(e, **{side: in_mm}) for e in clean_episodes("ee_delta")])
    (scale,) = (f for f in found if f.kind == "scale")
    assert scale.severity == "error"
    assert f"slot 0 (m) {ratio}" in scale.evidence
    assert f"the {side} in mm" in scale.evidence


@pytest.mark.parametrize("mode", ["ee_delta", "ee_absolute"])
@pytest.mark.parametrize("factor", [10.0, 100.0, 1000.0])
def test_metres_on_neither_side(tmp_path: Path, mode: str, factor: float) -> None:
    """Both sides in dm, cm or mm agree on their ratio; the hand would be 5 to 500 m out."""

    def scaled(values: Floats) -> Floats:
        return np.concatenate([values[:, :3] * factor, values[:, 3:]], axis=1)

    (found,) = findings_of(tmp_path, [changed(e, state=scaled, action=scaled) for e in clean_episodes(mode)])
    assert (found.kind, found.severity) == ("workspace", "warning")


def test_velocities_in_rad_a_step_are_no_state_in_degrees(tmp_path: Path) -> None:
    """At 20 Hz the state turns 20 times what is commanded, which is not 57."""
    found = findings_of(tmp_path, [changed(e, action=lambda a: a / HZ) for e in clean_episodes("joint_velocity")])
    assert [(f.kind, f.severity) for f in found] == [("control_rate", "error")]
    assert "rad a step" in found[0].advice


def test_a_delta_called_a_target_gets_no_advice_on_its_scale(tmp_path: Path) -> None:
    episodes = [replace(e, control_mode="ee_absolute") for e in clean_episodes("ee_delta")]
    assert [f.kind for f in findings_of(tmp_path, episodes)] == ["delta_as_absolute"]


@pytest.mark.parametrize("mode", MODES)
def test_a_parked_arm_is_not_in_degrees(tmp_path: Path, mode: str) -> None:
    """It trembles by 0.2 degrees about 1 rad, while small commands come that it does not follow."""
    is_absolute = mode in ("joint_position", "ee_absolute")

    def tremble(number: int) -> Callable[[Floats], Floats]:
        return lambda values: 1.0 + 0 * values + np.deg2rad(0.2) * np.sin(np.arange(N_STEPS) / 7 + number)[:, None]

    def command(number: int) -> Callable[[Floats], Floats]:
        return lambda values: is_absolute * 1.0 + 0 * values + noise(number, 0.01 if is_absolute else 0.005)

    episodes = [changed(e, state=tremble(i), action=command(i)) for i, e in enumerate(clean_episodes(mode, n=6))]
    assert [f for f in findings_of(tmp_path, episodes) if f.kind in ("degrees", "scale", "control_rate")] == []


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [0.02, 0.1, 0.3])
def test_a_jittering_command_is_not_in_degrees(tmp_path: Path, mode: str, size: float) -> None:
    episodes = [changed(e, action=lambda a, i=i: a + noise(i, size)) for i, e in enumerate(clean_episodes(mode, n=6))]
    assert [f for f in findings_of(tmp_path, episodes) if f.kind in ("degrees", "scale", "control_rate")] == []


@pytest.mark.parametrize("mode", ["joint_position", "joint_velocity", "ee_absolute", "ee_delta"])
def test_an_angle_that_wraps_is_not_in_degrees(tmp_path: Path, mode: str) -> None:
    """The state counts from -pi to pi and turns to and fro across it; the command counts on."""

    def turned(values: Floats) -> Floats:
        shift = np.array([0, 0, 0, np.pi, np.pi, np.pi]) if mode.startswith("ee") else np.pi
        return values - values[0] + shift

    def wrapped(values: Floats) -> Floats:
        angles = slice(3, 6) if mode.startswith("ee") else slice(0, 6)
        values = turned(values)
        values[:, angles] = (values[:, angles] + np.pi) % (2 * np.pi) - np.pi
        return values

    is_absolute = mode in ("joint_position", "ee_absolute")
    command = {"action": turned} if is_absolute else {}
    found = findings_of(tmp_path, [changed(e, state=wrapped, **command) for e in clean_episodes(mode)])
    assert [f for f in found if f.kind not in ("outlier",)] == []


def test_an_angle_that_trembles_at_the_wrap_is_not_in_degrees(tmp_path: Path) -> None:
    def tremble(number: int) -> Callable[[Floats], Floats]:
        return lambda values: (np.pi + 0 * values + noise(number, 0.02) + np.pi) % (2 * np.pi) - np.pi

    episodes = [changed(e, state=tremble(i), action=tremble(i + 9)) for i, e in enumerate(clean_episodes(n=5))]
    assert [f.kind for f in findings_of(tmp_path, episodes) if f.kind in ("degrees", "scale")] == []


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("lag", [2, 5, 10])
def test_a_lagged_state_is_in_its_units(tmp_path: Path, mode: str, lag: int) -> None:
    def later(values: Floats) -> Floats:
        return np.concatenate([np.repeat(values[:1], lag, axis=0), values[:-lag]])

    episodes = [changed(e, state=later) for e in clean_episodes(mode)]
    assert [f for f in findings_of(tmp_path, episodes) if f.kind in ("degrees", "scale", "control_rate")] == []


@pytest.mark.parametrize(("truth", "label"), [("ee_absolute", "ee_delta"), ("joint_position", "joint_velocity")])
def test_an_absolute_action_called_a_delta_is_that_and_nothing_else(tmp_path: Path, truth: str, label: str) -> None:
    episodes = [replace(e, control_mode=label) for e in clean_episodes(truth)]
    found = {f.kind for f in findings_of(tmp_path, episodes)}
    assert "absolute_as_delta" in found
    assert not found & {"degrees", "scale", "control_rate"}


@pytest.mark.parametrize("mode", ["joint_position", "joint_velocity", "ee_delta", "ee_absolute"])
@pytest.mark.parametrize("side", ["state", "action"])
def test_true_degrees_are_found_through_noise_and_lag(tmp_path: Path, mode: str, side: str) -> None:
    def in_degrees(values: Floats) -> Floats:
        angles = slice(3, 6) if mode.startswith("ee") else slice(0, 6)
        values[:, angles] *= DEGREES
        return values

    episodes = [changed(e, state=lambda s, i=i: s + noise(i, 0.002)) for i, e in enumerate(clean_episodes(mode, n=6))]
    found = findings_of(tmp_path, [changed(e, **{side: in_degrees}) for e in episodes])
    assert [(f.severity, f.evidence.split(":")[0]) for f in found if f.kind == "degrees"] == [
        ("error", f"{side} in degrees")
    ]


def test_small_numbers_that_fit_a_controller_as_well_as_degrees_are_no_degrees(tmp_path: Path) -> None:
    """Turns at 1/57 of a command that never leaves -1..1: a normalized controller does so, too."""
    episodes = [changed(e, action=lambda a: np.clip(a * 0.9 * DEGREES / 3, -1, 1)) for e in clean_episodes("ee_delta")]
    slow = [changed(e, state=lambda s: s[0] + (s - s[0]) / 3) for e in episodes]
    assert [f.kind for f in findings_of(tmp_path, slow) if f.kind == "degrees"] == []


def test_a_joint_of_several_turns_is_doubtful_at_most(tmp_path: Path) -> None:
    episodes = [changed(e, state=lambda s: s + 7, action=lambda a: a + 7) for e in clean_episodes()]
    (found,) = (f for f in findings_of(tmp_path, episodes) if f.kind == "degrees")
    assert found.severity == "warning"


def test_an_axis_that_moves_against_its_command(tmp_path: Path) -> None:
    def mirrored(values: Floats) -> Floats:
        values[:, 1] *= -1
        return values

    (found,) = findings_of(tmp_path, [changed(e, action=mirrored) for e in clean_episodes("ee_delta")])
    assert (found.kind, found.severity) == ("scale", "warning")
    assert "moves against the command: slot 1 (m) -0.9" in found.evidence


def test_two_episodes_are_too_few_to_say(tmp_path: Path) -> None:
    assert ratios_of(tmp_path, clean_episodes("ee_delta", n=2)) == {}


def test_the_interval_widens_with_what_episodes_disagree_on(tmp_path: Path) -> None:
    """Half of the episodes move by half of what is commanded: the pooled ratio is uncertain by about that much."""
    episodes = [
        changed(e, action=lambda a, i=i: a * (1.0 if i % 2 else 2.0)) for i, e in enumerate(clean_episodes("ee_delta"))
    ]
    ratio = ratios_of(tmp_path, episodes)[0]
    assert ratio.low < 0.45 and ratio.high > 0.75


def test_unwrapping_leaves_motion_alone() -> None:
    values = np.array([[3.1, 3.1, 40.0], [-3.1, 2.0, 46.3], [3.1, 3.1, 40.0]])
    expected = np.array([[3.1, 3.1, 40.0], [-3.1 + 2 * np.pi, 2.0, 46.3], [3.1, 3.1, 40.0]])
    np.testing.assert_allclose(unwrap(values, [0, 2]), expected)
    assert HZ == 20


def test_an_absolute_angle_lies_at_the_state_whichever_way_round_it_was_counted() -> None:
    state = np.array([[3.1, 0.2, 20.0]])
    near, in_degrees, _ = _levels(state, np.array([[-3.1, 0.3, 20.5]]), "joint_position")
    np.testing.assert_allclose(near, [(2 * np.pi - 6.2) ** 2, 0.1**2, 0.5**2], rtol=1e-6)
    assert in_degrees[1] > near[1]
