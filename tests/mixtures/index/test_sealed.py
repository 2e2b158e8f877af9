"""Compiled files that are damaged, cut or missing are compiled again; many datasets need few descriptors."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mixtures.index.mapped import map_file
from mixtures.index.sealed import BLOCK_BYTES, ensure_sealed, find_damage
from mixtures.mixture import open_mixture
from mixtures.stream.batches import Batch, Stream
from pipelines.contract.errors import FailedWork
from tests.support.inputs.mixture_data import make_episode, write_dataset, write_spec
from tests.support.inputs.toy_mixture import file_size_limit


def first_batch(folder: Path) -> Batch:
    spec = write_spec(folder, "datasets: [{path: a/1.0.0}]\nfilters: [{drop: idle}]\n")
    with Stream(open_mixture(spec, cache=folder / "cache"), batch_size=8) as stream:
        return stream.batch_at(0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_dataset(tmp_path, "a", [make_episode(i, cameras=("base_0_rgb",), idle=[1]) for i in range(3)], n_shards=1)
    return tmp_path


@pytest.mark.parametrize("keeps_time", [True, False])
@pytest.mark.parametrize(
    "name", ["steps.bin", "action.bin", "episodes.bin", "language.arrow", "train-row.npy", "facts.json"]
)
def test_zeroed_files_are_compiled_again(
    folder: Path, name: str, keeps_time: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    before = first_batch(folder)
    (path,) = (folder / "cache").rglob(name)
    times = path.stat()
    path.write_bytes(bytes(times.st_size))
    if keeps_time:
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    after = first_batch(folder)
    assert f"{name} is damaged in bytes 0 to 262143; compiling it again" in capsys.readouterr().err
    assert after.names == before.names and np.array_equal(after.images, before.images) and before.images.any()
    assert np.array_equal(after.action, before.action) and after.language == before.language


def test_a_file_that_grew_is_damaged(tmp_path: Path) -> None:
    ensure_sealed(tmp_path / "x", lambda folder: (folder / "a.bin").write_bytes(b"abc") and None)
    with open(tmp_path / "x" / "a.bin", "ab") as file:
        file.write(bytes(BLOCK_BYTES))
    assert find_damage(tmp_path / "x") == f"a.bin has {BLOCK_BYTES + 3} bytes, not 3"


@pytest.mark.parametrize("damage", ["cut", "missing", "seal"])
def test_cut_and_missing_files_are_compiled_again(folder: Path, damage: str) -> None:
    before = first_batch(folder)
    (path,) = (folder / "cache" / "tables").rglob("steps.bin")
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "missing":
        path.unlink()
    else:
        (path.parent / "seal.json").write_bytes(b'{"steps')
    assert np.array_equal(first_batch(folder).state, before.state)


def test_one_wrong_bit_of_a_large_file_is_found_where_the_file_was_written_to(tmp_path: Path) -> None:
    ensure_sealed(tmp_path / "x", lambda folder: (folder / "big.bin").write_bytes(bytes(100 * BLOCK_BYTES)) and None)
    assert find_damage(tmp_path / "x") is None
    with open(tmp_path / "x" / "big.bin", "r+b") as file:
        file.seek(51 * BLOCK_BYTES + 17)
        file.write(b"\x01")
    found = find_damage(tmp_path / "x")
    assert found == f"big.bin is damaged in bytes {51 * BLOCK_BYTES} to {52 * BLOCK_BYTES - 1}"


def test_an_undamaged_folder_is_compared_by_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ensure_sealed(tmp_path / "x", lambda folder: (folder / "big.bin").write_bytes(bytes(100 * BLOCK_BYTES)) and None)
    read: list[int] = []
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda f, n, offset: read.append(offset // BLOCK_BYTES) or pread(f, n, offset))
    assert find_damage(tmp_path / "x") is None
    assert (len(read), read[0], read[-1]) == (16, 0, 99)


def test_another_process_that_finished_first_wins(tmp_path: Path) -> None:
    def write(scratch: Path) -> None:
        (scratch / "file").write_text("mine")
        if not (tmp_path / "x").exists():
            ensure_sealed(tmp_path / "x", lambda other: (other / "file").write_text("theirs") and None)

    ensure_sealed(tmp_path / "x", write)
    assert (tmp_path / "x" / "file").read_text() == "theirs"
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_what_cannot_be_compiled_leaves_nothing(tmp_path: Path) -> None:
    def fail(scratch: Path) -> None:
        (scratch / "half").write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(FailedWork, match="found: No space left on device. .*EMBODIMIX_CACHE"):
        ensure_sealed(tmp_path / "x", fail)
    assert list(tmp_path.iterdir()) == []


def test_a_mapped_file_holds_no_descriptor(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"abcdef")
    (tmp_path / "empty").write_bytes(b"")
    before = len(os.listdir("/proc/self/fd"))
    views = [map_file(tmp_path / "f") for _ in range(50)]
    assert len(os.listdir("/proc/self/fd")) == before
    assert {bytes(view) for view in views} == {b"abcdef"} and all(view.readonly for view in views)
    part = np.frombuffer(views[0][2:], np.uint8)
    del views
    assert part.tobytes() == b"cdef" and not part.flags.writeable
    assert bytes(map_file(tmp_path / "empty")) == b""
    with pytest.raises(FileNotFoundError):
        map_file(tmp_path / "none")


OPEN_MANY = """
import os, resource, sys
from mixtures.mixture import open_mixture
from mixtures.stream.batches import Stream
with Stream(open_mixture(sys.argv[1], cache=sys.argv[2]), batch_size=64) as stream:
    datasets = set()
    for batch in stream.batches(0, 64 * 20):
        assert batch.images.any()
        datasets.update(row.tolist() for row in batch.position)
    print(len(stream.mixture.tables), len(os.listdir("/proc/self/fd")), *resource.getrlimit(resource.RLIMIT_NOFILE))
"""


def test_300_datasets_train_within_1024_descriptors(folder: Path) -> None:
    entries = []
    for number in range(300):
        home = folder / f"copy{number}" / "1.0.0"
        (home / "index").mkdir(parents=True)
        for path in (folder / "a/1.0.0").rglob("*"):
            if path.is_file():
                os.link(path, home / path.relative_to(folder / "a/1.0.0"))
        entries.append(f"  - {{path: copy{number}/1.0.0}}\n")
    spec = write_spec(folder, "datasets:\n" + "".join(entries))
    done = subprocess.run(
        [sys.executable, "-c", OPEN_MANY, str(spec), str(folder / "cache")],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024)),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    n_tables, n_open, soft, hard = map(int, done.stdout.split())
    assert (n_tables, soft, hard) == (300, 1024, 1024) and n_open < 400


def test_the_soft_limit_is_raised_where_that_is_allowed(folder: Path) -> None:
    spec = write_spec(folder, "datasets: [{path: a/1.0.0}]\n")
    done = subprocess.run(
        [sys.executable, "-c", OPEN_MANY, str(spec), str(folder / "cache")],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (64, 2048)),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split()[2:] == ["2048", "2048"]


def test_a_cut_note_of_times_is_made_again(folder: Path) -> None:
    first_batch(folder)
    (note,) = (folder / "cache" / "tables").glob("*.shard_times.json")
    note.write_text(note.read_text()[:4])
    first_batch(folder)
    assert len(json.loads(note.read_text())) == 1


def test_a_full_disk_names_another_folder_to_choose(folder: Path) -> None:
    with file_size_limit(4096), pytest.raises(FailedWork, match=r"room for compiled index .*EMBODIMIX_CACHE=DIR"):
        first_batch(folder)
    assert list((folder / "cache").rglob(".*")) == []
    assert len(first_batch(folder).step) == 8


def test_a_cache_that_cannot_be_written_is_named(folder: Path) -> None:
    (folder / "cache").write_text("a file")
    with pytest.raises(FailedWork, match="found: (Not a directory|File exists)"):
        first_batch(folder)
