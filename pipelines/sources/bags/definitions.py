"""Definitions of message types, from the text that a bag holds (msg, IDL) or, without one, those that ROS ships."""

import functools
import importlib
import re
from collections.abc import Mapping
from typing import Any

from rosbags.interfaces import Nodetype
from rosbags.typesys import TypesysError, get_types_from_idl, get_types_from_msg

from pipelines.contract.native import Rejected
from pipelines.sources.bags.logs.log import Channel

# Type -> its fields: name and description, as rosbags' parsers give them: (kind, base or name, or element and length).
Fields = list[tuple[str, Any]]
Types = Mapping[str, Fields]
# Deeper than any type of ROS by far; one that holds itself has no end.
MAX_DEPTH = 32
_BUILT_IN: dict[str, Fields] = {
    f"builtin_interfaces/msg/{name}": [
        ("sec", (Nodetype.BASE, ("int32", 0))),
        ("nanosec", (Nodetype.BASE, ("uint32", 0))),
    ]
    for name in ("Time", "Duration")
}
HEADER = "std_msgs/msg/Header"
# Readers pass over a header without its definition: nearly every message begins with one.
_HEADERS = (["stamp", "frame_id"], ["seq", "stamp", "frame_id"])
_RULE = "=" * 80
_NOT_CODE = re.compile(r'"(?:\\.|[^"\\])*"|//[^\n]*|/\*.*?\*/', re.DOTALL)
_ANNOTATION = re.compile(r"@\s*[\w:]+\s*\([^()]*\)")
# Of which a bag without definitions is read: of one that states none, those that have changed least since.
_USUAL_DISTRO = "humble"


def types_of(channel: Channel, distro: str = "") -> Types:
    """Returns the types that a channel's messages consist of. Raises Rejected where they are not known.

    distro: the ROS distribution whose own messages are meant where the bag holds no definitions.
    """
    return _parsed(normal_type(channel.type), channel.schema, channel.definition, distro)


def normal_type(name: str) -> str:
    """`sensor_msgs/JointState`, as ROS 1 has it, and `sensor_msgs/msg/JointState` are one type.

    >>> normal_type("sensor_msgs/JointState")
    'sensor_msgs/msg/JointState'
    """
    parts = name.split("/")
    return f"{parts[0]}/msg/{parts[1]}" if len(parts) == 2 else name


@functools.lru_cache(maxsize=1024)
def _parsed(name: str, schema: str, definition: bytes, distro: str) -> Types:
    try:
        if schema in ("ros1msg", "ros2msg"):
            # Without its line's end the last field of some writers' texts has none.
            found = get_types_from_msg(definition.decode() + "\n", name)
        elif schema == "ros2idl":
            found = _types_of_idl(definition.decode())
        else:
            found = _shipped(distro or _USUAL_DISTRO)
    except (TypesysError, ValueError, RecursionError, AssertionError, LookupError, AttributeError, TypeError) as error:
        raise Rejected("unreadable_bag", f"{name}: its definition cannot be read: {str(error)[-200:]}") from error
    types = {**_BUILT_IN, **{key: fields for key, (_, fields) in found.items()}}
    if name not in types:
        raise Rejected(
            "unreadable_bag",
            f"{name}: expected its definition in the bag or among those of ROS 2 {distro or _USUAL_DISTRO}, found none",
        )
    _check_types(name, types, 0)
    if HEADER in types and [field for field, _ in types[HEADER]] not in _HEADERS:
        raise Rejected("unreadable_bag", f"{name}: expected ROS's own {HEADER} in its definition, found another")
    return types


def _types_of_idl(text: str) -> dict[str, Any]:
    """IDL of a type and all it refers to, each under a line `IDL: name` after a rule; or of one type alone."""
    found: dict[str, Any] = {}
    parts = re.split(rf"^{_RULE}\n", text, flags=re.MULTILINE) if _RULE in text else [text]
    for part in parts:
        body = re.sub(r"\AIDL: [^\n]*\n", "", part)
        if body.strip():
            _check_parentheses(body)
            found |= get_types_from_idl(body)
    return found


def _check_parentheses(text: str) -> None:
    """Raises ValueError for parentheses in expressions, which ROS writes none of.

    rosbags' parser tries every rule again at each one: two inside one another take half a minute, ten take years.
    """
    if "(" in _ANNOTATION.sub("", _NOT_CODE.sub("", text)):
        raise ValueError("expected constants without parentheses")


@functools.cache
def _shipped(distro: str) -> dict[str, Any]:
    """The messages of a ROS 2 distribution, as rosbags ships them; of one that it does not know, the usual one's."""
    try:
        if not re.fullmatch(r"[a-z]+", distro):
            raise ModuleNotFoundError(distro)
        module = importlib.import_module(f"rosbags.typesys.stores.ros2_{distro}")
    except ModuleNotFoundError:
        module = importlib.import_module(f"rosbags.typesys.stores.ros2_{_USUAL_DISTRO}")
    return dict(module.FIELDDEFS)


def _check_types(name: str, types: Types, depth: int) -> None:
    """Raises Rejected where a type refers to one that is missing, or holds itself."""
    if depth > MAX_DEPTH:
        raise Rejected("unreadable_bag", f"{name}: expected types at most {MAX_DEPTH} deep; does it hold itself?")
    if name not in types:
        raise Rejected("unreadable_bag", f"{name}: expected its definition in the bag, found none")
    for inner in {inner for _, desc in types[name] if (inner := named_in(desc))}:
        _check_types(inner, types, depth + 1)


def named_in(desc: Any) -> str:
    """The type that a field, or each element of one, has; empty where it is a number or a text."""
    kind, what = desc
    if kind in (Nodetype.ARRAY, Nodetype.SEQUENCE):
        kind, what = what[0]
    return str(what) if kind == Nodetype.NAME else ""
