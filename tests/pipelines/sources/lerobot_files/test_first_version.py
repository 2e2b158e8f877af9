"""LeRobot datasets of v1.6, as its scripts left them: tables of `datasets`, meta_data/, videos in one folder."""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.contract.errors import FailedWork, UsageError
from pipelines.contract.native import NativeEpisode, Rejected
from pipelines.mapping.adapters import Adapter, parse_adapter
from pipelines.sources.lerobot import find, read
from tests.pipelines.sources.lerobot_files.test_tables import picture
from tests.support.inputs.lerobot_writer import numbers_shown, write_video

CAMERA = "observation.images.top"
LENGTHS = [3, 4]
ENTRY: dict[str, Any] = {
    "title": "a twin of v1.6",
    "format": "lerobot",
    "robot": "so100",
    "control_mode": "joint_position",
    "units": "metric",
    "cameras": {"base_0_rgb": CAMERA},
    "state": {"arm0": {"from": "observation.state[0:5]"}},
    "action": {"arm0": {"from": "action[0:5]"}},
}


def entry() -> Adapter:
    return parse_adapter("twin", ENTRY)


def write_index(path: Path, lengths: list[int]) -> None:
    """`from` and `to` as safetensors.torch.save_file writes two int64 tensors."""
    ends = np.cumsum(lengths).astype("<i8")
    starts = (ends - lengths).astype("<i8")
    n = starts.nbytes
    header = {
        "from": {"dtype": "I64", "shape": [len(lengths)], "data_offsets": [0, n]},
        "to": {"dtype": "I64", "shape": [len(lengths)], "data_offsets": [n, 2 * n]},
    }
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + starts.tobytes() + ends.tobytes())


def write(root: Path, form: str = "arrow", images: bool = False, texts: list[str] | None = None) -> Path:
    """Two episodes in one table: Arrow as `save_to_disk` writes it, or Parquet as the hub has it."""
    (root / "meta_data").mkdir(parents=True)
    info = {"codebase_version": "v1.6", "fps": 10, "video": not images}
    (root / "meta_data/info.json").write_text(json.dumps(info))
    write_index(root / "meta_data/episode_data_index.safetensors", LENGTHS)
    rows: dict[str, list[Any]] = {
        "episode_index": [number for number, n in enumerate(LENGTHS) for _ in range(n)],
        "frame_index": [i for n in LENGTHS for i in range(n)],
        "timestamp": [i / 10 for n in LENGTHS for i in range(n)],
        "index": list(range(sum(LENGTHS))),
        "next.done": [i == n - 1 for n in LENGTHS for i in range(n)],
        "observation.state": [[float(i)] * 6 for i in range(sum(LENGTHS))],
        "action": [[float(i)] * 6 for i in range(sum(LENGTHS))],
    }
    kind = pa.struct([("path", pa.string()), ("timestamp", pa.float32())])
    frames = [
        {"path": f"videos/{CAMERA}_episode_{number:06d}.mp4", "timestamp": i / 10}
        for number, n in enumerate(LENGTHS)
        for i in range(n)
    ]
    if images:
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        frames = [{"bytes": picture(i), "path": None} for i in range(sum(LENGTHS))]
    else:
        for number, n in enumerate(LENGTHS):
            write_video(root / f"videos/{CAMERA}_episode_{number:06d}.mp4", range(10 * number, 10 * number + n))
    table = pa.table(rows | {CAMERA: pa.array(frames, kind)})
    if texts:
        table = table.append_column("language_instruction", pa.array(texts))
    if form == "arrow":
        (root / "train").mkdir()
        with pa.ipc.new_stream(str(root / "train/data-00000-of-00001.arrow"), table.schema) as stream:
            stream.write_table(table, max_chunksize=2)
    else:
        (root / "data").mkdir()
        pq.write_table(table, root / "data/train-00000-of-00001.parquet")
    return root


def read_all(root: Path) -> list[NativeEpisode]:
    return [read(located, entry()) for located in find(str(root), entry()).episodes]


@pytest.mark.parametrize("form", ["arrow", "parquet"])
def test_rows_and_frames_are_those_of_the_episode(tmp_path: Path, form: str) -> None:
    first, second = read_all(write(tmp_path, form))
    assert [first.n_steps, second.n_steps] == LENGTHS and second.control_hz == 10
    assert second.arrays["observation.state"][:, 0].tolist() == [3, 4, 5, 6]
    assert numbers_shown(first.frames[CAMERA]) == [0, 1, 2]
    assert numbers_shown(second.frames[CAMERA]) == [10, 11, 12, 13]
    assert second.reference.key == "episode_000001"


@pytest.mark.parametrize("form", ["arrow", "parquet"])
def test_pictures_in_the_table_are_passed_on_as_they_are(tmp_path: Path, form: str) -> None:
    _, second = read_all(write(tmp_path, form, images=True))
    assert [second.frames[CAMERA][i] for i in (0, 3, 1)] == [picture(3), picture(6), picture(4)]


def test_the_column_of_sentences_is_the_instruction(tmp_path: Path) -> None:
    texts = ["open"] * 3 + ["reach", "reach", "grasp", "grasp"]
    first, second = read_all(write(tmp_path, texts=texts))
    assert (first.language, first.step_text) == (("open",), None)
    assert second.step_text == ("reach", "reach", "grasp", "grasp") and second.language == ("reach", "grasp")


def test_an_episode_that_the_index_promises_and_no_table_holds_is_a_reject(tmp_path: Path) -> None:
    root = write(tmp_path)
    write_index(root / "meta_data/episode_data_index.safetensors", [3, 4, 5])
    (reject,) = find(str(root), entry()).rejects
    assert (reject.source_key, reject.reason) == ("episode_000002", "promised_missing")


def test_rows_fewer_than_the_index_says_reject_the_episode(tmp_path: Path) -> None:
    root = write(tmp_path)
    write_index(root / "meta_data/episode_data_index.safetensors", [3, 5])
    with pytest.raises(Rejected, match="unequal_lengths: .* expected 5 rows, found 4"):
        read_all(root)


@pytest.mark.parametrize("data", [b"", b"\xff" * 40, struct.pack("<Q", 2) + b"{}"])
def test_an_index_of_another_form_is_named(tmp_path: Path, data: bytes) -> None:
    root = write(tmp_path)
    (root / "meta_data/episode_data_index.safetensors").write_bytes(data)
    with pytest.raises(FailedWork, match="episode_data_index.safetensors: expected int64 `from` and `to`"):
        find(str(root), entry())


def test_an_earlier_version_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path) / "meta_data/info.json"
    path.write_text(path.read_text().replace("v1.6", "v1.3"))
    with pytest.raises(UsageError, match="version 'v1.3' is unknown beside meta_data/; expected v1.6"):
        find(str(tmp_path), entry())


def test_a_cut_table_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = write(tmp_path) / "train/data-00000-of-00001.arrow"
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(FailedWork, match="data-00000-of-00001.arrow: expected a table"):
        find(str(tmp_path), entry())
