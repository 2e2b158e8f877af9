"""A labeler for the demo's demonstrations: a program that `embodimix annotate label --command` runs.

It knows the few tasks of this world, and names the step of the task that each segment is, by how it moves.
"""

import json
import sys
from typing import Any

APPROACH = {"cube": "move the open gripper over the {thing}", "box": "move both open grippers over the {thing}"}
TAKE = {"cube": "take the {thing} and lift it up", "box": "take the {thing} with both hands and lift it up"}
DRIVE = "drive to the table"
WAIT = "wait"


def thing_of(task: str) -> str:
    """The thing that a task's sentence means.

    >>> thing_of("lift the red cube")
    'red cube'
    """
    return task.split("lift the ")[1].removesuffix(" with both arms")


def sentences(task: str) -> tuple[str, str]:
    """The sentences of a task's two steps at the table: to move there, to take and lift.

    >>> sentences("lift the red cube")
    ('move the open gripper over the red cube', 'take the red cube and lift it up')
    """
    thing = thing_of(task)
    kind = thing.split()[-1]
    return APPROACH[kind].format(thing=thing), TAKE[kind].format(thing=thing)


def label(task: str, motion: str, kind: str) -> str:
    """The sentence of one segment, from its task, its motion phrase and its kind."""
    approach, take = sentences(task)
    if kind == "idle":
        return WAIT
    if "close" in motion:
        return take
    return DRIVE if "drive" in motion or "base" in motion else approach


def answer(question: dict[str, Any]) -> dict[str, Any]:
    """The answer to one question of `embodimix annotate label`, in the form it asks for."""
    rows = [
        {
            "start_s": segment["start_s"],
            "end_s": segment["end_s"],
            "kind": segment["kind"],
            "success": -1,
            "text": label(question["task"].lower(), segment["text"], segment["kind"]),
        }
        for segment in question["segments"]
    ]
    return {"segments": rows}


if __name__ == "__main__":
    print(json.dumps(answer(json.load(sys.stdin))))
