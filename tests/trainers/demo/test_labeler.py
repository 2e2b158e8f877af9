"""The demo's labeler: which step of its task a segment is, told by how it moves."""

import json
import subprocess
import sys

import pytest

from trainers.demo.labeler import label


@pytest.mark.parametrize(
    ("task", "motion", "kind", "said"),
    [
        ("lift the red cube", "move the arm", "subtask", "move the open gripper over the red cube"),
        ("lift the red cube", "close the gripper, move the arm", "subtask", "take the red cube and lift it up"),
        ("lift the red cube", "hold still", "idle", "wait"),
        ("lift the box with both arms", "move both arms", "subtask", "move both open grippers over the box"),
        ("drive to the table and lift the box with both arms", "drive forward", "subtask", "drive to the table"),
        (
            "drive to the table and lift the box with both arms",
            "drive forward, close both grippers",
            "subtask",
            "take the box with both hands and lift it up",
        ),
    ],
)
def test_the_step_of_the_task_is_told_by_the_motion(task: str, motion: str, kind: str, said: str) -> None:
    assert label(task, motion, kind) == said


def test_it_answers_a_question_on_its_input() -> None:
    segment = {"start_s": 0.0, "end_s": 1.5, "text": "move the arm", "kind": "subtask", "arms": ["arm0"]}
    question = json.dumps({"task": "Lift the blue cube", "segments": [segment], "complaint": "", "sheets": []})
    done = subprocess.run(
        [sys.executable, "-m", "trainers.demo.labeler"], input=question, capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == {
        "segments": [
            {
                "start_s": 0.0,
                "end_s": 1.5,
                "kind": "subtask",
                "success": -1,
                "text": "move the open gripper over the blue cube",
            }
        ]
    }
