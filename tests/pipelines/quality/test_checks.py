"""Every check finds the fault that is seeded, names where, and says nothing about clean data."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipelines.contract.episode import Episode
from pipelines.contract.images import BLACK_JPEG, decode_jpeg, to_jpeg
from pipelines.quality.checks import check_dataset
from pipelines.quality.findings import Finding
from pipelines.shards.dataset import Dataset
from pipelines.shards.stored_episodes import iter_stored
from tests.support.inputs.clean_episodes import CAMERAS, N_STEPS, clean_episode, clean_episodes
from tests.support.inputs.stored_episodes import store_dataset
from trainers.main import main

DEGREES = np.float32(180 / np.pi)
ARM, GRIPPER = slice(0, 6), 6
MODES = ("joint_position", "joint_velocity", "ee_delta", "ee_absolute")


def stored(tmp_path: Path, episodes: Sequence[Episode]) -> Dataset:
    """The episodes as a dataset, by split."""
    splits = sorted({e.reference.split for e in episodes})
    directory = tmp_path / "toy" / "1.0.0"
    store_dataset(directory, {split: [[e for e in episodes if e.reference.split == split]] for split in splits})
    return Dataset.open(directory)


def findings_of(tmp_path: Path, episodes: Sequence[Episode]) -> list[Finding]:
    return check_dataset(stored(tmp_path, episodes))


def edit(episode: Episode, side: str, slots: slice | int, change: Callable[[np.ndarray], np.ndarray]) -> Episode:
    """The episode with some slots of its state or action changed."""
    values = getattr(episode, side).copy()
    values[:, slots] = change(values[:, slots])
    return replace(episode, **{side: values})


def edited(mode: str, side: str, slots: slice | int, change: Callable[[np.ndarray], np.ndarray]) -> list[Episode]:
    return [edit(episode, side, slots, change) for episode in clean_episodes(mode)]


def inverted(values: np.ndarray) -> np.ndarray:
    return 1 - values


def later(steps: int) -> Callable[[np.ndarray], np.ndarray]:
    return lambda values: np.concatenate([np.repeat(values[:1], steps, axis=0), values[:-steps]])


def kinds(findings: Sequence[Finding]) -> list[str]:
    return [f.kind for f in findings]


@pytest.mark.parametrize("mode", MODES)
def test_clean_data_gives_nothing(tmp_path: Path, mode: str) -> None:
    assert findings_of(tmp_path, clean_episodes(mode)) == []


@pytest.mark.parametrize("mode", MODES)
def test_episodes_of_any_length_are_checked(tmp_path: Path, mode: str) -> None:
    def cut(episode: Episode, t: int) -> Episode:
        arrays = ("state", "action", "timestamp_s", "reward", "discount", "is_idle")
        short = {name: getattr(episode, name)[50 : 50 + t] for name in arrays}
        return replace(episode, **short, images={c: frames[50 : 50 + t] for c, frames in episode.images.items()})

    lengths = (1, 2, 3, 4, 5, 7, 8, 9, 12, 60)
    episodes = [cut(clean_episode(number, mode), t) for number, t in enumerate(lengths)]
    assert {f.kind for f in findings_of(tmp_path, episodes)} <= {"gripper_polarity"}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("side", "whose"), [("action", "the action's"), ("state", "the state's")])
def test_one_inverted_gripper_contradicts_the_fingers(tmp_path: Path, mode: str, side: str, whose: str) -> None:
    (found,) = findings_of(tmp_path, edited(mode, side, GRIPPER, inverted))
    assert (found.kind, found.severity, found.n_episodes) == ("gripper_polarity", "error", 4)
    assert found.evidence.startswith("fingers moved against 8 of 8 commands")
    assert f"Swap `open` and `closed` of {whose} gripper" in found.advice


def test_both_inverted_show_by_what_stops_the_fingers(tmp_path: Path) -> None:
    episodes = [edit(e, "action", GRIPPER, inverted) for e in edited("joint_position", "state", GRIPPER, inverted)]
    (found,) = findings_of(tmp_path, episodes)
    assert found.kind == "gripper_polarity"
    assert found.evidence == (
        "fingers rest 0.50 short of open and 0.00 short of closed, as if something stopped them from opening, and "
        "100% of the episodes start closed"
    )


def test_fingers_that_only_tremble_say_nothing(tmp_path: Path) -> None:
    tremble = np.float32(0.02) * np.sin(np.arange(N_STEPS, dtype=np.float32))
    assert findings_of(tmp_path, edited("joint_position", "state", GRIPPER, lambda v: tremble)) == []


def test_an_unmeasured_gripper_that_always_starts_closed_is_doubtful(tmp_path: Path) -> None:
    unmeasured = np.arange(18) < 6
    episodes = [edit(clean_episode(i), "action", GRIPPER, inverted) for i in range(10)]
    episodes = [edit(replace(e, state_mask=unmeasured), "state", GRIPPER, lambda v: 0 * v) for e in episodes]
    (found,) = findings_of(tmp_path, episodes)
    assert (found.kind, found.severity) == ("gripper_polarity", "warning")


@pytest.mark.parametrize(
    ("mode", "side", "slots"),
    [
        ("joint_position", "action", ARM),
        ("joint_position", "state", ARM),
        ("joint_velocity", "action", ARM),
        ("ee_absolute", "action", slice(3, 6)),
        ("ee_delta", "action", slice(3, 6)),
        ("ee_delta", "state", slice(3, 6)),
    ],
)
def test_degrees_on_one_side(tmp_path: Path, mode: str, side: str, slots: slice) -> None:
    found = findings_of(tmp_path, edited(mode, side, slots, lambda v: v * DEGREES))
    named = [f for f in found if f.kind == "degrees"]
    assert [f.evidence.split(":")[0] for f in named] == [f"{side} in degrees"]
    assert "degrees: true" in named[0].advice


def test_degrees_on_both_sides(tmp_path: Path) -> None:
    episodes = [edit(e, "action", ARM, lambda v: v * DEGREES) for e in clean_episodes()]
    found = findings_of(tmp_path, [edit(e, "state", ARM, lambda v: v * DEGREES) for e in episodes])
    assert [f.evidence.split(":")[0] for f in found if f.kind == "degrees"] == ["state in degrees", "action in degrees"]


def test_slow_joints_in_degrees_show_by_how_far_they_reach(tmp_path: Path) -> None:
    slow = [replace(e, control_hz=2.0, timestamp_s=np.arange(N_STEPS) / 2) for e in clean_episodes()]
    episodes = [edit(edit(e, "action", ARM, lambda v: v * DEGREES), "state", ARM, lambda v: v * DEGREES) for e in slow]
    found = [f.evidence for f in findings_of(tmp_path, episodes) if f.kind == "degrees"]
    assert [evidence[:27] for evidence in found] == ["state in degrees: slot 0: r", "action in degrees: slot 0: "]
    assert all("reaches" in evidence and "per s" not in evidence for evidence in found)


def test_small_turns_in_degrees_show_against_what_is_commanded(tmp_path: Path) -> None:
    small = [edit(e, "action", slice(3, 6), lambda v: v * np.float32(0.1)) for e in clean_episodes("ee_delta")]
    episodes = [edit(e, "state", slice(3, 6), lambda v: v * np.float32(0.1) * DEGREES) for e in small]
    (found,) = (f.evidence for f in findings_of(tmp_path, episodes) if f.kind == "degrees")
    assert found.startswith("state in degrees: slot 3: the state turns 52 times what is commanded")
    assert found.endswith("times what is commanded")


@pytest.mark.parametrize("mode", MODES)
def test_an_action_recorded_late_lags_behind_the_state(tmp_path: Path, mode: str) -> None:
    found = findings_of(tmp_path, edited(mode, "action", slice(0, 7), later(5)))
    assert "lag" in kinds(found)
    assert "the state moves before the action commands it" in next(f for f in found if f.kind == "lag").evidence


def test_a_state_recorded_late(tmp_path: Path) -> None:
    (found,) = findings_of(tmp_path, edited("joint_position", "state", ARM, later(14)))
    assert (found.kind, found.severity) == ("lag", "warning")
    assert "the state follows the action late" in found.evidence


def test_an_action_that_copies_the_state(tmp_path: Path) -> None:
    (found,) = findings_of(tmp_path, [replace(e, action=e.state) for e in clean_episodes()])
    assert (found.kind, found.evidence) == ("lag", "in 4 of 4 episodes the action equals the state of the same step")


def test_steps_at_another_rate_than_declared(tmp_path: Path) -> None:
    (found,) = findings_of(tmp_path, [replace(e, timestamp_s=np.arange(N_STEPS) / 15) for e in clean_episodes()])
    assert found.kind == "control_rate"
    assert found.evidence == "declared 20 Hz, steps come at 15 Hz in 4 of 4 episodes"


def test_velocities_at_another_rate_than_declared(tmp_path: Path) -> None:
    episodes = [
        replace(e, control_hz=60.0, timestamp_s=np.arange(N_STEPS) / 60) for e in clean_episodes("joint_velocity")
    ]
    assert ("control_rate", "joints move 3.00 (3.00 to 3.00) times as fast as commanded, taken at 60 Hz") in [
        (f.kind, f.evidence) for f in findings_of(tmp_path, episodes)
    ]


def test_an_arm_that_trails_its_velocities_is_fine(tmp_path: Path) -> None:
    episodes = edited("joint_velocity", "action", ARM, lambda v: v * np.float32(2.5))
    assert findings_of(tmp_path, episodes) == []


def test_holes_in_time_and_clocks_that_go_back(tmp_path: Path) -> None:
    hole, back = clean_episode(0), clean_episode(1)
    hole = replace(hole, timestamp_s=hole.timestamp_s + 3.0 * (np.arange(N_STEPS) > 60))
    back = replace(back, timestamp_s=back.timestamp_s - 0.5 * (np.arange(N_STEPS) > 60))
    first, second = findings_of(tmp_path, [hole, back, clean_episode(2)])
    assert (first.evidence, first.examples) == ("times that do not rise", (f"train: ep1 ({first.examples[0][-9:-1]})",))
    assert second.evidence == "1 of 3 episodes have holes in time, the longest 3.05 s"


@pytest.mark.parametrize(("truth", "label"), [("ee_absolute", "ee_delta"), ("joint_position", "joint_velocity")])
def test_absolute_targets_labelled_as_deltas(tmp_path: Path, truth: str, label: str) -> None:
    episodes = [replace(e, control_mode=label) for e in clean_episodes(truth)]
    (found,) = (f for f in findings_of(tmp_path, episodes) if f.kind == "absolute_as_delta")
    assert f"set control_mode to {truth}" in found.advice


@pytest.mark.parametrize(("truth", "label"), [("ee_delta", "ee_absolute"), ("joint_velocity", "joint_position")])
def test_deltas_labelled_as_absolute_targets(tmp_path: Path, truth: str, label: str) -> None:
    episodes = [replace(e, control_mode=label) for e in clean_episodes(truth)]
    (found,) = (f for f in findings_of(tmp_path, episodes) if f.kind == "delta_as_absolute")
    assert f"set control_mode to {truth}" in found.advice


def test_deltas_may_have_spikes(tmp_path: Path) -> None:
    def spoil(values: np.ndarray) -> np.ndarray:
        values[70] += 0.07 if values[70] < 0 else -0.07
        return values

    episodes = [edit(e, "action", 0, spoil) for e in clean_episodes("ee_delta")]
    assert findings_of(tmp_path, episodes) == []


def test_a_black_camera(tmp_path: Path) -> None:
    black = [BLACK_JPEG] * N_STEPS
    episodes = clean_episodes()
    episodes[1] = replace(episodes[1], images={**episodes[1].images, CAMERAS[1]: black})
    (found,) = findings_of(tmp_path, episodes)
    assert (found.kind, found.scope, found.n_episodes) == ("black_camera", "left_wrist_0_rgb", 1)
    assert found.examples[0].startswith("train: ep1 (")


def test_two_black_cameras_are_black_and_not_one_camera_twice(tmp_path: Path) -> None:
    episodes = clean_episodes()
    episodes[1] = replace(episodes[1], images=dict.fromkeys(CAMERAS, [BLACK_JPEG] * N_STEPS))
    assert kinds(findings_of(tmp_path, episodes)) == ["black_camera", "black_camera"]


def test_a_camera_that_an_episode_does_not_have_is_not_black(tmp_path: Path) -> None:
    episodes = clean_episodes()
    episodes[1] = replace(episodes[1], images={CAMERAS[0]: episodes[1].images[CAMERAS[0]]})
    assert findings_of(tmp_path, episodes) == []


def test_a_frozen_camera(tmp_path: Path) -> None:
    episodes = clean_episodes()
    frames = list(episodes[2].images[CAMERAS[0]])
    frames[20:90] = [frames[20]] * 70
    episodes[2] = replace(episodes[2], images={**episodes[2].images, CAMERAS[0]: frames})
    (found,) = findings_of(tmp_path, episodes)
    assert (found.kind, found.scope) == ("frozen_camera", "base_0_rgb")
    assert found.examples[0].endswith("steps 20 to 90")


def test_a_picture_that_stands_still_while_the_robot_does_is_fine(tmp_path: Path) -> None:
    episodes = clean_episodes()
    frames = list(episodes[2].images[CAMERAS[0]])
    frames[20:70] = [frames[20]] * 50
    idle = (np.arange(N_STEPS) >= 20) & (np.arange(N_STEPS) < 70)
    episodes[2] = replace(episodes[2], images={**episodes[2].images, CAMERAS[0]: frames}, is_idle=idle)
    assert findings_of(tmp_path, episodes) == []


@pytest.mark.parametrize(("hold", "held", "rate"), [(2, "2", "10"), (3, "3", "6.67"), (6, "6", "3.33")])
def test_a_camera_slower_than_the_log(tmp_path: Path, hold: int, held: str, rate: str) -> None:
    episodes = clean_episodes()
    for number, episode in enumerate(episodes):
        frames = [episode.images[CAMERAS[1]][step // hold * hold] for step in range(N_STEPS)]
        episodes[number] = replace(episode, images={**episode.images, CAMERAS[1]: frames})
    (found,) = findings_of(tmp_path, episodes)
    assert (found.kind, found.scope, found.n_episodes) == ("slow_camera", CAMERAS[1], 4)
    assert found.severity == ("warning" if hold < 4 else "error")
    steps, _, rest = found.evidence.removeprefix("a picture lasts ").partition(" steps")
    assert float(steps) == pytest.approx(float(held), rel=0.1)
    assert "in a log of 20 Hz, in 4 of 4 episodes" in rest


def test_a_slow_camera_whose_repeats_are_not_equal_bytes(tmp_path: Path) -> None:
    """A video gives the same frame again with other rounding."""

    def repeated(episode: Episode) -> list[bytes]:
        rng = np.random.default_rng(0)
        frames = []
        for step in range(N_STEPS):
            pixels = decode_jpeg(episode.images[CAMERAS[0]][step // 2 * 2]).astype(np.int16)
            pixels += rng.integers(-1, 2, pixels.shape, np.int16)
            frames.append(to_jpeg(np.clip(pixels, 0, 255).astype(np.uint8)))
        return frames

    episodes = [replace(e, images={**e.images, CAMERAS[0]: repeated(e)}) for e in clean_episodes()]
    (found,) = findings_of(tmp_path, episodes)
    assert (found.kind, found.scope) == ("slow_camera", CAMERAS[0])


def test_one_camera_in_two_slots(tmp_path: Path) -> None:
    frames = clean_episode(0).images[CAMERAS[0]]
    (found,) = findings_of(tmp_path, [replace(clean_episode(0), images=dict.fromkeys(CAMERAS, frames))])
    assert (found.kind, found.scope) == ("same_camera_twice", "base_0_rgb")


def test_a_long_idle_stretch(tmp_path: Path) -> None:
    episodes = clean_episodes()
    episodes[0] = replace(episodes[0], is_idle=np.arange(N_STEPS) >= 40)
    (found,) = findings_of(tmp_path, episodes)
    assert found.kind == "idle"
    assert found.evidence == (
        "1 stretch of 3 s and more in 1 of 4 episodes, the longest 4.0 s; 17% of all steps are idle"
    )
    assert found.examples[0].endswith("steps 40 to 120")


@pytest.mark.parametrize(("side", "value"), [("state", 12.0), ("action", -20.0)])
def test_a_value_far_out(tmp_path: Path, side: str, value: float) -> None:
    episodes = clean_episodes(n=6)

    def spoil(values: np.ndarray) -> np.ndarray:
        values[50:53] = value
        return values

    episodes[3] = edit(episodes[3], side, 2, spoil)
    found = [f for f in findings_of(tmp_path, episodes) if f.kind == "outlier"]
    assert [f.examples[0].partition(") ")[2] for f in found] == [f"{side} slot 2 step 50"]


def test_a_spike_of_one_step_inside_the_range(tmp_path: Path) -> None:
    def spoil(values: np.ndarray) -> np.ndarray:
        values[70] += 1.0 if values[70] < 0 else -1.0
        return values

    (found,) = findings_of(tmp_path, [edit(clean_episode(0), "state", 0, spoil), *clean_episodes()[1:]])
    assert found.kind == "outlier"
    assert "a spike of one step" in found.evidence


@pytest.mark.parametrize("mode", ["ee_absolute", "joint_position"])
def test_angles_that_tremble_at_the_wrap_are_no_spikes(tmp_path: Path, mode: str) -> None:
    """A gripper that points down has a roll of about pi, whose sign flips with the sensor's noise."""
    rng = np.random.default_rng(0)
    episodes = []
    for episode in clean_episodes(mode):
        flips = np.where(rng.uniform(size=N_STEPS) < 0.05, -1, 1) * np.float32(np.pi - 0.005)
        flipped = edit(episode, "state", 3, lambda v, f=flips: f)
        episodes.append(edit(flipped, "action", 3, lambda v, f=flips: f))
    assert [f for f in findings_of(tmp_path, episodes) if f.kind == "outlier"] == []


def test_a_smooth_turn_through_a_horizontal_pose_is_no_spike(tmp_path: Path) -> None:
    """Pitch goes to -90 degrees and back; roll and yaw jump by pi there, though the gripper turns by 0.06 rad."""
    from scipy.spatial.transform import Rotation

    swing = np.minimum(-1.6 + 0.035 * np.abs(np.arange(N_STEPS) - 60), 0.0)
    turned = Rotation.from_euler("y", swing.reshape(-1, 1)) * Rotation.from_euler("x", [0.01])
    angles = turned.as_euler("xyz").astype(np.float32)
    assert np.abs(np.diff(angles[:, 0])).max() > 3
    episodes = [edit(e, "state", slice(3, 6), lambda v: angles) for e in clean_episodes("ee_absolute")]
    episodes = [edit(e, "action", slice(3, 6), lambda v: angles) for e in episodes]
    assert [f for f in findings_of(tmp_path, episodes) if f.kind == "outlier"] == []


def test_an_episode_that_is_in_train_and_val(tmp_path: Path) -> None:
    (found,) = findings_of(tmp_path, [*clean_episodes(), clean_episode(2, split="val")])
    assert (found.kind, found.severity, found.scope, found.n_episodes) == ("leak", "error", "train and val", 1)
    assert found.evidence.startswith("1 episode occurs 2 times; 1 with equal pictures and language")


def test_an_episode_that_is_there_twice_under_another_name(tmp_path: Path) -> None:
    copy = replace(clean_episode(1), language=("take it",), reference=replace(clean_episode(1).reference, key="other"))
    (found,) = findings_of(tmp_path, [*clean_episodes(), copy])
    assert (found.kind, found.severity) == ("duplicate", "warning")
    assert found.evidence.endswith("0 with equal pictures and language, 1 with equal state and action only")
    assert " = train: other (" in found.examples[0]


@pytest.mark.parametrize("text", ["", " ", "N/A", "no instruction."])
def test_an_episode_without_an_instruction(tmp_path: Path, text: str) -> None:
    silent = replace(clean_episode(0), task=text, language=(text,))
    (found,) = findings_of(tmp_path, [silent, *clean_episodes()[1:]])
    assert (found.kind, found.n_episodes) == ("no_language", 1)


def test_a_task_in_two_spellings(tmp_path: Path) -> None:
    (found,) = findings_of(tmp_path, [*clean_episodes()[:3], replace(clean_episode(3), task="Open the  drawer.")])
    assert found.kind == "language_variants"
    assert "'open the drawer', 'Open the  drawer.'" in found.evidence


def test_the_check_command_prints_findings_and_exits_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = stored(tmp_path, [replace(e, action=e.state) for e in clean_episodes()])
    assert main(["check", str(dataset.path)]) == 1
    out = capsys.readouterr().out
    assert "error: lag in ur5e/joint_position/pi18/v1\n  in 4 of 4 episodes the action equals" in out
    assert main(["check", str(dataset.path), "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert (report["episodes"], [f["kind"] for f in report["findings"]]) == (4, ["lag"])


def test_the_check_command_exits_0_on_clean_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(stored(tmp_path, clean_episodes()).path)]) == 0
    first, second, third = capsys.readouterr().out.splitlines()
    assert first == f"{tmp_path}/toy/1.0.0: 4 episodes, no findings"
    assert second == ("how far ur5e/joint_position/pi18/v1 moves where 1 is commanded (and the range of its episodes):")
    assert third.startswith("  slot 0: 0.989 (0.988 to 0.99), slot 1: ")


@pytest.mark.shared
def test_the_public_sample_whose_val_split_is_its_train_split(shared: Path, tmp_path: Path) -> None:
    for file in (shared / "data/real/bridge_rlds/bridge_dataset/1.0.0").iterdir():
        (tmp_path / file.name).symlink_to(file)
    assert main(["index", str(tmp_path)]) == 0
    findings = {f.kind: f for f in check_dataset(Dataset.open(tmp_path))}
    assert (findings["leak"].n_episodes, findings["leak"].scope) == (25, "train and val")
    assert (findings["black_camera"].scope, findings["black_camera"].n_episodes) == ("image_3", 50)


def test_a_damaged_picture_is_named_and_the_other_episodes_are_checked(tmp_path: Path) -> None:
    episodes = clean_episodes()
    episodes[3] = replace(episodes[3], images={**episodes[3].images, CAMERAS[0]: [BLACK_JPEG] * N_STEPS})
    dataset = stored(tmp_path, episodes)
    second = list(iter_stored(dataset))[1]
    with second.shard.open("r+b") as file:
        file.seek(second.pictures[CAMERAS[0]].base)
        file.write(bytes(500))
    found = {f.kind: f for f in check_dataset(dataset)}
    assert sorted(found) == ["black_camera", "unreadable"]
    assert found["unreadable"].severity == "error"
    assert found["unreadable"].examples[0].startswith("train: ep1 (")
    assert "toy-train.tfrecord-00000-of-00001: expected" in found["unreadable"].examples[0]


def test_a_damaged_index_is_named_and_the_other_shards_are_checked(tmp_path: Path) -> None:
    dataset = stored(tmp_path, [*clean_episodes(), clean_episode(2, split="val")])
    sidecar = dataset.splits["train"][0].sidecar
    content = bytearray(sidecar.read_bytes())
    content[100:400] = bytes(300)
    sidecar.write_bytes(content)
    (found,) = check_dataset(dataset)
    assert found.kind == "unreadable"
    assert "train: index train-00000-of-00001.parquet: " in found.examples[0]
