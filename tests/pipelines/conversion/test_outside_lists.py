"""Conversions with lists from outside: which episodes are kept, what they are called, and which rows match nothing."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipelines.contract.errors import UsageError
from pipelines.conversion.launch import ConversionRequest, convert
from pipelines.mapping.adapters import get_adapter
from pipelines.shards.dataset import Dataset
from pipelines.shards.stored_episodes import iter_stored
from tests.support.inputs.hdf5_files import write_aloha
from tests.support.inputs.native_files import bridge_features, write_rlds

FOLDER = "ILIAD/success/2023-04-21/Fri_Apr_21_10_4{}_08_2023"
NUMBER = "ILIAD+7ae1bcff+2023-04-21-10h-4{}m-08s"


def run(source: Path, root: Path, adapter: str, **changes: Any) -> tuple[dict[str, Any], dict[str, tuple[str, ...]]]:
    """Converts; returns the manifest, and the instructions of each stored episode by its key."""
    request = ConversionRequest(
        source=str(source),
        output_root=str(root),
        name="x",
        version="1.0.0",
        adapter=get_adapter(adapter),
        n_shards=1,
        n_workers=1,
        **changes,
    )
    convert(request)
    stored = {episode.source_key: tuple(episode.language) for episode in iter_stored(Dataset.open(request.directory))}
    return json.loads((Path(str(request.directory)) / "manifest.json").read_text()), stored


def write_list(path: Path, content: Any) -> str:
    path.write_text(json.dumps(content))
    return str(path)


def write_droid_like(folder: Path) -> Path:
    """Three records that name the recording that they are of, as DROID's do."""
    paths = [f"/nfs/r2d2-data-full/{FOLDER.format(i)}/trajectory.h5".replace("_10_", "_10:") for i in range(3)]
    features = [bridge_features(i) | {"episode_metadata/file_path": [path.encode()]} for i, path in enumerate(paths)]
    return write_rlds(folder, {"train": features})


def test_only_listed_files_are_converted_and_the_others_are_counted(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for i in range(3):
        write_aloha(tmp_path / f"in/episode_{i}.hdf5")
    listed = write_list(tmp_path / "keep.json", ["episode_0.hdf5", "episode_2.hdf5", "episode_9.hdf5"])
    manifest, stored = run(tmp_path / "in", tmp_path / "out", "aloha_hdf5", episodes=listed, task="fold")
    assert sorted(stored) == ["episode_0.hdf5", "episode_2.hdf5"]
    assert manifest["counts"]["rejects"] == {"filtered": 1} and manifest["counts"]["episodes_in"] == 3
    assert manifest["unmatched"] == {"--episodes keep.json": 1}
    (row,) = pq.read_table(tmp_path / "out/x/1.0.0/rejects.parquet").to_pylist()
    assert row["detail"] == "episode_1.hdf5 is not in the list of --episodes"


def test_records_that_name_themselves_are_listed_by_that_name(tmp_path: Path) -> None:
    source = write_droid_like(tmp_path / "in")
    listed = write_list(tmp_path / "keep.json", [FOLDER.format(1), FOLDER.format(7)])
    manifest, stored = run(source, tmp_path / "out", "bridge_orig", episodes=listed)
    assert list(stored) == [f"/nfs/r2d2-data-full/{FOLDER.format(1)}/trajectory.h5".replace("_10_", "_10:")]
    assert manifest["unmatched"] == {"--episodes keep.json": 1} and manifest["counts"]["rejects"]["filtered"] == 2


def test_droids_annotations_replace_the_instruction_of_the_episodes_they_name(tmp_path: Path) -> None:
    source = write_droid_like(tmp_path / "in")
    write_list(tmp_path / "episode_id_to_path.json", {NUMBER.format(i): FOLDER.format(i) for i in (0, 1, 8)})
    texts = {
        NUMBER.format(1): {"language_instruction1": "Open the drawer", "language_instruction2": "pull it open"},
        NUMBER.format(8): {"language_instruction1": "of an episode that is not here"},
    }
    given = write_list(tmp_path / "droid_language_annotations.json", texts)
    manifest, stored = run(source, tmp_path / "out", "bridge_orig", texts=given)
    assert sorted(stored.values()) == [
        ("Open the drawer", "pull it open"),
        ("put the cup away",),
        ("put the cup away",),
    ]
    assert manifest["unmatched"] == {"--language droid_language_annotations.json": 1}
    assert manifest["inferred"]["the list of --language has no text for the episode, which keeps its own"] == 2


def test_another_list_is_another_conversion(tmp_path: Path) -> None:
    source = write_droid_like(tmp_path / "in")
    for number in (0, 1):
        listed = write_list(tmp_path / "keep.json", [FOLDER.format(number)])
        if number:
            with pytest.raises(UsageError, match="found one made with other options"):
                run(source, tmp_path / "out", "bridge_orig", episodes=listed)
        else:
            run(source, tmp_path / "out", "bridge_orig", episodes=listed)


def test_ranges_of_steps_are_left_to_the_mixture(tmp_path: Path) -> None:
    listed = write_list(tmp_path / "keep_ranges.json", {FOLDER.format(0): [[0, 5]]})
    with pytest.raises(UsageError, match=r"expected whole episodes, found ranges .* `filters: \[{keep: {list: keep_r"):
        run(write_droid_like(tmp_path / "in"), tmp_path / "out", "bridge_orig", episodes=listed)


def test_one_instruction_for_all_and_a_list_of_them_are_refused_together(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--task and --language: expected one of them"):
        run(tmp_path, tmp_path / "out", "bridge_orig", texts="texts.json", task="fold")
