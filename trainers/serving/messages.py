"""Messages between a robot and a policy server: msgpack with arrays, byte for byte as `openpi-client` packs it."""

import re
from typing import Any

import msgpack
import numpy as np

from pipelines.contract.errors import UsageError
from trainers.serving.limits import DEFAULT, cut

NUMBERS = "biuf"
SENTENCE = re.compile(r"[<|][US]\d{1,5}")
# Sizes that msgpack refuses before it allocates; pictures are byte strings, so that no list needs to be long.
MAX_LIST, MAX_MAP, MAX_TEXT = 65_536, 1024, 65_536
# What foreign bytes make msgpack and numpy raise: cut or deep messages, odd dtypes, numbers that fit no type.
MALFORMED = (
    ValueError,
    TypeError,
    KeyError,
    OverflowError,
    AttributeError,
    RecursionError,
    MemoryError,
    SyntaxError,
    msgpack.exceptions.UnpackException,
)


def pack(message: Any) -> bytes:
    """A message as bytes; arrays become maps of their dtype, shape and data."""
    return msgpack.packb(message, default=_encoded)


def unpack(data: bytes) -> Any:
    """The message that `data` holds. UsageError where it is no such message or an array in it is not numbers."""
    try:
        return msgpack.unpackb(
            data,
            object_hook=_decoded,
            max_bin_len=DEFAULT.message_bytes,
            max_str_len=MAX_TEXT,
            max_array_len=MAX_LIST,
            max_map_len=MAX_MAP,
            max_ext_len=0,
        )
    except MALFORMED as error:
        found = cut(f"{type(error).__name__}: {error}", 200)
        raise UsageError(f"expected a msgpack message as openpi-client packs it; found {found}") from error


def _encoded(value: Any) -> Any:
    if isinstance(value, np.ndarray) and value.dtype.kind in NUMBERS:
        return {b"__ndarray__": True, b"data": value.tobytes(), b"dtype": value.dtype.str, b"shape": value.shape}
    if isinstance(value, np.generic) and value.dtype.kind in NUMBERS:
        return {b"__npgeneric__": True, b"data": value.item(), b"dtype": value.dtype.str}
    raise TypeError(f"expected numbers, text, lists and maps; found {type(value).__name__}")


def _decoded(value: dict[Any, Any]) -> Any:
    if b"__ndarray__" in value:
        return np.frombuffer(value[b"data"], _array_type(value)).reshape(value[b"shape"])
    if b"__npgeneric__" in value:
        return _number_type(value[b"dtype"]).type(value[b"data"])
    return value


def _array_type(value: dict[Any, Any]) -> np.dtype[Any]:
    name = value[b"dtype"]
    # A sentence as numpy has it, which openpi's clients may send; with a shape it would be no sentence.
    if isinstance(name, str) and SENTENCE.fullmatch(name) and not value[b"shape"]:
        return np.dtype(name)
    return _number_type(name)


def _number_type(name: Any) -> np.dtype[Any]:
    # numpy evaluates long and nested dtype strings with work of their own; every number's name is short.
    if not isinstance(name, str | bytes) or len(name) > 8:
        raise ValueError("an array of no number's type")
    kind = np.dtype(name.decode() if isinstance(name, bytes) else name)
    if kind.kind not in NUMBERS:
        raise ValueError(f"an array of {kind}, not of numbers")
    return kind
