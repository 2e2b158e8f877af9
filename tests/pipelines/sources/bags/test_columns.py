"""What the columns of a topic are: which pass between samples, and of which a turn is how much."""

from math import pi

import pytest

from pipelines.mapping.adapters import parse_adapter
from pipelines.sources.bags.columns import turns_of


@pytest.mark.parametrize(
    ("changes", "turn"),
    [({}, 2 * pi), ({"degrees": True}, 360.0), ({"units": ["degrees"]}, 360.0), ({"scale": 0.001}, 2000 * pi)],
)
def test_a_turn_is_counted_as_the_source_counts_angles(changes: dict[str, object], turn: float) -> None:
    arm = {"from": "/joint_states", "names": list("fedcba"), **changes}
    gripper = {"from": "/joint_states", "names": ["finger"], "open": 0.04, "closed": 0.0}
    entry = {
        "title": "t",
        "format": "bag",
        "robot": "ur5e",
        "control_mode": "joint_position",
        "units": "metric",
        "control_hz": 10,
        "cameras": {"base_0_rgb": "/camera"},
        "state": {"arm0": arm, "gripper0": gripper},
        "action": {"arm0": {"from": "/command", "names": list("abcdef")}, "gripper0": {**gripper, "from": "/command"}},
        "bag": {"stamp": "header", "episodes": {"by": "file"}},
    }
    found = turns_of(parse_adapter("t", entry), "/joint_states", [*"abc", "finger", *"def"], 7)
    assert found.tolist() == pytest.approx([turn] * 3 + [0.0] + [turn] * 3)
