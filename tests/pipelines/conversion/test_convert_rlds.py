"""Converting RLDS: names of the dataset itself, parts of a dataset, what is said before any work begins."""

import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.contract.errors import UsageError
from pipelines.conversion.launch import ConversionRequest, convert
from pipelines.conversion.measure import Measured, merge_measured
from pipelines.mapping.adapters import get_adapter
from pipelines.shards.dataset import Dataset
from pipelines.shards.sidecar import read_sidecar
from tests.support.inputs.native_files import bridge_features, write_rlds
from trainers.main import main

TRAIN = "tiny-train.tfrecord-00000-of-00001"


def run(source: Path, root: Path, **changes: Any) -> dict[str, Any]:
    options: dict[str, Any] = {"version": "1.0.0", "adapter": get_adapter("bridge_orig"), "n_shards": 2, "n_workers": 1}
    return convert(ConversionRequest(source=str(source), output_root=str(root), name="x", **options | changes))


def named(number: int, path: str) -> dict[str, Any]:
    return bridge_features(number) | {"episode_metadata/file_path": [path.encode()]}


def keys_of(folder: Path) -> list[str]:
    sidecars = Dataset.open(folder).sidecars("train")
    return sorted(key for path in sidecars for key in read_sidecar(path)["source_key"].to_pylist())


def read_manifest(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "manifest.json").read_text())


def test_episodes_are_stored_under_the_names_that_outside_lists_use(tmp_path: Path) -> None:
    paths = ["lab/a/trajectory.h5", "lab/b/trajectory.h5", "lab/b/trajectory.h5", ""]
    source = write_rlds(tmp_path / "in", {"train": [named(i, path) for i, path in enumerate(paths)]})
    run(source, tmp_path / "out")
    folder = tmp_path / "out/x/1.0.0"
    expected = {
        f"{TRAIN}#0": "lab/a/trajectory.h5",
        f"{TRAIN}#1": f"lab/b/trajectory.h5#{TRAIN}#1",
        f"{TRAIN}#2": f"lab/b/trajectory.h5#{TRAIN}#2",
        f"{TRAIN}#3": f"{TRAIN}#3",
    }
    assert keys_of(folder) == sorted(expected.values())
    episodes = read_manifest(folder)["episodes"]
    assert {entry["record_key"]: entry["source_key"] for entry in episodes} == expected


def test_names_that_episodes_of_different_shards_share_are_found_in_any_order() -> None:
    parts = [
        Measured(statistics={}, cameras={}, names=frozenset(names), repeated=frozenset(repeated))
        for names, repeated in (({1, 2}, ()), ({3, 4}, {4}), ({2, 5}, ()))
    ]
    for order in itertools.permutations(parts):
        merged = merge_measured([merge_measured(order[:2]), order[2]])
        assert (merged.names, merged.repeated) == ({1, 2, 3, 4, 5}, {2, 4})


def test_an_episode_whose_picture_is_damaged_is_rejected_under_its_record(tmp_path: Path) -> None:
    bad = named(1, "lab/b") | {"steps/observation/image_0": [b"\xff\xd8 no picture"] * 12}
    source = write_rlds(tmp_path / "in", {"train": [named(0, "lab/a"), bad]})
    run(source, tmp_path / "out")
    manifest = read_manifest(tmp_path / "out/x/1.0.0")
    assert [(entry["source_key"], entry["reason"]) for entry in manifest["rejected"]] == [
        (f"{TRAIN}#1", "corrupt_image")
    ]
    assert [entry["source_key"] for entry in manifest["episodes"]] == ["lab/a"]


@pytest.mark.parametrize("is_old", [False, True])
def test_an_append_knows_the_records_of_new_and_of_old_manifests(tmp_path: Path, is_old: bool) -> None:
    """An old manifest has the record's name as the source key."""
    source = write_rlds(tmp_path / "in", {"train": [named(i, f"lab/{i}") for i in range(2)]})
    run(source, tmp_path / "out")
    folder = tmp_path / "out/x/1.0.0"
    if is_old:
        manifest = read_manifest(folder)
        for entry in manifest["episodes"]:
            entry["source_key"] = entry.pop("record_key")
        (folder / "manifest.json").write_text(json.dumps(manifest))
    # The same file has grown; one of its name elsewhere would be refused.
    shutil.rmtree(source)
    more = write_rlds(tmp_path / "in", {"train": [named(i, f"lab/{i}") for i in range(4)]})
    counts = run(more, tmp_path / "out", version="1.1.0", append="1.0.0", n_shards=1)
    assert (counts["episodes_in"], counts["episodes_out"]) == (4, 4)
    assert keys_of(tmp_path / "out/x/1.1.0") == ["lab/0", "lab/1", "lab/2", "lab/3"]
    kept = {entry["record_key"] for entry in read_manifest(tmp_path / "out/x/1.1.0")["episodes"]}
    assert kept == {f"{TRAIN}#{i}" for i in range(4)}


def test_a_part_is_converted_on_purpose_and_recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Four of 2,048 files, as where people fetch the first ones."""
    source = write_rlds(tmp_path / "in", {"train": [bridge_features(i) for i in range(2)]})
    (source / TRAIN).rename(source / "tiny-train.tfrecord-00000-of-02048")
    lengths = ["2", "3", "1", *["0"] * 2045]
    (source / "dataset_info.json").write_text(json.dumps({"splits": [{"name": "train", "shardLengths": lengths}]}))
    with pytest.raises(UsageError, match="expected 2048 files, found 1; 2047 are missing, with 4 episodes"):
        run(source, tmp_path / "out")
    counts = run(source, tmp_path / "out", partial=True)
    assert (counts["episodes_in"], counts["episodes_out"], counts["rejects"]["promised_missing"]) == (6, 2, 4)
    assert read_manifest(tmp_path / "out/x/1.0.0")["partial"] is True
    card = (tmp_path / "out/x/1.0.0/card.md").read_text()
    assert "\nA part of its source, taken on purpose (`--partial`): 4 promised episodes were not there.\n" in card
    said = capsys.readouterr().err
    assert f"{source}: cannot read 4 episodes (promised_missing 4); the first: " in said


def test_a_format_that_promises_no_files_has_no_parts(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--partial: format bridge promises no files; leave the option out"):
        run(tmp_path, tmp_path / "out", partial=True, adapter=get_adapter("bridge_raw"))


def test_an_input_whose_cameras_the_entry_does_not_know_says_what_is_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    features = bridge_features(0, image_0=None) | {"steps/observation/rgb": np.zeros(12 * 12, np.float32)}
    source = write_rlds(tmp_path / "in", {"train": [features]})
    arguments = ["convert", "rlds", str(source), str(tmp_path / "out"), "--name", "x", "--version", "1.0.0"]
    assert main([*arguments, "--adapter", "bridge_orig", "--workers", "1"]) == 1
    said = capsys.readouterr().err
    assert "expected base_0_rgb: observation/image_0; found observation/rgb (float32 [12, 12])" in said
