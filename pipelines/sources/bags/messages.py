"""Fields of messages by their paths, from CDR, ROS 1, protobuf and JSON; nothing else of a message is built.

A definition is walked beside the bytes: no code is made from it, as ROS's own tools and rosbags do.
"""

import functools
import json
import struct
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from rosbags.interfaces import Nodetype

from pipelines.contract.native import Rejected
from pipelines.sources.bags.alike import Alike, StampReader
from pipelines.sources.bags.definitions import HEADER, Types, normal_type, types_of
from pipelines.sources.bags.logs.log import Channel

# What is wanted of a message: field -> what is wanted of it; an empty mapping wants all. Elements of a list go by their
# number, from the end if negative.
Wanted = Mapping[str, "Wanted"]
Read = Callable[[memoryview, Wanted], dict[str, Any]]
_SIZES = {
    "bool": ("?", 1),
    "byte": ("u1", 1),
    "char": ("u1", 1),
    "int8": ("i1", 1),
    "uint8": ("u1", 1),
    "int16": ("i2", 2),
    "uint16": ("u2", 2),
    "int32": ("i4", 4),
    "uint32": ("u4", 4),
    "int64": ("i8", 8),
    "uint64": ("u8", 8),
    "float32": ("f4", 4),
    "float64": ("f8", 8),
}
_FORMATS = dict(zip(("?", "u1", "i1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"), "?BbhHiIqQfd", strict=True))
_NUMBERS = {
    order: {base: (struct.Struct(order + _FORMATS[code]), size) for base, (code, size) in _SIZES.items()}
    for order in "<>"
}
_COUNTS = {order: struct.Struct(f"{order}I") for order in "<>"}
# Where a message that begins with a header, or a stamp, has its seconds and nanoseconds.
_STAMP_AT = {"cdr": 4, "ros1": 0}
_ABSENT: Any = object()
# As numbers: members of an enumeration are looked up slowly.
_BASE, _NAME, _SEQUENCE = int(Nodetype.BASE), int(Nodetype.NAME), int(Nodetype.SEQUENCE)
_ALL: Wanted = {}


def reader_of(channel: Channel, distro: str = "") -> Read:
    """Returns what reads wanted fields of a channel's messages; a field that a message lacks is absent.

    The reader raises Rejected on bytes that do not fit the definition.
    """
    if channel.wire in ("cdr", "ros1"):
        return WalkReader(channel, distro)
    if channel.wire == "protobuf":
        make = _protobuf_class(channel.type, channel.definition)
        return lambda data, wanted: _guarded(channel, lambda: _fields_of_protobuf(make.FromString(bytes(data)), wanted))
    if channel.wire == "json":
        return lambda data, wanted: _guarded(channel, lambda: _fields_of_json(json.loads(bytes(data)), wanted))
    known = "CDR, ROS 1, protobuf or JSON"
    raise Rejected("unreadable_bag", f"{channel.topic}: expected messages in {known}, found another encoding")


def stamp_reader_of(channel: Channel, distro: str = "") -> StampReader | None:
    """Returns what reads the stamp at a message's beginning.

    None where the type does not begin with a header or a stamp.
    """
    if channel.wire not in _STAMP_AT:
        return None
    (first, (_, what)), *_ = types_of(channel, distro)[normal_type(channel.type)] or [("", (0, ""))]
    is_header = what == HEADER
    if not is_header and (first, what) != ("timestamp", "builtin_interfaces/msg/Time"):
        return None
    # ROS 1 counts its headers before their stamps.
    return StampReader(channel, _STAMP_AT[channel.wire] + (4 if channel.wire == "ros1" and is_header else 0))


def present(channel: Channel, wanted: Wanted, distro: str = "") -> Wanted:
    """What is wanted of a message, without fields that its type has not: what follows the last is not looked at."""
    if channel.wire not in _STAMP_AT or not wanted:
        return wanted
    fields = {name for name, _ in types_of(channel, distro)[normal_type(channel.type)]}
    return {name: inner for name, inner in wanted.items() if name in fields}


def want(*paths: str) -> Wanted:
    """Merges paths of fields; where one wants all of a field, all is read.

    >>> want("header.stamp", "name", "header")
    {'header': {}, 'name': {}}
    """
    merged: dict[str, Any] = {}
    for path in paths:
        level = merged
        parts = path.split(".") if path else []
        if not parts:
            return {}
        for part in parts[:-1]:
            if part in level and not level[part]:
                break
            level = level.setdefault(part, {})
        else:
            level[parts[-1]] = {}
    return merged


def field_at(fields: Any, path: str) -> Any:
    """What lies at a path of what a reader returned; None where the message lacks it."""
    for part in path.split(".") if path else ():
        if not isinstance(fields, dict) or part not in fields:
            return None
        fields = fields[part]
    return fields


def _guarded(channel: Channel, read: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return read()
    except Exception as error:
        raise _unfit(channel, error) from error


def _unfit(channel: Channel, error: Exception) -> Rejected:
    """The reject of a message that its definition does not fit."""
    if isinstance(error, Rejected):
        return error
    # protobuf and json have errors of their own; whatever bytes raise, the message is none of its type.
    found = f"found others ({type(error).__name__}: {error})"
    return Rejected("unreadable_bag", f"{channel.topic}: expected a message {channel.type}, {found}")


class WalkReader:
    """Reads messages of CDR and ROS 1, of which mostly the first stamp and the last array change: joints by their
    names, and pictures.

    Bytes before that array that are those of the message before, but for the stamp, need no second walk: they give the
    same texts, and the array begins where it began.
    """

    def __init__(self, channel: Channel, distro: str = "") -> None:
        self._channel, self._types, self._name = channel, types_of(channel, distro), normal_type(channel.type)
        self._kind = kind = _Cdr if channel.wire == "cdr" else _Ros1
        fields = dict(self._types[self._name])
        # The number and the stamp of a header that the message begins with are passed over by the walk.
        has_header = next(iter(fields.values()), None) == (_NAME, HEADER)
        self._stamp = slice(kind.head, kind.head + kind.stamp_bytes) if has_header else slice(0, 0)
        self._arrays = {field: what[0][1][0] for field, (kind, what) in fields.items() if _is_array(kind, what)}
        self._wanted: Wanted = _ALL
        self._alike: Alike | None = None

    def __call__(self, data: memoryview, wanted: Wanted) -> dict[str, Any]:
        """The wanted fields of a message, as a walk over all of it finds them."""
        try:
            alike = self._alike
            if alike and self._wanted is wanted and (span := alike.span(data)) is not None:
                return {**alike.texts, alike.last: alike.array(data[slice(*span)])}
            walk = self._kind(data, self._types)
            found = walk.message(self._name, wanted, True)
            self._wanted, self._alike = wanted, self._remember(data, walk, found, wanted)
            return found
        except Exception as error:
            raise _unfit(self._channel, error) from error

    def alike(self) -> Alike | None:
        """What messages like the one read last have in common; None where more than the stamp and an array differs."""
        return self._alike

    def _remember(self, data: memoryview, walk: "_Ros1", found: dict[str, Any], wanted: Wanted) -> Alike | None:
        texts = dict(found)
        last, _ = texts.popitem() if texts else ("", None)
        # All that is wanted is found, so that the walk ended behind the last.
        if len(found) != len(wanted) or last not in self._arrays or not all(map(_is_text, texts.values())):
            return None
        return walk.alike(data, self._stamp, self._arrays[last], texts, last)


def _is_array(kind: Any, what: Any) -> bool:
    """Whether a field is numbers of any count."""
    return bool(kind == _SEQUENCE and what[0][0] == _BASE and what[0][1][0] != "string")


def _is_text(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(item, str) for item in value))


class _Ros1:
    """Walks one message of ROS 1: little-endian, not aligned, texts without an end."""

    # Bytes before those that count for the alignment.
    head = 0
    _order = "<"
    _text_end = 0
    # Of a header, what stands before its text: a number and the stamp.
    stamp_bytes = 12

    def __init__(self, data: memoryview, types: Types) -> None:
        self._data, self._types, self._at = data, types, 0
        # Where the last array of a message began: its count.
        self.array_at = 0
        self._counts, self._known = _COUNTS["<"], _NUMBERS["<"]

    def message(self, name: str, wanted: Wanted, is_last: bool) -> dict[str, Any]:
        """Reads the wanted fields; what follows the last of them is not looked at if nothing behind is wanted."""
        found: dict[str, Any] = {}
        left = len(wanted)
        for field, desc in self._types[name]:
            inner = wanted.get(field, _ABSENT) if wanted else {}
            if inner is _ABSENT:
                self._skip(desc)
                continue
            left -= 1
            found[field] = self._value(desc, inner, is_last and left == 0)
            if is_last and left == 0:
                break
        return found

    def _value(self, desc: Any, wanted: Wanted, is_last: bool) -> Any:
        kind, what = desc
        if kind == _BASE:
            return self._text() if what[0] == "string" else self._number(what[0])
        if kind == _NAME:
            return self.message(what, wanted, is_last)
        (inner_kind, inner), n = what
        if kind == _SEQUENCE:
            self.array_at = self._at
            n = self._count()
        if inner_kind == _BASE and inner[0] != "string":
            return self._numbers(inner[0], n)
        self._check_count(n)
        if inner_kind == _BASE:
            return self._texts(n)
        if not wanted:
            return [self.message(inner, {}, False) for _ in range(n)]
        return self._elements(inner, n, wanted)

    def _elements(self, name: str, n: int, wanted: Wanted) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for i in range(n):
            keys = [key for key in (str(i), str(i - n)) if key in wanted]
            if not keys:
                self._skip((_NAME, name))
            for key in keys:
                start = self._at
                found[key] = self.message(name, wanted[key], False)
                if key != keys[-1]:
                    self._at = start
        return found

    def _skip(self, desc: Any) -> None:
        kind, what = desc
        if kind == _BASE:
            self._skip_text() if what[0] == "string" else self._number(what[0])
        elif what == HEADER and kind == _NAME:
            self._align(4)
            self._at += self.stamp_bytes
            self._skip_text()
        elif kind == _NAME:
            for _, inner in self._types[what]:
                self._skip(inner)
        else:
            (inner_kind, inner), n = what
            if kind == _SEQUENCE:
                n = self._count()
            if inner_kind == _BASE and inner[0] != "string":
                self._numbers(inner[0], n)
                return
            self._check_count(n)
            for _ in range(n):
                self._skip((inner_kind, inner))

    def _align(self, n_bytes: int) -> None:
        """ROS 1 aligns nothing."""

    def alike(self, data: memoryview, stamp: slice, base: str, texts: Mapping[str, Any], last: str) -> Alike:
        """What messages laid out as this one have in common, up to the array at `array_at`."""
        code, size = _size_of(base)
        rest_at = slice(stamp.stop, self.head + self.array_at)
        self._at = self.array_at
        self._count()
        count_at = self.head + self._at - 4
        self._align(size)
        return Alike(
            head=bytes(data[: stamp.start]),
            rest_at=rest_at,
            rest=bytes(data[rest_at]),
            count_at=count_at,
            begin=self.head + self._at,
            dtype=np.dtype(self._order + code if size > 1 else code),
            unpack=self._counts.unpack_from,
            texts=texts,
            last=last,
        )

    def _count(self) -> int:
        self._align(4)
        (n,) = self._counts.unpack_from(self._data, self._at)
        self._at += 4
        return int(n)

    def _check_count(self, n: int) -> None:
        # Elements take a byte or more; those of an empty type take none, and could be without end.
        if n > len(self._data) - self._at:
            raise ValueError(f"expected at most {len(self._data) - self._at} elements, found {n} stated")

    def _number(self, base: str) -> Any:
        if base not in self._known:
            _size_of(base)
        form, size = self._known[base]
        self._align(size)
        (value,) = form.unpack_from(self._data, self._at)
        self._at += size
        return value

    def _numbers(self, base: str, n: int) -> Any:
        """An array of n numbers; bytes as a view of the message's own."""
        code, size = _size_of(base)
        if n:
            self._align(size)
        end = self._at + n * size
        if end > len(self._data):
            raise ValueError(f"expected {n} numbers, found {len(self._data) - self._at} bytes")
        view, self._at = self._data[self._at : end], end
        return view if code == "u1" else np.frombuffer(view, np.dtype(self._order + code) if size > 1 else code)

    def _text(self) -> str:
        n = self._count()
        if n > len(self._data) - self._at:
            raise ValueError(f"expected a text of at most {len(self._data) - self._at} bytes, found {n} stated")
        text = bytes(self._data[self._at : self._at + max(0, n - self._text_end)])
        self._at += n
        return text.decode(errors="replace")

    def _texts(self, n: int) -> list[str]:
        """A list of texts, as `_text` reads each: joints have many names in every message."""
        data, at, unpack, size = self._data, self._at, self._counts.unpack_from, len(self._data)
        found = []
        for _ in range(n):
            at += -at % 4 if self._text_end else 0
            (length,) = unpack(data, at)
            at += 4
            if length > size - at:
                raise ValueError(f"expected a text of at most {size - at} bytes, found {length} stated")
            found.append(str(data[at : at + max(0, length - self._text_end)], "utf-8", "replace"))
            at += length
        self._at = at
        return found

    def _skip_text(self) -> None:
        n = self._count()
        self._at += n


class _Cdr(_Ros1):
    """Walks one message of ROS 2: either order of bytes, numbers aligned to their size, texts that end in NUL."""

    head = 4
    _text_end = 1
    stamp_bytes = 8

    def __init__(self, data: memoryview, types: Types) -> None:
        # The head: 0, the order of bytes, two of options; alignment counts behind it.
        if len(data) < 4 or data[0] != 0 or data[1] not in (0, 1):
            raise ValueError(f"expected plain CDR, found a head {bytes(data[:4]).hex()}")
        super().__init__(data[4:], types)
        self._order = "<" if data[1] else ">"
        self._counts, self._known = _COUNTS[self._order], _NUMBERS[self._order]

    def _align(self, n_bytes: int) -> None:
        self._at += -self._at % n_bytes


def _size_of(base: str) -> tuple[str, int]:
    if base not in _SIZES:
        raise ValueError(f"expected numbers of up to 64 bits and texts of bytes, found {base}")
    return _SIZES[base]


@functools.lru_cache(maxsize=1024)
def _protobuf_class(name: str, definition: bytes) -> Any:
    """The class of a message from the FileDescriptorSet that MCAP stores as its schema."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    try:
        pool = descriptor_pool.DescriptorPool()
        waiting = {file.name: file for file in descriptor_pb2.FileDescriptorSet.FromString(definition).file}
        while waiting:
            # A file is added after those that it imports.
            ready = [file for file in waiting.values() if not any(other in waiting for other in file.dependency)]
            if not ready:
                raise ValueError("files that import one another")
            for file in ready:
                pool.Add(waiting.pop(file.name))
        return message_factory.GetMessageClass(pool.FindMessageTypeByName(name))
    except Exception as error:
        # The library raises errors of its own, TypeError and KeyError for descriptors that make no sense.
        raise Rejected("unreadable_bag", f"{name}: its protobuf definition cannot be read: {error}") from error


def _fields_of_protobuf(message: Any, wanted: Wanted) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for field in message.DESCRIPTOR.fields:
        if wanted and field.name not in wanted:
            continue
        inner, value = wanted.get(field.name, {}), getattr(message, field.name)
        is_message = field.message_type is not None
        if is_message and not field.is_repeated and not message.HasField(field.name):
            continue
        if not field.is_repeated:
            found[field.name] = _fields_of_protobuf(value, inner) if is_message else value
        elif is_message and not field.message_type.GetOptions().map_entry:
            found[field.name] = _picked([_fields_of_protobuf(item, {}) for item in value], inner)
        elif not is_message:
            found[field.name] = list(value) if field.cpp_type == field.CPPTYPE_STRING else np.asarray(value)
    return found


def _fields_of_json(value: Any, wanted: Wanted) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"expected an object, found {type(value).__name__}")
    found: dict[str, Any] = {}
    for key, inner in value.items():
        if wanted and key not in wanted:
            continue
        below = wanted.get(key, {})
        if isinstance(inner, dict):
            found[key] = _fields_of_json(inner, below)
        elif isinstance(inner, list) and inner and isinstance(inner[0], dict):
            found[key] = _picked([_fields_of_json(item, {}) for item in inner], below)
        elif isinstance(inner, list) and not any(isinstance(item, str) for item in inner):
            found[key] = np.asarray(inner, np.float64)
        else:
            found[key] = inner
    return found


def _picked(items: list[Any], wanted: Wanted) -> Any:
    """All elements of a list, or the wanted ones by their numbers."""
    if not wanted:
        return items
    n = len(items)
    numbers = {key: int(key) for key in wanted if key.lstrip("-").isdigit()}
    return {key: items[number] for key, number in numbers.items() if -n <= number < n}
