"""Files of the input that are replaced between two runs, or during one, are named; nothing of two inputs is mixed."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.contract.errors import FailedWork, UsageError
from pipelines.conversion import launch
from pipelines.conversion.fingerprints import changed_since, fingerprint_input
from pipelines.conversion.launch import ConversionRequest, Outcome, convert, run_conversion
from pipelines.mapping.adapters import get_adapter
from pipelines.storage.paths import RemotePath, RemoteStat
from tests.support.inputs.native_files import bridge_features, write_rlds

SHARD = "tiny-train.tfrecord-00000-of-00001"


def make_source(folder: Path, shift: float = 0.0) -> Path:
    """Two episodes; with a shift, other numbers in as many bytes."""
    episodes = [bridge_features(number) for number in range(2)]
    for features in episodes:
        features["steps/action"] = (np.asarray(features["steps/action"]) + np.float32(shift)).astype(np.float32)
    return write_rlds(folder, {"train": episodes})


def request(source: Path, root: Path, **changes: Any) -> ConversionRequest:
    facts: dict[str, Any] = {"name": "tiny", "version": "1.0.0", "adapter": get_adapter("bridge_orig"), "n_workers": 1}
    return ConversionRequest(source=str(source), output_root=str(root), **facts | changes)


def stop_before_closing(conversion: ConversionRequest) -> None:
    """Runs a conversion up to where a kill would leave all shards and no dataset."""

    def stop(*_: object) -> None:
        raise FailedWork("stopped")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launch, "close_conversion", stop)
        with pytest.raises(FailedWork, match="stopped"):
            convert(conversion)


def replace_files(source: Path, other: Path) -> None:
    """Puts other bytes of the same size and time under the same names, as `cp -p` does."""
    for path in (p for p in source.rglob("*") if p.is_file()):
        times = path.stat()
        twin = other / path.relative_to(source)
        assert twin.stat().st_size == times.st_size
        shutil.copyfile(twin, path)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def test_input_replaced_after_a_kill_is_refused_by_name_and_restarts_on_demand(tmp_path: Path) -> None:
    source, other = make_source(tmp_path / "in"), make_source(tmp_path / "other", shift=0.01)
    conversion = request(source, tmp_path / "out")
    stop_before_closing(conversion)
    replace_files(tmp_path / "in", tmp_path / "other")
    with pytest.raises(UsageError, match=rf"{SHARD}: expected the input unchanged since an unfinished conv.*--restart"):
        convert(conversion)
    assert not (conversion.directory / "dataset_info.json").exists()
    assert convert(replace(conversion, restart=True))["episodes_out"] == 2
    convert(request(other, tmp_path / "fresh"))
    fresh = tmp_path / "fresh/tiny/1.0.0/statistics.json"
    assert (tmp_path / "out/tiny/1.0.0/statistics.json").read_bytes() == fresh.read_bytes()


def test_untouched_input_goes_on_after_a_kill(tmp_path: Path) -> None:
    conversion = request(make_source(tmp_path / "in"), tmp_path / "out")
    stop_before_closing(conversion)
    shards = {path: path.stat().st_mtime_ns for path in (tmp_path / "out/tiny/1.0.0").glob("*.tfrecord*")}
    assert run_conversion(conversion).manifest is not None
    assert {path: path.stat().st_mtime_ns for path in shards} == shards and len(shards) == 2


def test_a_finished_dataset_of_replaced_input_is_not_said_to_be_done(tmp_path: Path) -> None:
    source = make_source(tmp_path / "in")
    make_source(tmp_path / "other", shift=0.01)
    conversion = request(source, tmp_path / "out")
    first = run_conversion(conversion)
    assert not first.already_done and run_conversion(conversion) == Outcome(manifest=first.manifest, already_done=True)
    replace_files(tmp_path / "in", tmp_path / "other")
    with pytest.raises(UsageError, match=f"{SHARD}: expected the input unchanged since .* was made of it.*--version"):
        convert(conversion)


def test_input_replaced_while_it_is_read_gives_no_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = make_source(tmp_path / "in")
    make_source(tmp_path / "other", shift=0.01)
    run_beam = launch.run_beam

    def run_and_replace(*arguments: Any) -> None:
        run_beam(*arguments)
        replace_files(tmp_path / "in", tmp_path / "other")

    monkeypatch.setattr(launch, "run_beam", run_and_replace)
    with pytest.raises(UsageError, match=f"{SHARD}: expected the input unchanged until the conversion ended"):
        convert(request(source, tmp_path / "out"))
    assert not (tmp_path / "out/tiny/1.0.0/dataset_info.json").exists()


def edit_middle(path: Path) -> None:
    times = path.stat()
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(b"\xff\x00\xff")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


@pytest.mark.parametrize(("mode", "is_seen"), [("fast", False), ("full", True)])
def test_only_a_full_print_sees_the_middle_of_a_file_whose_time_was_kept(
    tmp_path: Path, mode: Any, is_seen: bool
) -> None:
    (tmp_path / "a.bin").write_bytes(bytes(100_000))
    uri = str(tmp_path / "a.bin")
    before = fingerprint_input(tmp_path, [uri], tmp_path / "out", mode)
    edit_middle(tmp_path / "a.bin")
    assert changed_since(before, fingerprint_input(tmp_path, [uri], tmp_path / "out", mode)) == [uri] * is_seen


CHANGES: dict[str, Callable[[Path], object]] = {
    "a file is gone": lambda folder: (folder / "x/1.bin").unlink(),
    "a file is new": lambda folder: (folder / "x/3.bin").write_bytes(b"3"),
    "a file is shorter": lambda folder: (folder / "x/2.bin").write_bytes(b""),
    "a file has another time": lambda folder: os.utime(folder / "x/2.bin", (1, 1)),
    "metadata above has other bytes": lambda folder: (folder / "config.json").write_text("{'b'}"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_every_change_of_an_episodes_folder_is_seen(tmp_path: Path, what: str) -> None:
    (tmp_path / "in/x").mkdir(parents=True)
    for name in ("x/1.bin", "x/2.bin", "config.json", "notes.txt"):
        (tmp_path / "in" / name).write_bytes(b"{'a'}")
    uri = str(tmp_path / "in/x")
    before = fingerprint_input(tmp_path / "in", [uri], tmp_path / "in/out", "fast")
    (tmp_path / "in/notes.txt").write_text("of no concern")
    (tmp_path / "in/out").mkdir()
    assert changed_since(before, fingerprint_input(tmp_path / "in", [uri], tmp_path / "in/out", "fast")) == []
    CHANGES[what](tmp_path / "in")
    after = fingerprint_input(tmp_path / "in", [uri], tmp_path / "in/out", "fast")
    assert changed_since(before, after) == [str(tmp_path / "in/config.json") if "above" in what else uri]


def test_a_store_is_listed_once_and_no_object_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    root = RemotePath("gs://bucket/logs")
    objects = {root / f"e{i}/{name}": RemoteStat(10 + i, 5.0) for i in range(3) for name in ("a", "b")}
    asked: list[str] = []

    def matching(self: RemotePath, pattern: str) -> dict[RemotePath, RemoteStat]:
        asked.append(f"{self.url} {pattern}")
        return dict(objects) if pattern == "**" else {}

    monkeypatch.setattr(RemotePath, "matching", matching)
    uris = [f"{root.url}/e{i}" for i in range(3)]
    before = fingerprint_input(root, uris, RemotePath("gs://bucket/out"), "fast")
    assert asked == ["gs://bucket/logs **", "gs://bucket/logs "]
    assert (before.n_files, before.n_bytes) == (6, 66)
    objects[root / "e1/b"] = RemoteStat(11, 6.0)
    assert changed_since(before, fingerprint_input(root, uris, RemotePath("gs://bucket/out"), "fast")) == [uris[1]]


def test_the_manifest_holds_the_prints(tmp_path: Path) -> None:
    source = make_source(tmp_path / "in")
    convert(request(source, tmp_path / "out", verify_input="full"))
    record = json.loads((tmp_path / "out/tiny/1.0.0/manifest.json").read_text())["input"]
    assert (record["mode"], record["n_files"]) == ("full", 1)
    assert sorted(record["prints"]) == [str(source / "dataset_info.json"), str(source / SHARD)]
