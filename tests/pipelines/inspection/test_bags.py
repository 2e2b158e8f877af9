"""Drafts for bags: joints by their names, base to tool, and what an entry of topics must state."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pipelines.contract.embodiments import freeze_robots
from pipelines.contract.episode import Episode
from pipelines.contract.registries import use_registries
from pipelines.conversion.plan import Job
from pipelines.conversion.read_episode import read_episode
from pipelines.inspection.draft import count_questions, make_draft, render
from pipelines.inspection.recognition import recognize
from pipelines.inspection.report import use_lines
from pipelines.mapping.adapters import find_adapter, get_adapter
from pipelines.sources import bag, zarr
from tests.pipelines.sources.test_zarr import write_log
from tests.support.inputs.bag_writers import JOINTS, MS, WRITERS, Published, demonstration, joint_state, number


@pytest.fixture(autouse=True)
def own_registries(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    use_registries([])
    yield
    use_registries([])


@pytest.mark.parametrize("kind", WRITERS)
def test_a_draft_that_is_answered_reads_what_the_log_of_the_same_demonstration_holds(tmp_path: Path, kind: str) -> None:
    """The state's topic lists its joints by the alphabet, the elbow first."""
    write_log(tmp_path / "log/a.zarr")
    WRITERS[kind](tmp_path / "bag", demonstration())
    ((description, sample), *_) = recognize(str(tmp_path / "bag")).understood
    text = render(make_draft(description, sample.episodes))
    assert count_questions(text) == 1
    path = tmp_path / "my.yaml"
    path.write_text(text.replace('open: "?", closed: "?"', "open: 0, closed: 1"))
    found = read_episode_of(tmp_path / "bag", str(path))
    log = read_episode_of(tmp_path / "log", "inhouse_log")
    np.testing.assert_array_equal(found.state, log.state)
    np.testing.assert_array_equal(found.action, log.action)
    assert found.task == log.task


def test_a_hand_has_one_range_however_far_its_command_went(tmp_path: Path) -> None:
    """Neither is as wide as the hand's 0.085 m; two scales would store one opening as two numbers."""
    messages = [m for m in demonstration() if "gripper" not in m.topic]
    for t in range(0, 1000, 50):
        messages.append(number("/gripper/width", t * MS, 0.04 + 0.04 * np.cos(t / 300)))
        messages.append(number("/command/gripper", t * MS, 0.04 + 0.038 * np.cos(t / 300)))
    WRITERS["mcap"](tmp_path / "bag", messages)
    ((description, sample), *_) = recognize(str(tmp_path / "bag")).understood
    text = render(make_draft(description, sample.episodes))
    assert count_questions(text) == 1
    assert 'gripper: &gripper {open: "?", closed: "?"}' in text
    assert text.count("<<: *gripper, from:") == 2
    assert "its name says how far it is open" in " ".join(text.replace("# ", "").split())


def controlled() -> list[Published]:
    """An arm under ros2_control: its goals are trajectories of one point, its hand's joint is called a knuckle."""
    names, messages = [*JOINTS, "robotiq_85_left_knuckle_joint"], [m for m in demonstration() if "/camera" in m.topic]
    for t in range(0, 2000, 20):
        now, goal = ([0.5 * np.sin((t + late) / 400 + joint) for joint in range(6)] for late in (0, 50))
        messages.append(joint_state("/joint_states", t * MS, names, [*now, 0.3 - 0.3 * np.cos(t / 300)]))
        point = {"positions": goal, "time_from_start": {}}
        fields = {"joint_names": JOINTS, "points": [point]}
        if t % 100 == 0:
            type, topic = "trajectory_msgs/msg/JointTrajectory", "/scaled_joint_trajectory_controller/joint_trajectory"
            messages.append(Published(topic=topic, type=type, logged_ns=t * MS, stamp_ns=t * MS, fields=fields))
    return messages


def test_goals_that_a_controller_was_sent_are_the_action(tmp_path: Path) -> None:
    WRITERS["rosbag2 of sqlite3"](tmp_path / "bag", controlled())
    ((description, sample), *_) = recognize(str(tmp_path / "bag")).understood
    text = render(make_draft(description, sample.episodes))
    assert "arm0: {from: /scaled_joint_trajectory_controller/joint_trajectory, names: [shoulder_pan" in text
    assert "actions are where the state goes next" in text and "next: true" not in text


def test_a_hand_whose_joint_is_an_angle_is_on_no_usual_scale(tmp_path: Path) -> None:
    """0.6 rad of a knuckle are not six tenths of anything."""
    WRITERS["rosbag2 of sqlite3"](tmp_path / "bag", controlled())
    ((description, sample), *_) = recognize(str(tmp_path / "bag")).understood
    asked = " ".join(render(make_draft(description, sample.episodes)).replace("# ", "").split())
    assert "Either open: 0.597, closed: 0 or open: 0, closed: 0.597. These are as far as was seen" in asked
    assert "robotiq_85_left_knuckle_joint: values run from 0 to 0.597, episodes begin at 0 and end at" in asked


def test_an_input_without_commands_says_what_stands_in_for_them(tmp_path: Path) -> None:
    WRITERS["mcap"](tmp_path / "bag", [m for m in demonstration() if "/command" not in m.topic])
    ((description, sample), *_) = recognize(str(tmp_path / "bag")).understood
    said = " ".join(" ".join(use_lines(make_draft(description, sample.episodes))).split())
    assert "action no key holds what was commanded: the next step's state stands in for it" in said


def read_episode_of(root: Path, entry: str) -> Episode:
    adapter = find_adapter(entry) if entry.endswith(".yaml") else get_adapter(entry)
    reader = bag if adapter.format == "bag" else zarr
    (located,) = reader.find(str(root), adapter).episodes
    job = Job(directory="out", name="x", version="1.0.0", adapter=adapter, robots=freeze_robots())
    return read_episode(job, located, ("base_0_rgb",))
