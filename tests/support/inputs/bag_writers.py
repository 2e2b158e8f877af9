"""Bags written by other people's code: `rosbags` (ROS 1, rosbag2 of SQLite and MCAP) and `mcap` (MCAP)."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mcap.writer import CompressionType
from mcap.writer import Writer as McapWriter
from rosbags import rosbag1, rosbag2
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

ROS1, ROS2 = get_typestore(Stores.ROS1_NOETIC), get_typestore(Stores.ROS2_HUMBLE)
# ROS 1's own messages have tf's apart.
ROS1.register(get_types_from_msg("geometry_msgs/TransformStamped[] transforms", "tf2_msgs/msg/TFMessage"))
MS = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Published:
    """One message: topic, type, when it was logged (ns), and its fields; `stamp_ns` fills the header, if it has one."""

    topic: str
    type: str
    logged_ns: int
    fields: Mapping[str, Any]
    stamp_ns: int | None = None


def make(store: Any, type: str, fields: Mapping[str, Any], stamp_ns: int | None = None) -> Any:
    """Builds a message of rosbags' types; a mapping is a message of the field's own type."""
    definitions = store.fielddefs[type][1]
    values = {}
    for name, (kind, what) in definitions:
        value = fields.get(name)
        if name == "header":
            value = _header(store, stamp_ns or 0, fields.get("frame_id", ""))
        elif int(kind) == 2:
            value = make(store, what, value or {})
        elif int(kind) in (3, 4) and int(what[0][0]) == 2:
            value = [make(store, what[0][1], item, item.get("stamp_ns")) for item in value or []]
        elif int(kind) in (3, 4) and what[0][1][0] != "string":
            dtype = {"byte": "uint8", "char": "uint8"}.get(what[0][1][0], what[0][1][0])
            value = np.asarray([] if value is None else value, dtype)
        elif value is None:
            value = [] if int(kind) in (3, 4) else "" if what[0] == "string" else 0
        values[name] = value
    return store.types[type](**values)


def _header(store: Any, stamp_ns: int, frame_id: str) -> Any:
    time = store.types["builtin_interfaces/msg/Time"](sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)
    header = store.types["std_msgs/msg/Header"]
    return header(seq=0, stamp=time, frame_id=frame_id) if store is ROS1 else header(stamp=time, frame_id=frame_id)


def write_ros1(path: Path, messages: Iterable[Published], compression: str = "") -> Path:
    """Writes a ROS 1 bag; compression: lz4, bz2 or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = rosbag1.Writer(path)
    if compression:
        writer.set_compression(writer.CompressionFormat[compression.upper()])
    with writer:
        connections: dict[str, Any] = {}
        for m in sorted(messages, key=lambda m: m.logged_ns):
            if m.topic not in connections:
                connections[m.topic] = writer.add_connection(m.topic, m.type, typestore=ROS1)
            data = ROS1.serialize_ros1(make(ROS1, m.type, m.fields, m.stamp_ns), m.type)
            writer.write(connections[m.topic], m.logged_ns, bytes(data))
    return path


def write_rosbag2(
    path: Path, messages: Iterable[Published], storage: str = "sqlite3", version: int = 8, packed: str = ""
) -> Path:
    """Writes a rosbag2 folder. storage: sqlite3 or mcap. packed: what Zstandard compresses, FILE or MESSAGE."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = rosbag2.Writer(path, version=version, storage_plugin=rosbag2.StoragePlugin[storage.upper()])
    if packed:
        writer.set_compression(rosbag2.CompressionMode[packed], rosbag2.CompressionFormat.ZSTD)
    with writer:
        connections: dict[str, Any] = {}
        for m in sorted(messages, key=lambda m: m.logged_ns):
            if m.topic not in connections:
                connections[m.topic] = writer.add_connection(m.topic, m.type, typestore=ROS2)
            data = ROS2.serialize_cdr(make(ROS2, m.type, m.fields, m.stamp_ns), m.type)
            writer.write(connections[m.topic], m.logged_ns, data)
    return path


def write_mcap(
    path: Path,
    messages: Iterable[Published],
    compression: CompressionType = CompressionType.ZSTD,
    chunk_size: int = 1 << 14,
    close: bool = True,
    definitions: Mapping[str, str] | None = None,
    **options: Any,
) -> Path:
    """Writes an MCAP file as ROS 2 does. close: whether its index is written. definitions: of types of one's own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    store = get_typestore(Stores.ROS2_HUMBLE)
    for name, text in (definitions or {}).items():
        store.register(get_types_from_msg(text, name))
    with path.open("wb") as file:
        writer = McapWriter(file, chunk_size=chunk_size, compression=compression, **options)
        writer.start(profile="ros2", library="test")
        channels: dict[str, int] = {}
        for m in sorted(messages, key=lambda m: m.logged_ns):
            if m.topic not in channels:
                text, _ = store.generate_msgdef(m.type, ros_version=2)
                schema = writer.register_schema(m.type, "ros2msg", text.encode())
                channels[m.topic] = writer.register_channel(m.topic, "cdr", schema)
            data = bytes(store.serialize_cdr(make(store, m.type, m.fields, m.stamp_ns), m.type))
            writer.add_message(channels[m.topic], m.logged_ns, data, m.logged_ns)
        if close:
            writer.finish()
    return path


def joint_state(topic: str, at_ns: int, names: Sequence[str], positions: Any, late_ns: int = 2 * MS) -> Published:
    return Published(
        topic=topic,
        type="sensor_msgs/msg/JointState",
        logged_ns=at_ns + late_ns,
        stamp_ns=at_ns,
        fields={"name": list(names), "position": np.asarray(positions, np.float64)},
    )


def rgb(topic: str, at_ns: int, pixels: np.ndarray, encoding: str = "rgb8", late_ns: int = 2 * MS) -> Published:
    height, width = pixels.shape[:2]
    fields = {"height": height, "width": width, "encoding": encoding, "step": pixels[0].nbytes, "data": pixels.ravel()}
    return Published(
        topic=topic, type="sensor_msgs/msg/Image", logged_ns=at_ns + late_ns, stamp_ns=at_ns, fields=fields
    )


def number(topic: str, at_ns: int, value: float, type: str = "Float64") -> Published:
    """A message without a header."""
    return Published(topic=topic, type=f"std_msgs/msg/{type}", logged_ns=at_ns, fields={"data": value})


def text(topic: str, at_ns: int, value: str) -> Published:
    return Published(topic=topic, type="std_msgs/msg/String", logged_ns=at_ns, fields={"data": value})


JOINTS = ("shoulder_pan_joint", "shoulder_lift_joint", "elbow_joint", "wrist_1_joint", "wrist_2_joint", "wrist_3_joint")


def demonstration(task: str = "lift the cube", start_ms: int = 0, end_ms: int = 1000) -> list[Published]:
    """A second of a UR5e as `tests.pipelines.sources.test_zarr.write_log` has it: joints at 50 Hz that rise 1 rad/s, a
    gripper that closes at 0.5 s, commands at 20 Hz, a camera at 10 fps. Joint states come in the alphabet's order."""
    order = sorted(range(6), key=lambda i: JOINTS[i])
    names = [JOINTS[i] for i in order]
    messages: list[Published] = []
    for t in range(5, 1005, 20):
        messages.append(joint_state("/joint_states", t * MS, names, [t / 1000] * 6))
        messages.append(joint_state("/gripper/state", t * MS, ["finger"], [float(t >= 500)]))
    for t in range(10, 1000, 50):
        messages.append(joint_state("/command/joints", t * MS, JOINTS, [t / 1000 + 0.1] * 6))
        messages.append(joint_state("/command/gripper", t * MS, ["finger"], [1.0]))
    for i, t in enumerate(range(0, 1000, 100)):
        messages.append(rgb("/camera/image_raw", t * MS, np.full((8, 8, 3), 20 * i, np.uint8)))
    messages.append(text("/task", 0, task))
    return messages


WRITERS: dict[str, Callable[[Path, Iterable[Published]], Path]] = {
    "mcap": lambda folder, messages: write_mcap(folder / "a.mcap", messages),
    "rosbag2 of sqlite3": lambda folder, messages: write_rosbag2(folder / "a", messages),
    "rosbag2 of mcap": lambda folder, messages: write_rosbag2(folder / "a", messages, "mcap", 9),
    "ros1": lambda folder, messages: write_ros1(folder / "a.bag", messages),
}
