"""What `inspect` says of a bag, and the entry that it drafts."""

from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.contract.native import Rejected
from pipelines.inspection.sampling import Probe
from pipelines.mapping.adapters import FROM_LOG
from pipelines.sources import bag
from pipelines.sources.bags.logs.inputs import bag_at, open_bag
from pipelines.sources.bags.overview import look_at, probe_of
from tests.pipelines.sources.bags.test_transforms import chain_messages
from tests.support.inputs.bag_writers import JOINTS, MS, Published, demonstration, number, write_mcap, write_rosbag2

BLANK = Probe(name="inspect", title="", format="bag", robot=FROM_LOG, control_mode="joint_position")


def test_topics_are_told_with_type_rate_jitter_and_delay(tmp_path: Path) -> None:
    jittery = [number("/force", (t + (t % 20 == 0)) * MS, 0.5) for t in range(0, 1000, 10)]
    topics = look_at(open_bag(bag_at(write_mcap(tmp_path / "a.mcap", [*demonstration(), *jittery]), False)))
    assert sorted(topics["/command/joints"].names) == sorted(JOINTS)
    rates = {name: round(facts.rate_hz) for name, facts in topics.items()}
    assert (rates["/joint_states"], rates["/command/joints"], rates["/camera/image_raw"]) == (50, 20, 10)
    assert (topics["/joint_states"].late_ms, topics["/joint_states"].jitter_ms) == (2.0, 0.0)
    assert (topics["/force"].late_ms, topics["/force"].jitter_ms) == (None, 1.0)


def test_the_entry_that_is_drafted_states_rate_and_clock(tmp_path: Path) -> None:
    write_rosbag2(tmp_path / "a", demonstration())
    facts = bag.describe(str(tmp_path), bag.find(str(tmp_path), bag.probe(str(tmp_path), BLANK)))
    assert facts.entry["control_hz"][0] == "20"
    assert facts.entry["bag"][0] == '{stamp: header, clock: "/command/joints", instruction: {topic: /task}}'
    assert facts.dialect == "rosbag2 of SQLite in folders, ROS 2 rosbags"
    assert (facts.control_hz, facts.rate_known) == (20.0, "the rate of /command/joints, whose messages are the steps")
    assert list(facts.cameras) == ["/camera/image_raw"]


def test_headers_without_a_stamp_in_one_message_do_not_count_and_the_draft_says_so(tmp_path: Path) -> None:
    first = {topic: True for topic in ("/joint_states", "/gripper/state", "/command/joints", "/command/gripper")}
    messages = [
        replace(m, stamp_ns=0) if m.topic.startswith("/camera") or first.pop(m.topic, False) else m
        for m in demonstration()
    ]
    write_mcap(tmp_path / "a.mcap", messages)
    facts = bag.describe(str(tmp_path), bag.find(str(tmp_path), bag.probe(str(tmp_path), BLANK)))
    value, why = facts.entry["bag"]
    assert value.startswith("{stamp: log")
    assert why.startswith("no topic has a header that holds a stamp in every message;")


def test_a_probe_reads_every_stream_of_numbers(tmp_path: Path) -> None:
    write_mcap(tmp_path / "a.mcap", demonstration())
    probe = bag.probe(str(tmp_path), BLANK)
    (located,) = bag.find(str(tmp_path), probe).episodes
    native = bag.read(located, probe)
    assert sorted(native.arrays) == ["/command/gripper", "/command/joints", "/gripper/state", "/joint_states"]
    assert native.n_steps == 20


def test_nobody_has_to_choose_about_the_instruction_and_what_ros_logs_of_itself(tmp_path: Path) -> None:
    own = Published(topic="/rosout", type="rcl_interfaces/msg/Log", logged_ns=0, fields={"msg": "ready"})
    write_rosbag2(tmp_path / "a", [own, *demonstration()])
    facts = bag.describe(str(tmp_path), bag.find(str(tmp_path), bag.probe(str(tmp_path), BLANK)))
    assert "/rosout" in facts.features and "/task" in facts.features
    assert not [note for note in facts.notes if note.startswith(("/rosout", "/task"))]


def test_a_bag_without_streams_of_numbers_is_named(tmp_path: Path) -> None:
    path = write_mcap(tmp_path / "a.mcap", [m for m in demonstration() if m.topic == "/task"])
    with pytest.raises(Rejected, match="expected topics of numbers .* found /task"):
        probe_of(look_at(open_bag(bag_at(path, False))), BLANK)


def test_pairs_of_frames_are_listed_as_an_entry_names_them(tmp_path: Path) -> None:
    write_mcap(tmp_path / "a.mcap", [*demonstration(), *chain_messages()])
    facts = bag.describe(str(tmp_path), bag.find(str(tmp_path), bag.probe(str(tmp_path), BLANK)))
    told = [note for note in facts.notes if ">" in note]
    assert told[:4] == [
        "/tf:base>lift: where the second frame is in the first: moving, 55 times, 25 Hz",
        "/tf:lift>wrist: where the second frame is in the first: moving, 88 times, 40 Hz",
        "/tf_static:lift>eye: where the second frame is in the first: static, once",
        "/tf_static:wrist>tool0: where the second frame is in the first: static, once",
    ]
    assert told[4] == "frames of tf that others lie between can be named as a pair, too: /tf:FIRST>LAST"
