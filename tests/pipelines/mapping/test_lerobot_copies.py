"""Entries of LeRobot copies: the numbers of the RLDS entries that they are copies of, under the copies' features."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.contract.embodiments import get_embodiment
from pipelines.mapping.adapters import FORMS, get_adapter, load_adapters
from pipelines.mapping.forms import convert_part
from pipelines.mapping.to_slots import to_episode
from pipelines.sources.lerobot import find, read
from tests.support.inputs.lerobot_writer import write_lines, write_video

TEXT = (Path(__file__).parents[3] / "pipelines/adapters_lerobot.yaml").read_text()
# Each copy of any4lerobot's, and the entry of the RLDS set that it was made from, as the copy's comment names it.
COPIES = dict(
    re.findall(r"^  (\w+):\n(?:    .*\n)*?    # rate: info.json. units: the numbers of `(\w+)`, unch", TEXT, re.M)
)
CLOSED_AT_ONE = ("lerobot_fmb",)
T = 4


STATE = [0.1, -0.2, 0.3, 0.4, -0.5, 0.5, 0.6, 0.05]
ACTION = [0.01, 0.02, -0.01, 0.05, 0.02, -0.05, 1.0]


def write_copy(
    root: Path,
    cameras: list[str],
    is_libero: bool = False,
    state: list[float] = STATE,
    action: list[float] = ACTION,
    fps: int = 10,
) -> Path:
    """As openx_rlds.py has LeRobot v2.1 write it: vectors of 8 and 7 numbers, and a video a camera."""
    motors = ["x", "y", "z", "roll", "pitch", "yaw", "pad", "gripper"]
    if is_libero:
        motors = ["x", "y", "z", "axis_angle1", "axis_angle2", "axis_angle3", "gripper", "gripper"]
    features: dict[str, Any] = {
        "observation.state": {"dtype": "float32", "shape": [8], "names": {"motors": motors}},
        "action": {
            "dtype": "float32",
            "shape": [len(action)],
            "names": {"motors": [*motors[: len(action) - 1], "gripper"]},
        },
    }
    features |= {camera: {"dtype": "video", "shape": [64, 64, 3]} for camera in cameras}
    (root / "meta").mkdir(parents=True)
    info = {"codebase_version": "v2.1", "robot_type": "franka", "fps": fps, "total_episodes": 1, "features": features}
    (root / "meta/info.json").write_text(json.dumps(info))
    write_lines(root / "meta/episodes.jsonl", [{"episode_index": 0, "tasks": ["push it"], "length": T}])
    write_lines(root / "meta/tasks.jsonl", [{"task_index": 0, "task": "push it"}])
    vectors = {"observation.state": state, "action": action}
    rows = {
        **{key: pa.array([np.float32(numbers)] * T, pa.list_(pa.float32())) for key, numbers in vectors.items()},
        "timestamp": pa.array(np.arange(T, dtype=np.float32) / fps),
        "frame_index": np.arange(T),
        "episode_index": np.zeros(T, np.int64),
        "index": np.arange(T),
        "task_index": np.zeros(T, np.int64),
    }
    (root / "data/chunk-000").mkdir(parents=True)
    pq.write_table(pa.table(rows), root / "data/chunk-000/episode_000000.parquet")
    for camera in cameras:
        write_video(root / f"videos/chunk-000/{camera}/episode_000000.mp4", range(T), fps=fps)
    return root


def test_every_entry_says_that_no_real_bytes_were_read_and_where_it_is_from() -> None:
    names = re.findall(r"^  (\w+):$", TEXT, re.M)
    assert len(COPIES) == 28 and set(COPIES) < set(names)
    for name in names:
        assert get_adapter(name).note.startswith("untested on real bytes")


@pytest.mark.parametrize("name", sorted(COPIES))
def test_a_copy_has_the_mode_the_scale_and_the_slots_of_its_original(name: str, tmp_path: Path) -> None:
    copy, original = get_adapter(name), load_adapters()[COPIES[name]]
    assert (copy.robot, copy.control_mode, copy.units) == (original.robot, original.control_mode, original.units)
    assert set(copy.action) == set(original.action)
    cameras = [names[0] for names in copy.all_cameras.values()]
    located = find(str(write_copy(tmp_path, cameras, name == "lerobot_libero")), copy).episodes[0]
    native = read(located, copy)
    episode = to_episode(native, copy, get_embodiment(copy.robot), list(copy.all_cameras))
    ours, theirs = copy.action["arm0"], original.action["arm0"]
    n = FORMS[theirs.form][0]
    expected = convert_part(np.asarray(native.arrays["action"][:, :n]), theirs)
    slots = list(FORMS[theirs.form][1])
    assert ours.form == theirs.form and np.allclose(episode.action[:, slots], expected, atol=1e-6)
    if "gripper0" in copy.action:
        closed = 1.0 if name in CLOSED_AT_ONE else 0.0
        assert (episode.action[:, 6] == closed).all(), "+1 opens, but for sets whose commands the script leaves alone"
    assert sorted(episode.images) == sorted(copy.all_cameras)


QUARTER = float(np.sqrt(0.5))
# Per entry the rate of its copy, one row as the converter writes it, and what each slot then holds, worked by hand.
WORKED: dict[str, Any] = {
    # A quaternion xyzw of a quarter turn about z is a yaw of pi/2; 0.02 of 0.08 m is three quarters closed; 1 opens.
    "lerobot_furniture_bench": (
        10,
        [0.4, -0.1, 0.3, 0, 0, QUARTER, QUARTER, 0.02],
        [0.01, -0.02, 0.03, 0, 0, 0.1, 1.0],
        {0: 0.4, 1: -0.1, 2: 0.3, 3: 0, 4: 0, 5: np.pi / 2, 6: 0.75},
        {0: 0.01, 1: -0.02, 2: 0.03, 3: 0, 4: 0, 5: 0.1, 6: 0},
    ),
    # Changes of 5 a second; the state is a pose, of which the gripper alone is taken; 1 closes.
    "lerobot_berkeley_mvp": (
        5,
        [0.4, -0.1, 0.3, 0, 0, QUARTER, QUARTER, 1.0],
        [0.01, -0.02, 0.03, 0.04, -0.05, 0.06, 0.1, 1.0],
        {7: 1},
        {0: 0.05, 1: -0.1, 2: 0.15, 3: 0.2, 4: -0.25, 5: 0.3, 6: 0.5, 7: 1},
    ),
    # Changes of 30 a second; the state is the seven joints and the gripper, 0 open.
    "lerobot_berkeley_rpt": (
        30,
        [0.1, -0.2, 0.3, -0.4, 0.5, -0.6, 0.7, 0.0],
        [0.01, -0.02, 0.03, 0.001, -0.005, 0.002, 0.004, 1.0],
        {0: 0.1, 1: -0.2, 2: 0.3, 3: -0.4, 4: 0.5, 5: -0.6, 6: 0.7, 7: 0},
        {0: 0.3, 1: -0.6, 2: 0.9, 3: 0.03, 4: -0.15, 5: 0.06, 6: 0.12, 7: 1},
    ),
}


@pytest.mark.parametrize("name", WORKED)
def test_copies_that_the_script_changed_give_the_numbers_worked_by_hand(name: str, tmp_path: Path) -> None:
    fps, state, action, in_state, in_action = WORKED[name]
    entry = get_adapter(name)
    cameras = [names[0] for names in entry.all_cameras.values()]
    source = write_copy(tmp_path, cameras, state=state, action=action, fps=fps)
    native = read(find(str(source), entry).episodes[0], entry)
    episode = to_episode(native, entry, get_embodiment(entry.robot), list(entry.all_cameras))
    assert episode.control_hz == fps and episode.n_steps == T
    for vectors, mask, worked in (
        (episode.state, episode.state_mask, in_state),
        (episode.action, episode.action_mask, in_action),
    ):
        assert np.flatnonzero(mask).tolist() == sorted(worked)
        np.testing.assert_allclose(vectors[:, sorted(worked)], [[worked[i] for i in sorted(worked)]] * T, atol=1e-6)
