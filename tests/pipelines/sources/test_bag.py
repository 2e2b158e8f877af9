"""Bags of every kind, written by other people's code, against the same demonstration as an in-house log."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.contract.episode import Episode, Reference
from pipelines.contract.native import EpisodeLocation, Rejected
from pipelines.conversion.plan import Job
from pipelines.conversion.read_episode import read_episode
from pipelines.conversion.used_entries import robots_for
from pipelines.mapping.adapters import Adapter, get_adapter, parse_adapter
from pipelines.sources import bag, zarr
from tests.pipelines.sources.test_zarr import write_log
from tests.support.inputs.bag_writers import JOINTS, MS, WRITERS, demonstration, joint_state, write_mcap

ENTRY: dict[str, Any] = {
    "title": "a UR5e in a bag",
    "format": "bag",
    "robot": "ur5e",
    "control_mode": "joint_position",
    "units": "metric",
    "control_hz": 20,
    "cameras": {"base_0_rgb": "/camera/image_raw"},
    "state": {
        "arm0": {"from": "/joint_states", "names": list(JOINTS)},
        "gripper0": {"from": "/gripper/state", "open": 0, "closed": 1},
    },
    "action": {
        "arm0": {"from": "/command/joints", "names": list(JOINTS)},
        "gripper0": {"from": "/command/gripper", "open": 0, "closed": 1},
    },
    "bag": {"stamp": "header", "instruction": {"topic": "/task"}},
}


def entry(**changes: Any) -> Adapter:
    return parse_adapter("bag_ur5e", {key: value for key, value in (ENTRY | changes).items() if value is not None})


def job_of(adapter: Adapter) -> Job:
    return Job(directory="out", name="x", version="1.0.0", adapter=adapter, robots=robots_for(adapter, ""))


def read_only(root: Path, adapter: Adapter) -> Episode:
    reader = bag if adapter.format == "bag" else zarr
    (located,) = reader.find(str(root), adapter).episodes
    return read_episode(job_of(adapter), located, ("base_0_rgb",))


@pytest.mark.parametrize(("quiet", "gap"), [((0, 560), "0.56"), ((300, 900), "0.62")])
def test_states_that_are_silent_for_too_long_reject_the_episode(
    tmp_path: Path, quiet: tuple[int, int], gap: str
) -> None:
    first = joint_state("/joint_states", 0, JOINTS, [0.0] * 6)
    kept = [m for m in demonstration() if not quiet[0] * MS < (m.stamp_ns or 0) < quiet[1] * MS]
    others = [m for m in demonstration() if m.topic != "/joint_states"]
    write_mcap(tmp_path / "a.mcap", [first, *(m for m in kept if m.topic == "/joint_states"), *others])
    with pytest.raises(Rejected, match=rf"joint_gap: .* /joint_states.*: expected states .*, a gap is {gap} s"):
        read_only(tmp_path, entry())


@pytest.mark.parametrize("kind", WRITERS)
def test_a_demonstration_is_the_same_episode_in_every_kind_of_bag_as_in_a_log(tmp_path: Path, kind: str) -> None:
    write_log(tmp_path / "log/a.zarr")
    WRITERS[kind](tmp_path / "bag", demonstration())
    log, found = read_only(tmp_path / "log", get_adapter("inhouse_log")), read_only(tmp_path / "bag", entry())
    np.testing.assert_array_equal(found.state, log.state)
    np.testing.assert_array_equal(found.action, log.action)
    np.testing.assert_array_equal(found.timestamp_s, log.timestamp_s)
    assert list(found.images["base_0_rgb"]) == list(log.images["base_0_rgb"])
    assert (found.task, found.dropped, found.n_steps) == (log.task, log.dropped, 20)


def test_notes_say_how_late_the_log_was(tmp_path: Path) -> None:
    write_mcap(tmp_path / "a.mcap", demonstration())
    (located,) = bag.find(str(tmp_path), entry()).episodes
    notes = bag.read(located, entry()).notes
    assert notes["/joint_states/header_to_log_ms_max"] == notes["/joint_states/header_to_log_ms_mean"] == 2.0


def test_a_local_bag_is_not_read_by_ranges(tmp_path: Path) -> None:
    reference = Reference(uri=str(tmp_path / "a.mcap"), key="a.mcap#0")
    assert not bag._is_read_there(EpisodeLocation(reference=reference, place=(0, 5)))
