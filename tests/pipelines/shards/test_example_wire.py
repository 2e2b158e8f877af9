"""tf.train.Example on the wire: the exact bytes, the protobuf library's view of them, and hostile input."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.shards.example_wire import (
    ByteStrings,
    CorruptExample,
    ListBody,
    encode_example,
    field,
    parse_example,
    varint,
    varint_sizes,
)

FEATURES = {
    "b": np.array([-1, 0, 300, 2**62], np.int64),
    "a": np.array([1.5, -2], np.float32),
    "c": [b"x", b"", b"y" * 300],
    "none": [],
}


def encode(features: dict) -> bytes:
    encoded = encode_example(features)
    data = b"".join(encoded.chunks)
    assert len(data) == encoded.n_bytes
    return data


def test_a_small_example_has_these_bytes() -> None:
    assert encode({"k": [b"v"]}).hex() == "0a0c0a0a0a016b12050a030a0176"


def test_keys_are_sorted_whatever_the_order_they_come_in() -> None:
    assert encode(FEATURES) == encode(dict(reversed(FEATURES.items())))


def test_tensorflow_reads_what_is_written() -> None:
    tf = pytest.importorskip("tensorflow")
    example = tf.train.Example.FromString(encode(FEATURES)).features.feature
    assert sorted(example) == ["a", "b", "c", "none"]
    assert list(example["b"].int64_list.value) == [-1, 0, 300, 2**62]
    assert list(example["a"].float_list.value) == [1.5, -2.0]
    assert list(example["c"].bytes_list.value) == [b"x", b"", b"y" * 300]


def test_what_tensorflow_writes_is_read() -> None:
    tf = pytest.importorskip("tensorflow")
    example = tf.train.Example()
    example.features.feature["i"].int64_list.value.extend([5, -7, 2**40])
    example.features.feature["f"].float_list.value.extend([0.25])
    example.features.feature["s"].bytes_list.value.extend([b"one", b"two"])
    parsed = parse_example(example.SerializeToString())
    assert {key: list(value) for key, value in parsed.items()} == {
        "i": [5, -7, 2**40],
        "f": [0.25],
        "s": [b"one", b"two"],
    }


def test_the_values_of_a_bytes_list_are_sliced_out_of_the_payload() -> None:
    payload = encode(FEATURES)
    values = parse_example(payload)["c"]
    assert isinstance(values, ByteStrings)
    assert values.lengths.tolist() == [1, 0, 300]
    assert list(values[1:]) == [b"", b"y" * 300]
    assert payload[values.offsets[2] : values.offsets[2] + 300] == b"y" * 300


def test_a_body_that_lies_elsewhere_begins_where_the_encoder_says() -> None:
    body = field(b"first") + field(b"second")
    encoded = encode_example({"a": [b"x"], "z": ListBody(len(body), iter([body[:3], body[3:]]))})
    data = b"".join(encoded.chunks)
    start = encoded.body_offsets["z"]
    assert data[start : start + len(body)] == body
    assert list(parse_example(data)["z"]) == [b"first", b"second"]


@given(st.lists(st.integers(0, 2**62), min_size=1))
def test_sizes_of_varints(values: list[int]) -> None:
    assert varint_sizes(np.array(values)).tolist() == [len(varint(v)) for v in values]


INTEGERS = st.lists(st.integers(-(2**63), 2**63 - 1))


@given(INTEGERS, st.lists(st.floats(width=32, allow_nan=False)), st.lists(st.binary()))
def test_everything_comes_back(integers: list[int], floats: list[float], texts: list[bytes]) -> None:
    parsed = parse_example(encode({"i": np.array(integers, np.int64), "f": np.array(floats, np.float32), "t": texts}))
    assert [list(parsed[key]) for key in "ift"] == [integers, floats, texts]


def is_read_or_refused(payload: bytes) -> bool:
    """Whether all that is read is of the kinds that an example has; a refusal reads nothing."""
    try:
        values = parse_example(payload).values()
    except CorruptExample as error:
        return str(error).startswith("expected ")
    kinds = np.float32, np.int64
    return all(isinstance(value, ByteStrings) or (value.ndim == 1 and value.dtype in kinds) for value in values)


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_read_or_refused(data: bytes) -> None:
    assert is_read_or_refused(data)


@given(st.data())
def test_a_changed_or_cut_example_is_read_or_refused(data: st.DataObject) -> None:
    payload = bytearray(encode(FEATURES))
    payload[data.draw(st.integers(0, len(payload) - 1))] ^= data.draw(st.integers(1, 255))
    assert is_read_or_refused(bytes(payload[: data.draw(st.integers(0, len(payload)))]))


def example_of(feature: bytes) -> bytes:
    """An example whose feature `k` holds these bytes."""
    return field(field(field(b"k") + nested(0x12, feature)))


def nested(tag: int, content: bytes) -> bytes:
    return bytes([tag]) + varint(len(content)) + content


FLOATS, INTEGERS_OF_A_LIST, UNPACKED_FLOAT, UNPACKED_INTEGER = 0x12, 0x1A, b"\x0d", b"\x08"


def test_lists_that_are_not_packed_are_read_alike() -> None:
    floats = b"".join(UNPACKED_FLOAT + np.float32(value).tobytes() for value in (1.5, -2.0))
    integers = b"".join(UNPACKED_INTEGER + varint(value) for value in (5, 300, -7))
    assert list(parse_example(example_of(nested(FLOATS, floats)))["k"]) == [1.5, -2.0]
    assert list(parse_example(example_of(nested(INTEGERS_OF_A_LIST, integers)))["k"]) == [5, 300, -7]


@pytest.mark.parametrize(
    "payload, message",
    [
        (b"\x0a\x7f\x00", "expected 127 bytes at byte 2, found 1"),
        (example_of(nested(FLOATS, field(b"12345"))), "expected float32 values of 4 bytes, found 5 bytes"),
        (example_of(nested(INTEGERS_OF_A_LIST, field(b"\x05\x80"))), "expected whole varints, found one that breaks"),
        (example_of(nested(INTEGERS_OF_A_LIST, field(b"\x80" * 11 + b"\x01"))), "at most 10 bytes, found 12"),
        (b"\x12\x00", "expected field tag 0xa, found 0x12 at byte 0"),
        (b"\x0a" + b"\x80" * 11, "expected a varint of at most 10 bytes before byte 11"),
        (example_of(b"\x0b\x00"), "expected field tags of a tf.train.Example, found 0xb"),
        (b"\x0a", "expected a tf.train.Example, found bytes that break off"),
    ],
)
def test_what_is_no_example_is_refused_by_name(payload: bytes, message: str) -> None:
    with pytest.raises(CorruptExample, match=message):
        parse_example(payload)
