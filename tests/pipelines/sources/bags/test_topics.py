"""Topics as streams: joints by name, publishers that share a topic, stamps, and what an entry must say."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.contract.native import Rejected
from pipelines.sources.bags import topics
from pipelines.sources.bags.logs.inputs import bag_at, open_bag
from pipelines.sources.bags.logs.log import MAX_TIME_NS, Batch, Batches, Log
from pipelines.sources.bags.messages import reader_of, want
from pipelines.sources.bags.topics import Topics, read_topics, stamp_of
from tests.support.inputs.bag_writers import MS, WRITERS, Published, demonstration, joint_state, number, rgb, write_mcap


def read(tmp_path: Path, messages: Sequence[Published], *keys: str, stamp: str = "header") -> Topics:
    path = write_mcap(tmp_path / "a.mcap", messages)
    return read_topics(open_bag(bag_at(path, False)), keys, (), stamp)  # type: ignore[arg-type]


def test_joints_come_in_the_order_of_the_first_message_whatever_the_order_of_others(tmp_path: Path) -> None:
    messages = [joint_state("/j", 0, ["a", "b"], [1, 2]), joint_state("/j", 9 * MS, ["b", "a"], [4, 3])]
    (samples,) = read(tmp_path, messages, "/j").samples["/j"]
    assert samples.names == ("a", "b") and samples.values.tolist() == [[1.0, 2.0], [3.0, 4.0]]


def test_an_arm_and_a_hand_that_share_a_topic_are_two_streams(tmp_path: Path) -> None:
    messages = [joint_state("/j", t * MS, ["a", "b"], [t, t]) for t in range(0, 40, 10)]
    messages += [joint_state("/j", (t + 5) * MS, ["finger"], [t / 10]) for t in range(0, 40, 20)]
    arm, hand = read(tmp_path, messages, "/j").samples["/j"]
    assert (arm.names, arm.times.tolist()) == (("a", "b"), [0, 10 * MS, 20 * MS, 30 * MS])
    assert (hand.names, hand.values.tolist()) == (("finger",), [[0.0], [2.0]])


def test_publishers_of_the_same_joints_are_refused(tmp_path: Path) -> None:
    messages = [joint_state("/j", 0, ["a", "b"], [1, 2]), joint_state("/j", 9 * MS, ["b", "c"], [4, 3])]
    with pytest.raises(Rejected, match=r"wrong_names: /j: .* found b, c and a, b"):
        read(tmp_path, messages, "/j")


def test_the_header_counts_or_the_log_and_the_difference_is_measured(tmp_path: Path) -> None:
    messages = [joint_state("/j", t * MS, ["a"], [t], late_ns=(3 + t // 10) * MS) for t in (10, 20, 30)]
    found = read(tmp_path, messages, "/j")
    assert found.samples["/j"][0].times.tolist() == [10 * MS, 20 * MS, 30 * MS]
    assert found.late_ms == {"/j": (6.0, 5.0)}
    logged = read(tmp_path, messages, "/j", stamp="log")
    assert logged.samples["/j"][0].times.tolist() == [14 * MS, 25 * MS, 36 * MS]
    assert logged.late_ms == {"/j": (6.0, 5.0)}


def test_a_topic_without_a_header_counts_from_the_log_and_is_named(tmp_path: Path) -> None:
    found = read(tmp_path, [number("/x", 7 * MS, 0.5)], "/x")
    assert found.samples["/x"][0].times.tolist() == [7 * MS] and found.unstamped == {"/x"}


def test_a_stamp_that_repeats_is_left_out_and_counted(tmp_path: Path) -> None:
    messages = [joint_state("/j", t, ["a"], [t], late_ns=late) for t, late in ((5, 0), (5, 1), (6, 2))]
    found = read(tmp_path, messages, "/j")
    assert (found.samples["/j"][0].values.tolist(), found.repeated) == ([[5.0], [6.0]], {"/j": 1})


@pytest.mark.parametrize(("start_s", "is_refused"), [(1_700_000_000, True), (0, False)])
def test_headers_some_of_which_hold_no_stamp_are_refused(tmp_path: Path, start_s: int, is_refused: bool) -> None:
    stamps = [0, 0, *(start_s * 10**9 + t * MS for t in (10, 20))]
    messages = [joint_state("/j", t, ["a"], [i], late_ns=10**18 + i) for i, t in enumerate(stamps)]
    if not is_refused:
        # Two messages of a simulation that has not begun are one.
        assert read(tmp_path, messages, "/j").samples["/j"][0].times.tolist() == [0, 10 * MS, 20 * MS]
        return
    with pytest.raises(Rejected, match="wrong_times: /j: expected a stamp in every header, found none in 2 of 4"):
        read(tmp_path, messages, "/j")
    assert len(read(tmp_path, messages, "/j", stamp="log").samples["/j"][0].times) == 4


def test_stamps_that_go_back_are_refused(tmp_path: Path) -> None:
    messages = [
        joint_state("/j", 9 * MS, ["a"], [1], late_ns=0),
        joint_state("/j", 2 * MS, ["a"], [1], late_ns=20 * MS),
    ]
    with pytest.raises(Rejected, match="wrong_times: /j: .* goes back 7.000 ms"):
        read(tmp_path, messages, "/j")


POSE = {"position": {"x": 1.0, "y": 2.0, "z": 3.0}, "orientation": {"x": 0.1, "y": 0.2, "z": 0.3, "w": 0.9}}
TURN = {"translation": POSE["position"], "rotation": POSE["orientation"]}
TWIST = {"linear": {"x": 1.0, "y": 2.0, "z": 3.0}, "angular": {"z": 0.5}}


@pytest.mark.parametrize(
    ("type", "fields", "key", "expected"),
    [
        ("geometry_msgs/msg/PoseStamped", {"pose": POSE}, "/x", [1, 2, 3, 0.1, 0.2, 0.3, 0.9]),
        ("geometry_msgs/msg/Pose", POSE, "/x", [1, 2, 3, 0.1, 0.2, 0.3, 0.9]),
        ("geometry_msgs/msg/TransformStamped", {"transform": TURN}, "/x", [1, 2, 3, 0.1, 0.2, 0.3, 0.9]),
        ("geometry_msgs/msg/TwistStamped", {"twist": TWIST}, "/x", [1, 2, 3, 0, 0, 0.5]),
        ("geometry_msgs/msg/Twist", TWIST, "/x:linear", [1, 2, 3]),
        ("std_msgs/msg/Float64MultiArray", {"data": [4, 5]}, "/x", [4, 5]),
        ("std_msgs/msg/Bool", {"data": True}, "/x", [1]),
        ("sensor_msgs/msg/JointState", {"name": ["a"], "position": [1], "effort": [9]}, "/x:effort", [9]),
        ("trajectory_msgs/msg/JointTrajectory", {"joint_names": ["a"], "points": [{"positions": [3]}]}, "/x", [3]),
    ],
)
def test_every_usual_type_gives_its_numbers(
    tmp_path: Path, type: str, fields: dict, key: str, expected: list[float]
) -> None:
    message = Published(topic="/x", type=type, logged_ns=5, stamp_ns=5, fields=fields)
    (samples,) = read(tmp_path, [message], key).samples[key]
    np.testing.assert_array_equal(samples.values, [expected])


def test_a_trajectory_of_several_points_asks_which_one_is_the_command(tmp_path: Path) -> None:
    fields = {"joint_names": ["a"], "points": [{"positions": [3]}, {"positions": [4]}]}
    message = Published(topic="/x", type="trajectory_msgs/msg/JointTrajectory", logged_ns=5, stamp_ns=5, fields=fields)
    with pytest.raises(Rejected, match=r"/x:points.0.positions or /x:points.-1.positions"):
        read(tmp_path, [message], "/x")
    assert read(tmp_path, [message], "/x:points.-1.positions").samples["/x:points.-1.positions"][0].values == [[4]]


def test_a_type_of_ones_own_names_its_field(tmp_path: Path) -> None:
    definitions = {"hand_msgs/msg/Hand": "string serial\nfloat32[2] widths\nbool closed"}
    message = Published(topic="/h", type="hand_msgs/msg/Hand", logged_ns=5, fields={"serial": "x", "widths": [1, 2]})
    log = open_bag(bag_at(write_mcap(tmp_path / "a.mcap", [message], definitions=definitions), False))
    with pytest.raises(Rejected, match="expected a field behind the topic, such as /h:data"):
        read_topics(log, ["/h"], (), "log")
    assert read_topics(log, ["/h:widths"], (), "log").samples["/h:widths"][0].values.tolist() == [[1.0, 2.0]]


def test_a_stamp_that_leaves_a_field_out_has_zero_there() -> None:
    assert stamp_of({"header": {"stamp": {"nanosec": 5}}}) == 5
    assert stamp_of({"timestamp": {"seconds": 3}}) == 3_000_000_000
    assert stamp_of({"x": 1.0}) is None


def test_more_numbers_than_an_episode_has_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    messages = [joint_state("/j", t * MS, ["a"], [t]) for t in range(20)]
    assert len(read(tmp_path, messages, "/j").samples["/j"][0].times) == 20
    monkeypatch.setattr(topics, "MAX_ARRAY_BYTES", 1000)
    with pytest.raises(Rejected, match="absurd_size: /j: expected one episode's numbers"):
        read(tmp_path, messages, "/j")


class OneByOne(Batches):
    """A log whose messages come in a batch each, so that none are taken together."""

    def __init__(self, log: Log) -> None:
        self._log, self.channels = log, log.channels

    def batches(self, channels: Collection[int], start_ns: int = 0, stop_ns: int = MAX_TIME_NS) -> Iterator[Batch]:
        for batch in self._log.batches(channels, start_ns, stop_ns):
            yield from (batch._replace(found=batch.found[i : i + 1]) for i in range(len(batch.found)))

    def read_at(self, at: tuple[int, ...]) -> memoryview:
        return self._log.read_at(at)


# Among messages of joints a and b: such of another order, of other joints, without any, and of several of these.
ODD = {
    "none": [],
    "turned": [joint_state("/j", 105 * MS, ["b", "a"], [-105, 105])],
    "shorter": [joint_state("/j", 105 * MS, ["finger"], [0.5])],
    "empty": [joint_state("/j", 105 * MS, [], [])],
    "several": [
        joint_state("/j", 105 * MS, ["b", "a"], [-105, 105]),
        joint_state("/j", 155 * MS, [], []),
        joint_state("/j", 205 * MS, ["finger"], [0.5]),
        joint_state("/j", 255 * MS, ["b", "a"], [-255, 255], late_ns=0),
    ],
}


@pytest.mark.parametrize(
    ("writer", "odd"), [*((writer, "turned") for writer in WRITERS), *(("mcap", odd) for odd in ODD)]
)
def test_messages_taken_together_give_what_they_give_one_by_one(tmp_path: Path, writer: str, odd: str) -> None:
    usual = [joint_state("/j", t * MS, ["a", "b"], [t, -t], late_ns=(t % 7) * MS) for t in range(0, 400, 10)]
    messages = sorted([*usual, *ODD[odd], *demonstration()], key=lambda message: message.logged_ns)
    path = WRITERS[writer](tmp_path, messages)
    keys, cameras = ["/j", "/joint_states", "/command/joints", "/gripper/state"], ["/camera/image_raw"]
    log = open_bag(bag_at(path, False))
    together = read_topics(log, keys, cameras, "header")
    single: Any = OneByOne(log)
    alone = read_topics(single, keys, cameras, "header")
    assert (together.late_ms, together.repeated, together.unstamped) == (
        alone.late_ms,
        alone.repeated,
        alone.unstamped,
    )
    for key in keys:
        assert [one.names for one in together.samples[key]] == [one.names for one in alone.samples[key]]
        for one, other in zip(together.samples[key], alone.samples[key], strict=True):
            np.testing.assert_array_equal(one.times, other.times)
            np.testing.assert_array_equal(one.values, other.values)
    (pictures, others) = (found.pictures["/camera/image_raw"] for found in (together, alone))
    np.testing.assert_array_equal(pictures.times, others.times)
    np.testing.assert_array_equal(pictures.at, others.at)
    assert len(pictures.at) == 10
    if odd in ("turned", "several"):
        assert together.samples["/j"][0].values[11].tolist() == [105.0, -105.0]


def test_places_of_pictures_follow_their_stamps_where_one_repeats(tmp_path: Path) -> None:
    stamps_ms, logged_ms = (1, 1, 100, 200, 300), (3, 5, 110, 310, 320)
    messages = [
        replace(rgb("/cam", stamp * MS, np.full((8, 8, 3), 10 * i, np.uint8)), logged_ns=logged * MS)
        for i, (stamp, logged) in enumerate(zip(stamps_ms, logged_ms, strict=True))
    ]
    log = open_bag(bag_at(write_mcap(tmp_path / "a.mcap", messages), False))
    pictures = read_topics(log, (), ["/cam"], "header").pictures["/cam"]
    assert (pictures.times // MS).tolist() == [1, 100, 200, 300]
    shades = [bytes(pictures.message(log, number))[-1] for number in range(4)]
    assert shades == [0, 20, 30, 40]


def test_a_message_of_the_other_byte_order_is_not_taken_for_one_that_is_alike(tmp_path: Path) -> None:
    log = open_bag(bag_at(write_mcap(tmp_path / "a.mcap", demonstration()), False))
    (channel,) = (channel for channel in log.channels.values() if channel.topic == "/joint_states")
    read, wanted = reader_of(channel), want("name", "position")
    first, second, *_ = log.messages([channel.id])
    read(first.data, wanted)
    alike = read.alike()
    assert alike.span(second.data) is not None
    # The second byte of CDR's head says little-endian.
    assert alike.span(memoryview(b"\x00\x00" + bytes(second.data[2:]))) is None
