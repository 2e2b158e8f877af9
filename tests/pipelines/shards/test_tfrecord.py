"""Records: the exact bytes, and what a damaged file is told."""

import io
import struct
from pathlib import Path

import google_crc32c
import numpy as np
import pytest

from pipelines.shards import tfrecord
from pipelines.shards.example_wire import encode_example, parse_example
from pipelines.shards.tfrecord import CorruptRecord, iter_records, read_record, write_record


@pytest.fixture
def two_records(tmp_path: Path) -> Path:
    """A file with the payloads `hello` and `world!`, at bytes 0 and 21."""
    path = tmp_path / "x.tfrecord"
    with open(path, "wb") as file:
        write_record(file, b"hello")
        write_record(file, b"world!")
    return path


def test_a_record_has_the_bytes_of_the_format() -> None:
    file = io.BytesIO()
    assert write_record(file, b"hello") == 12
    assert file.getvalue().hex() == "0500000000000000eab2043e68656c6c6fbb1f1c19"


def test_records_come_back_with_the_offsets_of_their_payloads(two_records: Path) -> None:
    assert list(iter_records(two_records)) == [(12, b"hello"), (33, b"world!")]


def test_chunks_make_the_same_record_as_the_whole() -> None:
    whole, chunked = io.BytesIO(), io.BytesIO()
    write_record(whole, b"hello world")
    write_record(chunked, iter([b"hello", b" ", b"", b"world"]), 11)
    assert chunked.getvalue() == whole.getvalue()


def test_chunks_that_do_not_add_up_are_refused() -> None:
    with pytest.raises(ValueError, match="expected 5 bytes of payload, found 4"):
        write_record(io.BytesIO(), iter([b"hell"]), 5)


@pytest.mark.parametrize(
    ("kept", "message"), [(22, "expected 12 more bytes, found 1"), (40, "expected 10 more bytes, found 7")]
)
def test_a_truncated_file_is_named_with_the_record_and_the_byte(two_records: Path, kept: int, message: str) -> None:
    two_records.write_bytes(two_records.read_bytes()[:kept])
    with pytest.raises(CorruptRecord, match=f"x.tfrecord: record 1 at byte 21: {message}: the file is truncated"):
        list(iter_records(two_records))


@pytest.mark.parametrize(("byte", "what"), [(21, "length"), (29, "length"), (35, "payload"), (40, "payload")])
def test_a_changed_byte_is_found(two_records: Path, byte: int, what: str) -> None:
    data = bytearray(two_records.read_bytes())
    data[byte] ^= 4
    two_records.write_bytes(data)
    with pytest.raises(CorruptRecord, match=f"record 1 at byte 21: expected a {what} that fits its checksum"):
        list(iter_records(two_records))


def test_an_absurd_length_is_not_allocated(tmp_path: Path) -> None:
    path = tmp_path / "x.tfrecord"
    head = struct.pack("<Q", 1 << 60)
    crc = google_crc32c.value(head)
    path.write_bytes(head + struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF) + b"abc")
    with pytest.raises(CorruptRecord, match="truncated"):
        list(iter_records(path))


def test_tensorflow_reads_the_file(two_records: Path) -> None:
    tf = pytest.importorskip("tensorflow")
    assert [r.numpy() for r in tf.data.TFRecordDataset(str(two_records))] == [b"hello", b"world!"]


def test_a_long_payload_stays_in_its_file_and_reads_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tfrecord, "LONG_BYTES", 1000)
    features = {"a": [b"x" * 700, b"", b"y" * 700], "n": np.arange(300)}
    payload = b"".join(encode_example(features).chunks)
    path = tmp_path / "x.tfrecord"
    with open(path, "wb") as file:
        write_record(file, b"before")
        offset = write_record(file, payload)
    read = read_record(path, offset, len(payload))
    assert isinstance(read, tfrecord.LongPayload) and len(read) == len(payload)
    assert read[5:900] == payload[5:900] and [read[i] for i in (0, 299, 7)] == [payload[i] for i in (0, 299, 7)]
    parsed = parse_example(read)
    assert list(parsed["a"]) == features["a"] and parsed["n"].tolist() == list(range(300))
    damaged = bytearray(path.read_bytes())
    damaged[offset + 700] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(CorruptRecord, match="record at byte 22: expected a payload that fits its checksum"):
        read_record(path, offset, len(payload))
