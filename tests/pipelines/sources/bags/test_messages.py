"""Fields of messages that rosbags and protobuf serialized, and bytes that are none."""

import numpy as np
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, timestamp_pb2

from pipelines.contract.native import Rejected
from pipelines.sources.bags.logs.log import Channel
from pipelines.sources.bags.messages import field_at, reader_of, want
from tests.support.inputs.bag_writers import ROS1, ROS2, make

TRAJECTORY = {
    "joint_names": ["a", "bcd"],
    "points": [{"positions": [1.5, 2.5], "velocities": []}, {"positions": [3.5, 4.5], "effort": [1.0]}],
}
IDL = """================================================================================
IDL: robot_msgs/msg/Hand
module robot_msgs {
  module msg {
    @verbatim (language="comment", text="A hand (of two fingers).")
    struct Hand {
      std_msgs::msg::Header header;
      boolean is_closed;
      double width;
      sequence<float, 4> forces;
    };
  };
};
================================================================================
IDL: std_msgs/msg/Header
module std_msgs { module msg { struct Header { builtin_interfaces::msg::Time stamp; string frame_id; }; }; };
================================================================================
IDL: builtin_interfaces/msg/Time
module builtin_interfaces { module msg { struct Time { int32 sec; uint32 nanosec; }; }; };
"""


def ros2_channel(type: str, definition: str = "", schema: str = "") -> Channel:
    if not definition:
        definition, schema = ROS2.generate_msgdef(type, ros_version=2)[0], "ros2msg"
    return Channel(id=1, topic="/x", type=type, wire="cdr", schema=schema, definition=definition.encode())


@pytest.mark.parametrize("is_little", [True, False])
def test_elements_of_a_trajectory_go_by_their_numbers_in_either_order_of_bytes(is_little: bool) -> None:
    type = "trajectory_msgs/msg/JointTrajectory"
    data = ROS2.serialize_cdr(make(ROS2, type, TRAJECTORY, 7 * 10**9 + 8), type, little_endian=is_little)
    paths = ("header.stamp", "joint_names", "points.0.positions", "points.-1.positions", "points.-1.effort")
    found = reader_of(ros2_channel(type))(memoryview(data), want(*paths))
    values = [field_at(found, path) for path in paths]
    assert values[0] == {"sec": 7, "nanosec": 8} and values[1] == ["a", "bcd"]
    assert [list(numbers) for numbers in values[2:]] == [[1.5, 2.5], [3.5, 4.5], [1.0]]


def test_a_message_of_ros1_is_read_by_the_definition_in_its_bag() -> None:
    type = "sensor_msgs/msg/CompressedImage"
    data = ROS1.serialize_ros1(make(ROS1, type, {"format": "jpeg", "data": [1, 2, 3]}, 5 * 10**9), type)
    text = ROS1.generate_msgdef(type, ros_version=1)[0].encode()
    channel = Channel(id=1, topic="/x", type=type, wire="ros1", schema="ros1msg", definition=text)
    found = reader_of(channel)(memoryview(bytes(data)), want("header.stamp", "format", "data"))
    assert found["format"] == "jpeg" and bytes(found["data"]) == b"\1\2\3"
    assert found["header"]["stamp"] == {"sec": 5, "nanosec": 0}


def test_definitions_in_idl_are_read() -> None:
    head, time = b"\0\1\0\0", b"\1\0\0\0" + b"\2\0\0\0"
    body = time + b"\2\0\0\0a\0" + b"\1" + b"\0" + np.float64(0.08).tobytes()
    # Behind the head: 8 bytes of time, 6 of text, the truth value at 14, the width aligned to 16, then two forces.
    body += (2).to_bytes(4, "little") + np.array([0.5, 0.25], np.float32).tobytes()
    read = reader_of(ros2_channel("robot_msgs/msg/Hand", IDL, "ros2idl"))
    found = read(memoryview(head + body), want("is_closed", "width", "forces"))
    assert (found["is_closed"], found["width"], found["forces"].tolist()) == (True, 0.08, [0.5, 0.25])


def protobuf_channel() -> tuple[Channel, type]:
    file = descriptor_pb2.FileDescriptorProto(name="video.proto", package="foxglove", syntax="proto3")
    file.dependency.append("google/protobuf/timestamp.proto")
    message = file.message_type.add(name="CompressedVideo")
    message.field.add(name="timestamp", number=1, type=11, label=1, type_name=".google.protobuf.Timestamp")
    message.field.add(name="data", number=3, type=12, label=1)
    message.field.add(name="format", number=4, type=9, label=1)
    timestamp = descriptor_pb2.FileDescriptorProto()
    timestamp_pb2.DESCRIPTOR.CopyToProto(timestamp)
    every = descriptor_pb2.FileDescriptorSet(file=[file, timestamp])
    pool = descriptor_pool.DescriptorPool()
    pool.Add(timestamp)
    pool.Add(file)
    made = message_factory.GetMessageClass(pool.FindMessageTypeByName("foxglove.CompressedVideo"))
    definition = every.SerializeToString()
    channel = Channel(
        id=1, topic="/v", type="foxglove.CompressedVideo", wire="protobuf", schema="protobuf", definition=definition
    )
    return channel, made


@pytest.mark.parametrize("head", [b"\0\2\0\0", b"\1\1\0\0", b"\0\1"])
def test_bytes_of_another_encoding_than_plain_cdr_are_refused(head: bytes) -> None:
    channel = ros2_channel("a/msg/B", "int8 x", "ros2msg")
    assert reader_of(channel)(memoryview(b"\0\1\0\0\7"), want("x")) == {"x": 7}
    with pytest.raises((Rejected, ValueError), match="expected plain CDR"):
        reader_of(channel)(memoryview(head + bytes(len(head) // 4)), want("x"))


def test_a_protobuf_message_is_read_by_the_descriptors_in_its_file() -> None:
    channel, made = protobuf_channel()
    message = made(data=b"\0\0\1", format="h264", timestamp={"seconds": 3, "nanos": 4})
    found = reader_of(channel)(memoryview(message.SerializeToString()), want("timestamp", "format", "data"))
    assert found == {"timestamp": {"seconds": 3, "nanos": 4}, "format": "h264", "data": b"\0\0\1"}


def test_a_json_message_is_read() -> None:
    channel = Channel(id=1, topic="/x", type="Joints", wire="json", schema="jsonschema")
    found = reader_of(channel)(memoryview(b'{"q": [1, 2], "arm": {"name": "left"}}'), want("q", "arm.name"))
    assert found["q"].tolist() == [1.0, 2.0] and found["arm"] == {"name": "left"}


DEEP = "".join(f"MSG: a/B{i}\na/B{i + 1} x\n{'=' * 80}\n" for i in range(40)) + "MSG: a/B40\nint8 x\n"
HOSTILE_DEFINITIONS = {
    "a type that holds itself": ("a/B x", "ros2msg"),
    "types without an end": (f"a/B0 x\n{'=' * 80}\n{DEEP}", "ros2msg"),
    "a type that is not there": ("a/C x", "ros2msg"),
    "parentheses that take the parser years": (
        f"module a {{ module msg {{ struct B {{ long x[{'(' * 9}1{')' * 9}]; }}; }}; }};",
        "ros2idl",
    ),
    "no definition at all": ("(((", "ros2msg"),
}


@pytest.mark.parametrize(("text", "schema"), HOSTILE_DEFINITIONS.values(), ids=HOSTILE_DEFINITIONS)
def test_a_hostile_definition_is_refused(text: str, schema: str) -> None:
    with pytest.raises(Rejected, match="a/msg/"):
        reader_of(ros2_channel("a/msg/B", text, schema))(memoryview(bytes(64)), want("x"))


@pytest.mark.parametrize(
    "text", ["float64[] x", "float64[4000000000] x", "a/Empty[] x\n" + "=" * 80 + "\nMSG: a/Empty\n"]
)
def test_a_count_that_the_message_has_no_room_for_is_refused(text: str) -> None:
    data = b"\0\1\0\0" + b"\xff\xff\xff\x7f" + bytes(16)
    with pytest.raises(Rejected, match="expected"):
        reader_of(ros2_channel("a/msg/B", text, "ros2msg"))(memoryview(data), want("x"))


def joints_data(wire: str, names: list[str], position: list[float], t_ns: int, **other: list[float]) -> bytes:
    store, type = (ROS2 if wire == "cdr" else ROS1), "sensor_msgs/msg/JointState"
    message = make(store, type, {"name": names, "position": position, **other}, t_ns)
    return bytes(store.serialize_cdr(message, type) if wire == "cdr" else store.serialize_ros1(message, type))


def joints_channel(wire: str) -> Channel:
    store, version = (ROS2, 2) if wire == "cdr" else (ROS1, 1)
    text = store.generate_msgdef("sensor_msgs/msg/JointState", ros_version=version)[0].encode()
    return Channel(
        id=1, topic="/x", type="sensor_msgs/msg/JointState", wire=wire, schema=f"ros{version}msg", definition=text
    )


@pytest.mark.parametrize("wire", ["cdr", "ros1"])
def test_messages_like_the_one_before_and_unlike_it_are_read_as_they_are(wire: str) -> None:
    read, wanted = reader_of(joints_channel(wire)), want("name", "position")
    said = [
        (["a", "bc"], [1.0, 2.0]),
        (["a", "bc"], [3.0, 4.0]),
        (["bc", "a"], [5.0, 6.0]),
        (["bc", "a"], []),
        (["bc", "a"], [7.0, 8.0, 9.0]),
        (["bcd", "a"], [0.5, 0.25]),
    ]
    for i, (names, position) in enumerate(said):
        found = read(memoryview(joints_data(wire, names, position, i * 10**9 + 7)), wanted)
        assert (list(found["name"]), found["position"].tolist()) == (names, position)


@pytest.mark.parametrize("wire", ["cdr", "ros1"])
def test_what_stands_before_the_wanted_array_may_change_with_every_message(wire: str) -> None:
    read, wanted = reader_of(joints_channel(wire)), want("velocity")
    for position, velocity in (([1.0], [2.0, 3.0]), ([4.0], [5.0, 6.0]), ([4.0, 4.0], [7.0])):
        data = joints_data(wire, ["a"], position, 7, velocity=velocity)
        assert read(memoryview(data), wanted)["velocity"].tolist() == velocity


def test_in_the_other_order_of_bytes_a_like_message_is_read_in_that_order() -> None:
    type, read, wanted = "sensor_msgs/msg/JointState", reader_of(joints_channel("cdr")), want("position")
    message = make(ROS2, type, {"name": [], "position": [1.5]}, 0)
    for is_little in (True, False, True):
        data = bytes(ROS2.serialize_cdr(message, type, little_endian=is_little))
        assert read(memoryview(data), wanted)["position"].tolist() == [1.5]


@pytest.mark.parametrize("wire", ["cdr", "ros1"])
def test_a_message_cut_off_behind_a_whole_one_is_refused(wire: str) -> None:
    read, wanted = reader_of(joints_channel(wire)), want("name", "position")
    data = joints_data(wire, ["a", "b"], [1.0, 2.0], 7)
    read(memoryview(data), wanted)
    # Behind the positions stand the empty counts of velocity and effort.
    with pytest.raises(Rejected, match="expected a message"):
        read(memoryview(data[:-9]), wanted)


@pytest.mark.parametrize("wire", ["cdr", "ros1"])
def test_other_fields_of_the_same_messages_are_read_with_the_same_reader(wire: str) -> None:
    read = reader_of(joints_channel(wire))
    data = memoryview(joints_data(wire, ["a"], [1.0], 7, velocity=[2.0]))
    for path, value in (("position", 1.0), ("velocity", 2.0), ("position", 1.0)):
        assert read(data, want(path))[path].tolist() == [value]
