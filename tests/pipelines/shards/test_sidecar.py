"""Sidecars and shards: byte ranges, atomic writing, rejects, opening, and rebuilding from the shards alone."""

import errno
import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines.contract.episode import Segment
from pipelines.contract.errors import FailedWork
from pipelines.contract.images import BLACK_JPEG
from pipelines.shards.dataset import Dataset
from pipelines.shards.rebuild import rebuild_index
from pipelines.shards.sidecar import jpeg_offsets, parse_shard_name, read_fingerprint, read_sidecar
from pipelines.shards.tfrecord import CorruptRecord, iter_records
from pipelines.shards.writer import finished_shard, write_shard
from pipelines.storage.files import DiskFull, atomic_file, sweep_leftovers
from tests.support.checkout import ROOT
from tests.support.inputs.stored_episodes import (
    CAMERAS,
    OPTIONS_HASH,
    make_episode,
    picture,
    statistics_of,
    store_dataset,
    store_shard,
    with_base_frames,
)
from trainers.main import main

WHERE: dict[str, Any] = {"name": "toy", "split": "train", "shard": 0, "n_shards": 1}


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    """Four episodes in three shards, the second one empty; the last episode lacks the wrist camera."""
    directory = tmp_path / "toy" / "1.0.0"
    last = [make_episode(2), make_episode(3, wrist=False)]
    store_dataset(directory, {"train": [[make_episode(0), make_episode(1)], [], last]})
    return directory


def files_in(directory: Path) -> dict[str, bytes]:
    return {str(p.relative_to(directory)): p.read_bytes() for p in sorted(directory.rglob("*")) if p.is_file()}


def test_offsets_step_over_the_tag_and_the_varint_of_the_next_length() -> None:
    lengths = np.array([100, 200, 127, 128, 20_000, 5], np.uint32)
    assert jpeg_offsets(1000, lengths).tolist() == [1000, 1103, 1305, 1435, 1567, 21569]


def test_every_picture_lies_where_the_sidecar_says(stored: Path) -> None:
    for path in Dataset.open(stored).sidecars("train"):
        for row in read_sidecar(path).to_pylist():
            number = int(row["source_key"].removeprefix("ur5e/"))
            data = (stored / row["shard"]).read_bytes()
            for camera in CAMERAS:
                frames = make_episode(number, wrist=number < 3).images.get(camera, [BLACK_JPEG] * 5)
                lengths = row[f"{camera}_lengths"]
                offsets = jpeg_offsets(row[f"{camera}_base"], np.array(lengths)).tolist()
                assert [data[o : o + n] for o, n in zip(offsets, lengths, strict=True)] == frames


def test_the_row_of_an_episode(stored: Path) -> None:
    episode = make_episode(1)
    row = read_sidecar(Dataset.open(stored).sidecars("train")[0]).to_pylist()[1]
    assert row["state"] == episode.state.ravel().tolist()
    assert row["action"] == episode.action.ravel().tolist()
    expected = {
        "split": "train",
        "shard": "toy-train.tfrecord-00000-of-00003",
        "record_index": 1,
        "dataset": "toy",
        "source_uri": "logs/1.zarr",
        "source_key": "ur5e/1",
        "robot": "ur5e",
        "control_mode": "joint_position",
        "layout": "pi18/v1",
        "control_hz": 20.0,
        "task": "pick the cube",
        "language": ["pick the cube", "take the cube"],
        "success": 1,
        "state_mask": [True] * 7 + [False] * 11,
        "action_mask": [True] * 7 + [False] * 11,
        "camera_mask": [True, True, False],
        "parts": '{"arm0": [0, 1, 2, 3, 4, 5], "gripper0": [6]}',
        "norm_key": "ur5e/joint_position/pi18/v1",
        "n_steps": 5,
        "converter": f"embodimix 0.1.0+{OPTIONS_HASH}",
        "is_idle": [False, True, False, False, False],
        "timestamp_s": [0.0, 0.05, 0.1, 0.15, 0.2],
    }
    assert {name: row[name] for name in expected} == expected
    assert [s["text"] for s in row["segments"]] == ["reach", ""]
    assert row["instructions"] == [{"start": 0, "end": 5, "text": "pick the cube"}]


def test_the_instructions_of_the_steps_are_runs_whatever_the_segments_are(tmp_path: Path) -> None:
    sentences = ("open the drawer", "put the block inside")
    segments = (
        Segment(start=0, end=2, text=sentences[0], source="source"),
        Segment(start=3, end=5, text=sentences[1], source="source"),
    )
    episode = replace(make_episode(0), task=sentences[0], language=sentences, segments=segments)
    store_dataset(tmp_path, {"train": [[episode]]})
    row = read_sidecar(Dataset.open(tmp_path).sidecars("train")[0], ["instructions"]).to_pylist()[0]
    assert row["instructions"] == [
        {"start": 0, "end": 2, "text": "open the drawer"},
        {"start": 3, "end": 5, "text": "put the block inside"},
    ]


def test_records_begin_where_the_sidecar_says(stored: Path) -> None:
    table = read_sidecar(Dataset.open(stored).sidecars("train")[0])
    found = [(offset - 12, len(payload)) for offset, payload in iter_records(stored / table["shard"][0].as_py())]
    assert found == list(zip(table["record_offset"].to_pylist(), table["record_length"].to_pylist(), strict=True))


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        store_dataset(tmp_path / name, {"train": [[make_episode(0)], [make_episode(1)]]})
    assert files_in(tmp_path / "a") == files_in(tmp_path / "b")
    assert list(files_in(tmp_path / "a")) == [
        "dataset_info.json",
        "features.json",
        "index/train-00000-of-00002.parquet",
        "index/train-00001-of-00002.parquet",
        "statistics.json",
        "toy-train.tfrecord-00000-of-00002",
        "toy-train.tfrecord-00001-of-00002",
    ]


def test_rebuilding_gives_the_bytes_that_the_conversion_wrote(stored: Path) -> None:
    before = files_in(stored)
    for sidecar in (stored / "index").iterdir():
        sidecar.unlink()
    assert [(s.n_episodes, s.n_steps) for s in rebuild_index(stored)] == [(2, 10), (0, 0), (2, 10)]
    assert files_in(stored) == before


def test_the_index_command_prints_what_it_wrote(stored: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (stored / "index" / "train-00000-of-00003.parquet").unlink()
    assert main(["index", str(stored), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "index": str(stored / "index"),
        "shards": 3,
        "episodes": 4,
        "steps": 20,
        "bytes": sum(p.stat().st_size for p in stored.glob("*.tfrecord-*")),
    }
    Dataset.open(stored).verify_hashes()


def test_rebuilding_refuses_a_corrupt_shard(stored: Path) -> None:
    shard = stored / "toy-train.tfrecord-00002-of-00003"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(CorruptRecord, match="00002-of-00003: record 1 at byte .*truncated"):
        list(rebuild_index(stored))


def test_rebuilding_refuses_a_shard_with_another_number_of_episodes(stored: Path) -> None:
    os.replace(stored / "toy-train.tfrecord-00000-of-00003", stored / "toy-train.tfrecord-00001-of-00003")
    (stored / "toy-train.tfrecord-00000-of-00003").write_bytes(b"")
    with pytest.raises(FailedWork, match="00000-of-00003: expected 2 episodes as in dataset_info.json, found 0"):
        list(rebuild_index(stored))


@pytest.mark.shared
def test_shards_of_another_writer_get_an_index_of_records_language_and_pictures(shared: Path, tmp_path: Path) -> None:
    source = shared / "data/real/bridge_rlds/bridge_dataset/1.0.0"
    for file in source.iterdir():
        (tmp_path / file.name).symlink_to(file)
    assert [(s.n_episodes, s.n_steps) for s in rebuild_index(tmp_path)] == [(25, 250), (25, 250)]
    dataset = Dataset.open(tmp_path)
    assert dataset.cameras == ("image_0", "image_1", "image_2", "image_3")
    row = read_sidecar(dataset.sidecars("val")[0]).to_pylist()[3]
    assert row["language"] == ["put cup from counter or drying rack into sink"]
    data = (tmp_path / row["shard"]).read_bytes()
    for offset, length in zip(
        jpeg_offsets(row["image_2_base"], np.array(row["image_2_lengths"])), row["image_2_lengths"], strict=True
    ):
        assert data[offset : offset + 2] == b"\xff\xd8"
        assert data[offset + length - 2 : offset + length] == b"\xff\xd9"


def test_an_episode_with_a_bad_frame_is_rejected_and_the_others_are_kept(tmp_path: Path) -> None:
    bad = with_base_frames(make_episode(1), [picture(0), b"no picture", *[picture(0)] * 3])
    rejects: list[tuple[str, str, str]] = []
    summary = write_shard(
        tmp_path,
        **WHERE,
        episodes=[make_episode(0), bad, make_episode(2)],
        statistics=statistics_of([bad]),
        cameras=CAMERAS,
        converter="x",
        options_hash="h",
        on_reject=lambda reference, reason, detail: rejects.append((reference.key, reason, detail)),
    )
    assert (summary.n_episodes, summary.n_rejected) == (2, 1)
    assert rejects == [
        ("ur5e/1", "corrupt_image", "expected JPEG or PNG bytes, found 10 bytes that begin with b'no pictu'")
    ]
    table = read_sidecar(tmp_path / "index/train-00000-of-00001.parquet")
    assert table["source_key"].to_pylist() == ["ur5e/0", "ur5e/2"]
    assert len(list(iter_records(tmp_path / "toy-train.tfrecord-00000-of-00001"))) == 2


def test_a_failure_while_frames_are_read_is_a_reject_of_its_own(tmp_path: Path) -> None:
    class Frames(list[bytes]):
        def __iter__(self) -> Iterator[bytes]:
            raise FailedWork("video.mp4: expected 5 frames, found 3")

    reasons: list[str] = []
    bad = with_base_frames(make_episode(0), Frames([b""] * 5))
    write_shard(
        tmp_path,
        **WHERE,
        episodes=[bad],
        statistics=statistics_of([bad]),
        cameras=CAMERAS,
        converter="x",
        options_hash="h",
        on_reject=lambda reference, reason, detail: reasons.append(reason),
    )
    assert reasons == ["unreadable_frame"]


def test_an_error_of_the_source_leaves_no_file(tmp_path: Path) -> None:
    def episodes() -> Iterator[Any]:
        yield make_episode(0)
        raise FailedWork("the source broke")

    with pytest.raises(FailedWork, match="the source broke"):
        write_shard(
            tmp_path,
            **WHERE,
            episodes=episodes(),
            statistics=statistics_of([make_episode(0)]),
            cameras=CAMERAS,
            converter="x",
            options_hash="h",
            on_reject=lambda *_: None,
        )
    assert files_in(tmp_path) == {}


def test_a_shard_is_finished_only_with_its_sidecar_its_size_and_its_options(tmp_path: Path) -> None:
    assert finished_shard(tmp_path, **WHERE, options_hash=OPTIONS_HASH) is None
    summary = store_shard(tmp_path, [make_episode(0)], statistics_of([make_episode(0)]))
    assert finished_shard(tmp_path, **WHERE, options_hash=OPTIONS_HASH) == summary
    assert finished_shard(tmp_path, **WHERE, options_hash="other") is None
    shard = tmp_path / "toy-train.tfrecord-00000-of-00001"
    shard.write_bytes(shard.read_bytes() + b"x")
    assert finished_shard(tmp_path, **WHERE, options_hash=OPTIONS_HASH) is None
    (tmp_path / "index/train-00000-of-00001.parquet").unlink()
    assert finished_shard(tmp_path, **WHERE, options_hash=OPTIONS_HASH) is None


def test_a_shard_written_again_is_not_paired_with_its_old_sidecar(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise FailedWork("killed before the sidecar")

    store_shard(tmp_path, [make_episode(0)], statistics_of([make_episode(0)]))
    monkeypatch.setattr("pipelines.shards.writer.write_sidecar", fail)
    monkeypatch.setattr("tests.support.inputs.stored_episodes.OPTIONS_HASH", "of other options")
    with pytest.raises(FailedWork, match="killed before the sidecar"):
        store_shard(tmp_path, [make_episode(0)], statistics_of([make_episode(0)]))
    assert list(files_in(tmp_path)) == ["toy-train.tfrecord-00000-of-00001"]


def test_a_full_disk_is_named_with_its_free_space_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskFull, match=r"toy-train.tfrecord-00000-of-00001: .*No space left.*MB free.*free some space"):
        store_shard(tmp_path, [make_episode(0)], statistics_of([make_episode(0)]))
    assert files_in(tmp_path) == {}


LIMITED = """
import resource, signal, sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from tests.support.inputs.stored_episodes import make_episode, statistics_of, store_shard
from pipelines.contract.episode import Segment
from pipelines.contract.errors import FailedWork
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    store_shard(Path(sys.argv[1]), [make_episode(0)], statistics_of([make_episode(0)]))
except FailedWork as error:
    print(error)
"""


def test_a_write_that_the_system_refuses_in_the_middle_leaves_nothing(tmp_path: Path) -> None:
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
    script = LIMITED.format(tests=str(ROOT))
    ran = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True)
    assert "toy-train.tfrecord-00000-of-00001: expected room to write it, found File too large" in ran.stdout
    assert files_in(tmp_path) == {}


def test_leftovers_of_dead_writers_are_swept_and_those_of_living_ones_stay(tmp_path: Path) -> None:
    script = (
        "import os, sys; from pathlib import Path; from pipelines.storage.files import atomic_file\n"
        "with atomic_file(Path(sys.argv[1]) / 'index' / 'a.parquet') as file: os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False).returncode == 9
    with atomic_file(tmp_path / "b.parquet"):
        swept = sweep_leftovers(tmp_path)
        assert [path.parent.name for path in swept] == ["index"]
    assert list(files_in(tmp_path)) == ["b.parquet"]


def test_opening_a_folder_that_is_no_dataset(tmp_path: Path) -> None:
    with pytest.raises(FailedWork, match="nowhere: expected the folder of a dataset"):
        Dataset.open(tmp_path / "nowhere")
    with pytest.raises(FailedWork, match="found no dataset_info.json"):
        Dataset.open(tmp_path)


def test_opening_the_folder_above_names_the_versions(stored: Path) -> None:
    with pytest.raises(FailedWork, match="Give one of its versions: 1.0.0"):
        Dataset.open(stored.parent)


def test_an_unfinished_conversion_is_no_dataset(stored: Path) -> None:
    (stored / "dataset_info.json").unlink()
    with pytest.raises(FailedWork, match="conversion is not finished; run the same convert command again"):
        Dataset.open(stored)


def test_opening_finds_a_missing_shard_and_a_missing_sidecar(stored: Path) -> None:
    (stored / "index/train-00002-of-00003.parquet").unlink()
    with pytest.raises(FailedWork, match="embodimix index"):
        Dataset.open(stored)
    (stored / "toy-train.tfrecord-00000-of-00003").unlink()
    with pytest.raises(FailedWork, match="00000-of-00003: expected the shard, found no such file"):
        Dataset.open(stored)


def test_opening_finds_a_shard_of_another_size(stored: Path) -> None:
    with open(stored / "toy-train.tfrecord-00000-of-00003", "ab") as file:
        file.write(b"x")
    with pytest.raises(FailedWork, match=r"expected \d+ bytes, found \d+"):
        Dataset.open(stored)


def test_hashes_find_a_changed_byte_that_the_size_does_not_show(stored: Path) -> None:
    shard = stored / "toy-train.tfrecord-00000-of-00003"
    data = bytearray(shard.read_bytes())
    data[3000] ^= 1
    shard.write_bytes(data)
    dataset = Dataset.open(stored)
    with pytest.raises(FailedWork, match="expected sha256"):
        dataset.verify_hashes()


def test_a_sidecar_of_another_schema_is_refused(stored: Path) -> None:
    path = stored / "index/train-00000-of-00003.parquet"
    table = pq.read_table(path)
    pq.write_table(table.replace_schema_metadata({b"schema": b"embodimix.index/v9"}), path)
    with pytest.raises(
        FailedWork, match="expected schema 'embodimix.index/v2' or 'embodimix.index/v1', found 'embodimix.index/v9'"
    ):
        read_sidecar(path)
    with_more = table.append_column("thesis", [["words"] * len(table)])
    pq.write_table(with_more.replace_schema_metadata(table.schema.metadata), path)
    with pytest.raises(FailedWork, match="expected the columns of embodimix.index/v2, found .*, thesis"):
        read_sidecar(path)
    path.write_bytes(b"PAR1 no")
    with pytest.raises(FailedWork, match="expected a sidecar index that can be read"):
        read_fingerprint(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("dataset_info.json", "{", "expected a JSON file"),
        ("dataset_info.json", "[]", "expected a JSON object"),
        ("dataset_info.json", "{}", "expected a name, found None"),
        ("dataset_info.json", '{"name": "../x", "version": "1"}', "expected a name, found '../x'"),
        ("dataset_info.json", '{"name": "toy", "version": "1.0.0"}', "expected a list of splits"),
        (
            "dataset_info.json",
            '{"name": "toy", "version": "1.0.0", "splits": [{"name": "a", "shardLengths": [-1]}]}',
            "expected a split with a name and shardLengths",
        ),
        ("dataset_info.json", '{"fileFormat": "riegeli"}', "expected TFRecord shards, found 'riegeli'"),
        ("features.json", "[1]", "expected a JSON object"),
        ("features.json", '{"featuresDict": []}', "a feature 'steps'"),
    ],
)
def test_damaged_metadata_is_refused(stored: Path, name: str, content: str, message: str) -> None:
    (stored / name).write_text(content)
    with pytest.raises(FailedWork, match=message):
        Dataset.open(stored)


def test_the_opened_dataset_holds_its_statistics(stored: Path) -> None:
    statistics = Dataset.open(stored).statistics["ur5e/joint_position/pi18/v1"]
    assert (statistics.n_episodes, statistics.n_steps) == (4, 20)


@pytest.fixture(scope="module")
def sidecar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("fuzzed")
    store_shard(directory, [make_episode(0), make_episode(1)], statistics_of([make_episode(0)]))
    return directory / "index/train-00000-of-00001.parquet"


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_sidecar_is_refused_or_the_same(sidecar: Path, tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(sidecar.read_bytes())
    whole = read_sidecar(sidecar)
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    path = tmp_path / "damaged.parquet"
    path.write_bytes(content[: data.draw(st.integers(len(content) // 2, len(content)))])
    try:
        table = read_sidecar(path)
    except FailedWork:
        return
    assert table.num_rows == whole.num_rows


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_shard_is_refused_by_the_rebuilding(sidecar: Path, tmp_path: Path, data: st.DataObject) -> None:
    shard = sidecar.parents[1] / "toy-train.tfrecord-00000-of-00001"
    content = bytearray(shard.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    (tmp_path / shard.name).write_bytes(content[: data.draw(st.integers(0, len(content)))])
    records: list[bytes] = []
    try:
        records += [payload for _, payload in iter_records(tmp_path / shard.name)]
    except CorruptRecord:
        pass
    assert len(records) < 2


def test_a_name_that_no_shard_has_is_refused() -> None:
    with pytest.raises(FailedWork, match="thesis.tex: expected a name like bridge-train.tfrecord-00000-of-00016"):
        parse_shard_name("thesis.tex")
