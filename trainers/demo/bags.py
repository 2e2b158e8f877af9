"""The demo's bags: MCAP files as ROS 2's recorder writes them, from the streams of an in-house log, and their entry."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Arrays = Mapping[str, NDArray[Any]]
ENTRY_FILE, ENTRY_NAME = "mobile_bag.yaml", "mobile_bag"
_JPEG_QUALITY = 92
# How long a message is under way before it is logged, and a recorder's chunk.
_LATE_NS = 1_500_000
_CHUNK_BYTES = 1 << 20
_GRIPPERS = ("left_gripper", "right_gripper")
_TYPES = {"joint": "sensor_msgs/msg/JointState", "image": "sensor_msgs/msg/CompressedImage"}


def entry_text(robot: str, control_hz: float, joint_names: list[str]) -> str:
    """The adapter entry, as a file, of the bags of a robot with two arms on a base."""
    half = len(joint_names) // 2
    left, right = (", ".join(names) for names in (joint_names[:half], joint_names[half:]))
    arms = f"""\
      arm0: {{from: {{topic}}, names: [{left}]}}
      gripper0: {{from: {{hands}}, names: [{_GRIPPERS[0]}], open: 0, closed: 1}}
      arm1: {{from: {{topic}}, names: [{right}]}}
      gripper1: {{from: {{hands}}, names: [{_GRIPPERS[1]}], open: 0, closed: 1}}
"""
    base = ", ".join(f'"/command/base:twist.{axis}"' for axis in ("linear.x", "linear.y", "angular.z"))
    state = arms.replace("{topic}", "/joint_states").replace("{hands}", "/gripper/state")
    action = arms.replace("{topic}", "/command/joints").replace("{hands}", "/command/gripper")
    return f"""\
schema: embodimix.adapters/v1
adapters:
  {ENTRY_NAME}:
    title: the demo's mobile robot, logged in MCAP
    format: bag
    robot: {robot}
    control_mode: joint_position
    units: metric
    control_hz: {control_hz:g}
    cameras:
      base_0_rgb: /camera/base_0/compressed
      left_wrist_0_rgb: /camera/left_wrist_0/compressed
      right_wrist_0_rgb: /camera/right_wrist_0/compressed
    state:
{state}    action:
{action}      base: {{from: [{base}]}}
    bag:
      stamp: header
      instruction: {{topic: /task}}
      success: {{topic: /success}}
"""


def write_bag(path: Path, attributes: Mapping[str, Any], arrays: Arrays) -> None:
    """Writes one episode of `inhouse_log/v1`, its attributes and arrays by name, as an MCAP file."""
    from mcap.writer import CompressionType, Writer
    from rosbags.typesys import Stores, get_typestore

    store = get_typestore(Stores.ROS2_JAZZY)
    path.parent.mkdir(parents=True, exist_ok=True)
    channels: dict[str, int] = {}
    with path.open("wb") as file:
        writer = Writer(file, chunk_size=_CHUNK_BYTES, compression=CompressionType.LZ4)
        writer.start(profile="ros2", library="embodimix demo")
        for logged_ns, topic, type, fields in sorted(_messages(store, attributes, arrays), key=lambda each: each[0]):
            if topic not in channels:
                text = store.generate_msgdef(type, ros_version=2)[0]
                schema = writer.register_schema(type, "ros2msg", text.encode())
                channels[topic] = writer.register_channel(topic, "cdr", schema)
            data = bytes(store.serialize_cdr(store.types[type](**fields), type))
            writer.add_message(channels[topic], logged_ns, data, logged_ns)
        writer.finish()


def _messages(
    store: Any, attributes: Mapping[str, Any], arrays: Arrays
) -> Iterator[tuple[int, str, str, dict[str, Any]]]:
    """When each message is logged, its topic, its type and its fields."""
    first = int(arrays["command/timestamp_ns"][0])
    yield first, "/task", "std_msgs/msg/String", {"data": attributes["task"]}
    last = int(arrays["command/timestamp_ns"][-1])
    yield last, "/success", "std_msgs/msg/Bool", {"data": bool(attributes["success"])}
    names = list(attributes["joint_names"])
    joints = (
        ("/joint_states", "joints", "joints/position", names),
        ("/gripper/state", "gripper", "gripper/position", _GRIPPERS),
        ("/command/joints", "command", "command/joint_position", names),
        ("/command/gripper", "command", "command/gripper", _GRIPPERS),
    )
    for topic, stream, key, own in joints:
        for stamp_ns, values in zip(arrays[f"{stream}/timestamp_ns"].tolist(), arrays[key], strict=True):
            yield stamp_ns + _LATE_NS, topic, _TYPES["joint"], _joint_state(store, stamp_ns, own, values)
    for stamp_ns, (vx, vy, wz) in zip(arrays["command/timestamp_ns"].tolist(), arrays["command/base"], strict=True):
        twist = _twist(store, stamp_ns, float(vx), float(vy), float(wz))
        yield stamp_ns + _LATE_NS, "/command/base", "geometry_msgs/msg/TwistStamped", twist
    for key in (key for key in arrays if key.endswith("/rgb")):
        slot = key.split("/")[1]
        for stamp_ns, pixels in zip(arrays[f"camera/{slot}/timestamp_ns"].tolist(), arrays[key], strict=True):
            topic = f"/camera/{slot}/compressed"
            yield stamp_ns + _LATE_NS, topic, _TYPES["image"], _picture(store, stamp_ns, pixels)


def _header(store: Any, stamp_ns: int) -> Any:
    stamp = store.types["builtin_interfaces/msg/Time"](sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)
    return store.types["std_msgs/msg/Header"](stamp=stamp, frame_id="")


def _joint_state(store: Any, stamp_ns: int, names: Any, values: NDArray[Any]) -> dict[str, Any]:
    position, nothing = np.asarray(values, np.float64), np.zeros(0)
    return {
        "header": _header(store, stamp_ns),
        "name": list(names),
        "position": position,
        "velocity": nothing,
        "effort": nothing,
    }


def _twist(store: Any, stamp_ns: int, vx: float, vy: float, wz: float) -> dict[str, Any]:
    vector = store.types["geometry_msgs/msg/Vector3"]
    linear, angular = vector(x=vx, y=vy, z=0.0), vector(x=0.0, y=0.0, z=wz)
    twist = store.types["geometry_msgs/msg/Twist"](linear=linear, angular=angular)
    return {"header": _header(store, stamp_ns), "twist": twist}


def _picture(store: Any, stamp_ns: int, pixels: NDArray[np.uint8]) -> dict[str, Any]:
    import simplejpeg

    jpeg = simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), quality=_JPEG_QUALITY)
    return {
        "header": _header(store, stamp_ns),
        "format": "rgb8; jpeg compressed",
        "data": np.frombuffer(jpeg, np.uint8),
    }
