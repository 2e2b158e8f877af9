"""A rollout that a vision model directs, and gym-aloha as openpi's example client sees it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.servers.chat_endpoint import completion, endpoint
from trainers.main import main
from trainers.serving.asked_model import AskedModel
from trainers.serving.clients import CLIENTS, native_units
from trainers.serving.observations import RobotObservation
from trainers.simulators import command
from trainers.simulators.aloha_world import ALOHA, AlohaWorld
from trainers.simulators.asking import AskModel, Moment
from trainers.simulators.policies import Asked
from trainers.simulators.worlds import Observed

__all__ = ["endpoint"]


class NotedPolicy:
    """Stays where it is, and notes what it is asked."""

    described = {"run": "none"}

    def __init__(self) -> None:
        self.prompts: list[str] = []
        self.brightest: list[int] = []

    def view(self, message: Any) -> RobotObservation:
        return RobotObservation(images=message["images"], state=np.zeros(18, np.float32), prompt="")

    def act(self, asked: list[Asked]) -> list[np.ndarray]:
        self.prompts += [one.prompt for one in asked]
        self.brightest += [min(int(picture.max()) for picture in one.message["images"].values()) for one in asked]
        return [np.zeros((8, 4), np.float32) for _ in asked]


def test_a_model_directs_a_rollout_and_its_failures_are_counted(
    endpoint: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = NotedPolicy()
    monkeypatch.setattr(command, "_policy", lambda arguments, simulator: policy)
    good = completion(json.dumps({"sentence": "pull the drawer open"}))
    at = endpoint(lambda number, question: good if number == 1 else (500, b"oops", {}))
    arguments = ["rollout", "none", "--env", "metaworld", "--task", "drawer-open", "--episodes", "1", "--worlds", "1"]
    more = ["--ask", "model", "--high-level", at.url, "--high-level-model", "org/vlm", "--high-level-every", "0.1"]
    last = ["--max-steps", "24", "--processes", "0", "--out", str(tmp_path), "-q"]
    assert main([*arguments, *more, *last]) == 0
    assert policy.prompts == ["pull the drawer open"] * 3 and len(at.questions) == 2  # at 0 and 0.1 s, of 0.3 s
    pictures = [part for part in at.questions[0]["messages"][1]["content"] if part["type"] == "image_url"]
    assert len(pictures) == 2
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["results"][0]["condition"] == "model-org-vlm"
    assert summary["high_level_answers"]["model-org-vlm"] == {
        "asked": 2,
        "answered": 1,
        "failed": 1,
        "unusable": 0,
        "fell_back": 1,
    }
    assert "a vision model, org-vlm" in (tmp_path / "page.html").read_text()


def test_blind_differs_from_task_by_black_pictures_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = NotedPolicy()
    monkeypatch.setattr(command, "_policy", lambda arguments, simulator: policy)
    arguments = ["rollout", "none", "--env", "metaworld", "--task", "drawer-open", "--episodes", "1", "--worlds", "1"]
    asked = ["--ask", "task", "--ask", "blind", "--max-steps", "8", "--processes", "0", "--out", str(tmp_path), "-q"]
    assert main([*arguments, *asked]) == 0
    assert policy.prompts == ["open the drawer"] * 2
    assert policy.brightest[0] > 100 and policy.brightest[1] == 0
    rows = json.loads((tmp_path / "summary.json").read_text())["results"]
    assert [row["condition"] for row in rows] == ["task", "blind"]


def test_episodes_are_asked_about_apart(endpoint: Any) -> None:
    from annotation_tools.labels.chat import ChatClient

    at = endpoint(lambda number, question: completion(json.dumps({"sentence": f"step {number}"})))
    asker = AskModel(AskedModel(client=ChatClient(url=at.url, model="m")), every_s=1.0)
    seen = RobotObservation(images={}, state=np.zeros(18, np.float32), prompt="")

    def sentence(episode: str, time_s: float) -> str:
        observed = Observed(message={}, task="open it", step="")
        return asker.sentence(Moment(episode=episode, observed=observed, seen=seen, time_s=time_s))

    assert [sentence("a", 0.0), sentence("b", 0.0), sentence("a", 0.5)] == ["step 1", "step 2", "step 1"]
    assert asker.finish("a")["asked"] == 1 and sentence("a", 0.0) == "step 3"


def test_a_high_level_model_needs_its_way_of_asking(capsys: pytest.CaptureFixture[str]) -> None:
    base = ["rollout", "none", "--env", "metaworld"]
    assert main([*base, "--ask", "model"]) == 2
    assert "--ask model: expected --high-level URL" in capsys.readouterr().err
    assert main([*base, "--high-level", "http://localhost/v1", "--high-level-model", "m"]) == 2
    assert "expected --ask model" in capsys.readouterr().err


def test_aloha_is_seen_as_openpis_example_sees_it_and_does_what_it_is_told() -> None:
    """`aloha_sim` sends pictures [3, 224, 224] and 14 numbers, grippers 1 open; a closed gripper opens when told."""
    world = AlohaWorld()
    world.reset("transfer_cube", 3)
    message = world.observe().message
    assert message["images"]["cam_high"].shape == (3, 224, 224) and message["images"]["cam_high"].dtype == np.uint8
    assert "images/cam_high" in CLIENTS[ALOHA.client].names["base_0_rgb"]
    before = message["state"]
    assert before.shape == (14,) and before[6] < 0.2
    target = before.copy()
    target[0] += 0.2
    target[6] = 1.0
    for _ in range(15):
        world.act(target)
    after = world.observe().message["state"]
    assert abs(after[0] - target[0]) < 0.05 and after[6] > 0.7 and after[13] < 0.2
    assert not world.success
    world.reset("transfer_cube", 3)
    assert np.allclose(world.observe().message["state"], before, atol=1e-6)


def test_alohas_numbers_become_slots_and_back() -> None:
    from trainers.robots import Robot

    arm = tuple(range(6))
    parts = {"arm0": arm, "gripper0": (6,), "arm1": tuple(range(7, 13)), "gripper1": (13,)}
    robot = Robot(norm_key=ALOHA.robot, parts=parts, control_hz=(ALOHA.control_hz,))
    units = native_units(robot, 18, None, ALOHA.client)
    assert units is not None
    slots = units.state_to_slots(np.array([0.1] * 6 + [1.0] + [0.2] * 6 + [0.0]))
    assert slots[6] == 0 and slots[13] == 1  # 0 open, 1 closed
    assert units.action_from_slots(slots[None].astype(np.float32))[0, [6, 13]].tolist() == [1, 0]
