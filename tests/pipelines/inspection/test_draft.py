"""Drafts of registry entries: guesses with reasons, open questions, and conversions after the answers."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import h5py
import numpy as np
import pytest

from pipelines.contract.errors import UsageError
from pipelines.contract.registries import use_registries
from pipelines.conversion.launch import ConversionRequest, convert
from pipelines.inspection.draft import Draft, count_questions, free_name, make_draft, name_of, render
from pipelines.inspection.recognition import recognize
from pipelines.mapping.adapters import Adapter, find_adapter
from pipelines.shards.dataset import Dataset
from pipelines.shards.sidecar import read_sidecar
from tests.support.foreign.foreign_sets import (
    delta_record,
    joint_record,
    so101_joints,
    write_aloha_hdf5,
    write_humanoid,
    write_own_tfds,
    write_so101_v21,
    write_so101_v30,
    write_umi,
)
from tests.support.inputs.native_files import write_rlds


@pytest.fixture(autouse=True)
def own_registries(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EMBODIMIX_REGISTRY", raising=False)
    use_registries([])
    yield
    use_registries([])


def draft_of(source: Path, name: str = "") -> str:
    ((description, sample), *_) = recognize(str(source)).understood
    return render(make_draft(description, sample.episodes, name), "my.yaml")


def values_of(text: str) -> str:
    """A draft without comments."""
    return "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))


def adapter_of(text: str, folder: Path) -> Adapter:
    path = folder / "my.yaml"
    path.write_text(text)
    return find_adapter(str(path))


def converted(source: Path, text: str, folder: Path, format: str) -> list[np.ndarray]:
    """Physical states and actions of every episode after a conversion by a draft: [state, action, state, ...]."""
    request = ConversionRequest(
        source=str(source),
        output_root=str(folder / "data"),
        name="own",
        version="1.0.0",
        adapter=adapter_of(text, folder),
        n_workers=1,
    )
    convert(request)
    dataset = Dataset.open(request.directory)
    episodes = [row for path in dataset.sidecars("train") for row in read_sidecar(path).to_pylist()]
    return [np.reshape(row[side], (row["n_steps"], -1)) for row in episodes for side in ("state", "action")]


def test_degrees_beyond_percent_of_range_are_a_guess_with_its_reason(tmp_path: Path) -> None:
    text = draft_of(write_so101_v30(tmp_path / "desk", most=120.0))
    assert count_questions(text) == 0
    assert "joints are in degrees: values reach 120, and percent of range ends at 100" in text
    assert 'arm0: {from: "observation.state[0:5]", degrees: true}' in text
    assert "robot: so100" in text


def test_degrees_that_percent_could_be_are_one_question_for_all_arms(tmp_path: Path) -> None:
    text = draft_of(write_so101_v21(tmp_path / "desk", most=80.0))
    assert count_questions(text) == 1
    assert 'joints: &joints {degrees: "?"}' in text
    assert 'arm0: {<<: *joints, from: "action[0:5]"}' in text
    assert "For percent" in text


def test_open_questions_are_refused_by_name(tmp_path: Path) -> None:
    text = draft_of(write_so101_v21(tmp_path / "desk"))
    with pytest.raises(UsageError, match=r'expected an answer in place of each "\?", found 1 open: .*degrees'):
        adapter_of(text, tmp_path)


def test_the_head_names_the_lines_of_questions_and_the_command(tmp_path: Path) -> None:
    text = draft_of(write_so101_v21(tmp_path / "desk"))
    lines = text.splitlines()
    assert '"?"' in lines[int(lines[1].rpartition("line ")[2].rstrip(".")) - 1]
    command = f"embodimix convert lerobot {tmp_path}/desk data --name desk --version 1.0.0 --adapter my.yaml"
    assert lines[2] == f"# Then: {command}"


def answer(text: str, *answers: tuple[str, str]) -> str:
    for question, given in answers:
        assert question in text
        text = text.replace(question, given)
    return text


def test_an_answered_draft_converts_to_the_numbers_that_were_meant(tmp_path: Path) -> None:
    source = write_so101_v21(tmp_path / "desk", n=1)
    text = answer(draft_of(source), ('degrees: "?"', "degrees: true"))
    state, _ = converted(source, text, tmp_path, "lerobot")
    expected = so101_joints(0)
    np.testing.assert_allclose(state[:, :5], np.deg2rad(expected[:, :5]), atol=1e-5)
    # LeRobot's grippers are 0 closed to 100 open.
    np.testing.assert_allclose(state[:, 6], 1 - expected[:, 5] / 100, atol=1e-5)


def test_umi_needs_an_instruction_and_nothing_else(tmp_path: Path) -> None:
    text = draft_of(write_umi(tmp_path / "cup.zarr"))
    assert count_questions(text) == 1
    assert 'task: "?"' in text
    assert "gripper0: {from: robot0_gripper_width, clip: true, open: 0.08, closed: 0, next: true}" in text
    assert "as the shipped entry umi has it" in text


def test_a_hand_that_opens_wider_than_the_shipped_scale_is_a_question(tmp_path: Path) -> None:
    """The shipped entry clips at 0.08 m: the hand's last millimetres would be lost."""
    text = draft_of(write_umi(tmp_path / "cup.zarr", most_open_m=0.085))
    assert count_questions(text) == 2
    assert 'gripper: &gripper {open: "?", closed: "?"}' in text
    assert "clip" not in values_of(text)


def test_a_command_that_runs_against_the_gripper_is_a_question_of_its_own(tmp_path: Path) -> None:
    record = joint_record(0)
    action = np.reshape(record["steps/action"], (-1, 8)).copy()
    action[:, 7] = 1 - action[:, 7]
    text = draft_of(write_rlds(tmp_path / "own/1.0.0", {"train": [record | {"steps/action": action.ravel()}]}))
    assert 'gripper_2: &gripper_2 {open: "?", closed: "?"}' in text
    assert "It runs against the state." in text
    assert 'gripper0: {<<: *gripper_2, from: "action[7]"}' in text


def test_aloha_grippers_of_another_scale_are_a_question(tmp_path: Path) -> None:
    write_aloha_hdf5(tmp_path / "usual/episode_0.hdf5")
    write_aloha_hdf5(tmp_path / "agilex/episode_0.hdf5", gripper=(0.0, 0.07))
    usual, other = draft_of(tmp_path / "usual"), draft_of(tmp_path / "agilex")
    assert 'gripper0: {from: "action[6]", open: 1, closed: 0}' in usual
    assert 'gripper: &gripper {open: "?", closed: "?"}' in other
    assert "Either open: 0.07, closed: 0 or open: 0, closed: 0.07." in " ".join(other.replace("# ", "").split())


def test_seven_joints_of_an_own_set_are_known_and_its_rate_is_asked_for_once(tmp_path: Path) -> None:
    text = draft_of(write_own_tfds(tmp_path / "own_set/1.0.0"))
    assert count_questions(text) == 2
    assert "control_mode: joint_position" in text
    assert "joint: {state: {arm0: 0-6, gripper0: 7}, action: {arm0: 0-6, gripper0: 7}}" in text
    assert text.count("control_hz: *rate") == 2


def test_an_own_set_of_deltas_converts_after_three_lines(tmp_path: Path) -> None:
    source = write_own_tfds(tmp_path / "deltas/1.0.0", "deltas", n=1)
    text = draft_of(source)
    assert count_questions(text) == 3
    text = answer(
        text,
        ('control_mode: "?", control_hz: &rate "?"', "control_mode: ee_delta, control_hz: &rate 10"),
        ('form: "?"', "form: xyz_rpy"),
        ('open: "?", closed: "?"', "open: 1, closed: 0"),
    )
    _, action = converted(source, text, tmp_path, "rlds")
    stored = np.reshape(delta_record(0)["steps/action"], (-1, 7))
    np.testing.assert_allclose(action[:, :6], stored[:, :6], atol=1e-6)
    np.testing.assert_allclose(action[:, 6], 1 - stored[:, 6], atol=1e-6)


def test_controller_units_are_a_question_not_a_metre(tmp_path: Path) -> None:
    record = delta_record(0)
    record["steps/action"] = np.asarray(record["steps/action"]) * 20
    # The gripper, which was scaled as well, is of no concern here.
    text = draft_of(write_rlds(tmp_path / "scaled/1.0.0", {"train": [record]}, name="scaled"))
    assert 'scale: "?"' in text
    assert "20 times them" in text


def test_names_are_slugs_and_never_those_of_shipped_entries() -> None:
    assert name_of("data/My set/1.0.0") == "my_set"
    assert name_of("/logs/2024-01-01") == "set_2024_01_01"
    assert free_name("umi") == "own_umi"


@pytest.mark.parametrize("make", [write_so101_v21, write_so101_v30], ids=["v2.1", "v3.0"])
def test_drafts_hold_no_number_that_was_not_seen_or_stated(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    """A rate, a scale or a polarity that nothing states must not slip in."""
    values = values_of(draft_of(make(tmp_path / "desk")))
    assert "control_hz" not in values
    assert "scale" not in values


_LEGS = "legs (always 0): observation.state[19:20], observation.state[20:21], action[19:20], action[20:21]"


def proposal_of(source: Path, layout: str = "pi18/v1") -> Draft:
    ((description, sample), *_) = recognize(str(source)).understood
    return make_draft(description, sample.episodes, layout=layout)


def test_what_has_no_slot_is_named_and_so_is_the_layout_that_has_room(tmp_path: Path) -> None:
    draft = proposal_of(write_humanoid(tmp_path / "walker"))
    assert draft.proposal.misfits == (
        "joints beyond the 6 of an arm: left_joint_7, right_joint_7",
        _LEGS,
        "a waist: observation.state[16:19], action[16:19]",
    )
    assert draft.roomier == "pi32/v1"


def test_a_draft_for_the_wider_layout_holds_seven_joints_and_a_waist(tmp_path: Path) -> None:
    draft = proposal_of(write_humanoid(tmp_path / "walker"), "pi32/v1")
    assert draft.proposal.misfits == (_LEGS,)
    slots = "{arm0: 0-5+18, gripper0: 6, arm1: 7-12+19, gripper1: 13, waist: 20-22}"
    text = render(draft)
    assert f"joint: {{layout: pi32/v1, state: {slots}, action: {slots}}}" in text
    adapter = adapter_of(answer(text, ('open: "?", closed: "?"', "open: 1, closed: 0")), tmp_path)
    assert str(adapter.action["waist"].sources[0]) == "action[16:19]"


def test_poses_that_fit_are_taken_where_joints_do_not(tmp_path: Path) -> None:
    draft = proposal_of(write_humanoid(tmp_path / "walker", poses=True))
    assert draft.proposal.control_mode.value == "ee_absolute"
    assert draft.proposal.action["arm1"].sources == ("action.eef_pose[6:9]", "action.eef_pose[9:12]")
    assert draft.proposal.action["arm1"].guesses["form"].value == "xyz_rpy"
    assert draft.proposal.misfits[0].startswith("joints, since poses are taken: observation.state[0:7], ")


def write_groups(path: Path, names: Sequence[str], lengths: Sequence[int]) -> Path:
    """An HDF5 file with a group an episode: seven joints, a gripper, their commands, and a camera."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for name, t in zip(names, lengths, strict=True):
            steps = np.arange(t)[:, None]
            joints = 0.8 * np.sin(steps / 12 + np.arange(7))
            gripper = np.clip(0.5 + np.sin(steps / 9), 0, 1)
            for key, rows in (("joint_positions", joints), ("gripper_position", gripper)):
                file[f"{name}/{key}"] = rows
                file[f"{name}/action/{key}"] = np.concatenate([rows[1:], rows[-1:]])
            file[f"{name}/cams/front"] = np.full((t, 16, 16, 3), 90, np.uint8)
    return path


@pytest.mark.parametrize(
    ("names", "lengths", "line"),
    [
        (("traj_0", "traj_1"), (40, 40), 'episodes: "*"'),
        (("a0", "a1"), (40, 41), 'episodes: "*"'),
        (("robot_0", "robot_1"), (40, 40), 'episodes: "?"'),
    ],
)
def test_groups_of_one_file_are_episodes_where_their_names_or_lengths_say_so(
    tmp_path: Path, names: Sequence[str], lengths: Sequence[int], line: str
) -> None:
    write_groups(tmp_path / "logs/all.h5", names, lengths)
    text = draft_of(tmp_path / "logs")
    assert line in text
    assert "arm0: {from: joint_positions}" in text
