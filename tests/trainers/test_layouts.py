"""A robot of two seven-joint arms from its source to a policy that answers it, in a mixture with one of six joints."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from openpi_client.websocket_client_policy import WebsocketClientPolicy

from annotation_tools.merge import bake
from model.config import named_config
from pipelines.contract.errors import UsageError
from pipelines.contract.layouts import get_layout
from pipelines.conversion.launch import ConversionRequest, convert
from pipelines.mapping.adapters import get_adapter
from pipelines.quality.checks import check_dataset
from pipelines.shards.dataset import Dataset
from pipelines.shards.rebuild import rebuild_index
from pipelines.shards.sidecar import read_sidecar
from tests.support.inputs.lerobot_writer import FPS, write_v2
from tests.support.inputs.stored_episodes import make_episode, store_dataset
from tests.support.inputs.toy_mixture import quick_compilation, settings
from tests.support.servers.policy_server import ServerInThread
from trainers.evaluation.evaluate import EvaluationRequest, evaluate
from trainers.run import RunDirectory
from trainers.serving.acting import Actor
from trainers.serving.observations import RobotObservation
from trainers.setup import TrainingRequest
from trainers.train import train

pytestmark = pytest.mark.usefixtures("quick_compilation")
__all__ = ["quick_compilation"]

OPENARM, UR5E = "openarm_dual/joint_position/pi32/v1", "ur5e/joint_position/pi18/v1"
# As LeRobot's driver of two OpenArm names its motors: each arm's joints, then its gripper.
ARM = [*(f"joint_{i}.pos" for i in range(1, 8)), "gripper.pos"]
MOTORS = [f"{side}_{motor}" for side in ("left", "right") for motor in ARM]
SPEC = """schema: embodimix.mixture/v1
name: both
seed: 3
layout: pi32/v1
datasets:
  - {path: openarm/1.0.0}
  - {path: ur5e/1.0.0}
validation: {fraction: 0.2, by: episode, min_per_group: 1}
action: {horizon: 10}
"""


def openarm_columns(number: int, t: int = 30) -> dict:
    """Joint i of an arm is at 10 * i degrees and sways by 5; the right arm is at the same angles, negative."""
    sway = 5 * np.sin(np.arange(t) / 5 + number)
    joints = 10.0 * np.arange(1, 8) + sway[:, None]
    gripper = np.linspace(-65.0, 0.0, t)[:, None]
    state = np.concatenate([joints, gripper, -joints, gripper], axis=1).astype(np.float32)
    return {
        "observation.state": state,
        "action": np.concatenate([state[1:], state[-1:]]),
        "timestamp": (np.arange(t) / FPS).astype(np.float32),
        "frame_index": np.arange(t),
        "episode_index": np.full(t, number),
        "index": number * t + np.arange(t),
        "task_index": np.zeros(t, int),
    }


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """OpenArm converted from LeRobot's form, and a UR5e as shards of the default layout."""
    root = tmp_path_factory.mktemp("layouts")
    vector = {"dtype": "float32", "shape": [16], "names": MOTORS}
    features = {"observation.state": vector, "action": vector}
    picture = {"dtype": "video", "shape": [64, 64, 3], "names": ["height", "width", "channels"]}
    features["observation.images.top"] = picture
    episodes = [openarm_columns(number) for number in range(5)]
    write_v2(root / "native", episodes, robot_type="bi_openarm_follower", features=features)
    adapter = get_adapter("lerobot_openarm")
    facts = {"name": "openarm", "version": "1.0.0", "adapter": adapter, "n_workers": 1}
    request = ConversionRequest(source=str(root / "native"), output_root=str(root), **facts)
    assert convert(request)["episodes_out"] == 5
    (root / "ur5e" / "1.0.0").mkdir(parents=True)
    store_dataset(root / "ur5e" / "1.0.0", {"train": [[make_episode(number, t=8) for number in range(5)]]})
    (root / "mixture.yaml").write_text(SPEC)
    return root


@pytest.fixture(scope="module")
def run(root: Path, quick_compilation: dict[str, str]) -> Path:
    """A tiny policy after two steps."""
    overrides = settings(batch_size=4, steps=2, optimizer__decay_steps=4)
    train(
        TrainingRequest(
            stage="pretrain", spec=root / "mixture.yaml", run=root / "run", overrides=overrides, show_progress=False
        )
    )
    return root / "run"


def test_seven_joints_of_each_arm_are_stored_in_radians_in_their_slots(root: Path) -> None:
    dataset = Dataset.open(root / "openarm/1.0.0")
    row = read_sidecar(dataset.sidecars("train")[0]).to_pylist()[0]
    number = int(row["source_key"].rsplit("/")[-1].removeprefix("episode_"))
    state = np.array(row["state"]).reshape(30, 32)
    expected = np.deg2rad(10.0 * np.arange(1, 8) + 5 * np.sin(number))
    np.testing.assert_allclose(state[0, [0, 1, 2, 3, 4, 5, 18]], expected, atol=1e-6)
    np.testing.assert_allclose(state[0, [7, 8, 9, 10, 11, 12, 19]], -expected, atol=1e-6)
    np.testing.assert_allclose(state[:, 6], np.linspace(0, 1, 30), atol=1e-6)
    assert np.flatnonzero(row["state_mask"]).tolist() == [*range(14), 18, 19]
    assert not [finding for finding in check_dataset(dataset) if finding.severity == "error"]


def test_plain_tfds_reads_vectors_of_32_slots(root: Path) -> None:
    tfds = pytest.importorskip("tensorflow_datasets")
    builder = tfds.builder_from_directory(str(root / "openarm/1.0.0"))
    episode = next(iter(builder.as_dataset(split="train")))
    step = next(iter(episode["steps"]))
    assert step["action"].shape == step["observation"]["state_physical"].shape == (32,)
    assert episode["episode_metadata"]["layout"].numpy() == b"pi32/v1"


def test_an_index_made_again_and_a_merge_keep_the_layout(root: Path) -> None:
    folder, out = root / "openarm/1.0.0", root / "openarm/1.1.0"
    before = {path.name: path.read_bytes() for path in (folder / "index").iterdir()}
    assert sum(shard.n_episodes for shard in rebuild_index(folder)) == 5
    assert {path.name: path.read_bytes() for path in (folder / "index").iterdir()} == before
    bake(Dataset.open(folder), [], out, "1.1.0")
    assert (out / "features.json").read_bytes() == (folder / "features.json").read_bytes()
    assert Dataset.open(out).layout == "pi32/v1"


def test_the_model_is_as_wide_as_the_layout(run: Path) -> None:
    config = RunDirectory(run).read_config()
    assert config.policy.action_dim == 32
    assert RunDirectory(run).read_lock()["layout"] == "pi32/v1"


@pytest.mark.parametrize("name", ["pi0", "pi0-small", "tiny"])
def test_a_named_model_is_as_wide_as_the_default_layout(name: str) -> None:
    assert named_config(name).action_dim == get_layout("pi18/v1").n_slots == 18


def test_both_robots_are_evaluated_in_their_own_units(run: Path) -> None:
    report = evaluate(EvaluationRequest(run=run, samples=4, batch_size=4)).report
    assert {group.name: set(group.error) for group in report.groups} == {
        "lift it@openarm_dual": {"rad", "gripper"},
        "pick the cube@ur5e": {"rad", "gripper"},
    }


def test_the_server_answers_in_the_robot_s_own_dims(run: Path, root: Path) -> None:
    actor = Actor.of_run(run, flow_steps=1)
    running = ServerInThread(actor, robot="openarm_dual")
    try:
        client = WebsocketClientPolicy("127.0.0.1", running.port)
        described = client.get_server_metadata()["robots"]
        arms = [[*(f"arm{k}[{i}] (rad)" for i in range(7)), f"gripper{k} (gripper)"] for k in (0, 1)]
        assert described[OPENARM]["action"] == described[OPENARM]["state"] == [*arms[0], *arms[1]]
        state = openarm_columns(0)["observation.state"][0] * np.where(np.arange(16) % 8 == 7, 0, np.pi / 180)
        seen = {"images": {"base_0_rgb": np.zeros((224, 224, 3), np.uint8)}, "prompt": "lift it"}
        assert client.infer(seen | {"state": state})["actions"].shape[1] == 16
        assert client.infer(seen | {"robot": "ur5e", "state": np.zeros(7)})["actions"].shape[1] == 7
    finally:
        running.end()


def test_an_arm_s_seventh_joint_is_answered_beside_the_others(run: Path) -> None:
    """It lies in slot 18, behind both arms; a robot's own vector holds seven joints and a gripper, arm by arm."""
    actor = Actor.of_run(run, flow_steps=1)
    robot = actor.robots[OPENARM]
    assert robot.slots(actor.action_mask(robot)) == [0, 1, 2, 3, 4, 5, 18, 6, 7, 8, 9, 10, 11, 12, 19, 13]
    actor._sample = lambda *_: np.zeros((1, 10, 32), np.float32)  # the middle of what each joint did
    black = {"base_0_rgb": np.zeros((224, 224, 3), np.uint8)}
    actions = actor.act(robot, RobotObservation(images=black, state=np.zeros(32, np.float32), prompt="go"))
    middle = [*(10.0 * np.arange(1, 8)), 0.5]
    degrees = np.where(np.arange(16) % 8 == 7, 1, 180 / np.pi) * actions[0]
    np.testing.assert_allclose(degrees, [*middle, *(-angle for angle in middle[:7]), 0.5], atol=0.5)


def test_a_run_starts_from_no_run_of_another_width(run: Path, root: Path) -> None:
    narrow = root / "narrow.yaml"
    narrow.write_text(SPEC.replace("layout: pi32/v1\n", "").replace("  - {path: openarm/1.0.0}\n", ""))
    request = TrainingRequest(
        stage="posttrain", spec=narrow, run=root / "after", init=run, overrides={}, show_progress=False
    )
    with pytest.raises(UsageError, match="32"):
        train(request)
    shutil.rmtree(root / "after", ignore_errors=True)
