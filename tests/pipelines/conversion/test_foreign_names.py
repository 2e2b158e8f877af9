"""Names that a source chooses become parts of paths: none leads out of the output, and odd ones lose nothing else."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipelines.contract.errors import FailedWork
from pipelines.shards.dataset import Dataset
from pipelines.shards.stored_episodes import iter_stored
from tests.pipelines.sources.test_lerobot import write_v2
from tests.support.inputs.native_files import bridge_features, write_rlds
from trainers.main import main

HOSTILE = ["../../evil", "/abs/evil", "..", "", "a\0b", "a\nb", "x" * 300, "train.tfrecord", "-v", "a/b", "a\\b"]


def convert(format: str, adapter: str, source: Path, root: Path) -> int:
    facts = ("--name", "x", "--version", "1.0.0", "--workers", "1", "--shards", "1")
    return main(["convert", format, str(source), str(root), "--adapter", adapter, *facts])


def set_splits(source: Path, splits: dict[str, str]) -> None:
    info = json.loads((source / "meta/info.json").read_text())
    (source / "meta/info.json").write_text(json.dumps(info | {"splits": splits}))


@pytest.mark.parametrize("split", HOSTILE, ids=range(len(HOSTILE)))
def test_a_split_is_no_path(tmp_path: Path, split: str, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_v2(tmp_path / "in")
    set_splits(source, {split: "0:99"})
    assert convert("lerobot", "lerobot_aloha", source, tmp_path / "deep/out") == 1
    assert "split: expected a name of letters, digits, _ and -, found" in capsys.readouterr().err
    assert [path.name for path in tmp_path.rglob("*") if "evil" in path.name] == []
    assert not list(tmp_path.rglob("*.tfrecord*"))


def test_a_bad_split_loses_only_its_own_episodes(tmp_path: Path) -> None:
    source = write_v2(tmp_path / "in")
    set_splits(source, {"../evil": "0:1", "train": "1:99"})
    assert convert("lerobot", "lerobot_aloha", source, tmp_path / "out") == 0
    folder = tmp_path / "out/x/1.0.0"
    assert [stored.source_key for stored in iter_stored(Dataset.open(folder))] == ["episode_000001"]
    (row,) = pq.read_table(folder / "rejects.parquet").to_pylist()
    assert (row["source_key"], row["split"], row["reason"]) == ("episode_000000", "../evil", "bad_name")


def test_a_split_with_dashes_is_read_again(tmp_path: Path) -> None:
    source = write_rlds(tmp_path / "in", {"train-robot_0": [bridge_features(0)], "val": [bridge_features(1)]})
    assert convert("rlds", "bridge_orig", source, tmp_path / "out") == 0
    stored = list(iter_stored(Dataset.open(tmp_path / "out/x/1.0.0")))
    assert [episode.split for episode in stored] == ["train-robot_0", "val"]


@pytest.mark.parametrize("name", ["..", ".hidden", "../x", "/x"])
def test_a_dataset_is_not_named_after_a_folder(tmp_path: Path, name: str) -> None:
    source = write_rlds(tmp_path / "in", {"train": [bridge_features(0)]})
    assert convert("rlds", "bridge_orig", source, tmp_path / "out") == 0
    path = tmp_path / "out/x/1.0.0/dataset_info.json"
    for key in ("name", "version"):
        content = json.loads(path.read_text())
        path.write_text(json.dumps(content | {key: name}))
        with pytest.raises(FailedWork, match=f"expected a {key}, found"):
            Dataset.open(tmp_path / "out/x/1.0.0")
        path.write_text(json.dumps(content))
    path.write_text(json.dumps(content | {"splits": [{"name": name, "shardLengths": ["1"]}]}))
    with pytest.raises(FailedWork, match="expected a split with a name"):
        Dataset.open(tmp_path / "out/x/1.0.0")


def test_an_episodes_id_is_no_path(tmp_path: Path) -> None:
    source = write_rlds(tmp_path / "in", {"train": [bridge_features(0)]})
    assert convert("rlds", "bridge_orig", source, tmp_path / "out") == 0
    folder = tmp_path / "out/x/1.0.0"
    (sidecar,) = folder.glob("index/*.parquet")
    table = pq.read_table(sidecar)
    ids = table["episode_id"].to_pylist()
    table = table.set_column(table.column_names.index("episode_id"), "episode_id", [["../../evil"] * len(ids)])
    pq.write_table(table, sidecar)
    with pytest.raises(FailedWork, match="expected an episode_id of letters and digits, found '../../evil'"):
        list(iter_stored(Dataset.open(folder)))
