"""Tests of recordings for the Rerun viewer, read back by Rerun's own reader and checked by its own program."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from annotation_tools.episodes import EpisodeStore
from tests.support.inputs.annotation_episodes import make_dataset
from trainers.browsing.collection import open_collection
from trainers.console.extras import missing_package_message
from trainers.main import main

pytest.importorskip("rerun", reason="needs the extra `rerun`")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("recording"), n_episodes=2, n_shards=1, n_steps=30)


@pytest.fixture(scope="module")
def written(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    episode_id = list(EpisodeStore(dataset).briefs)[1]
    path = tmp_path_factory.mktemp("rrd") / "episode.rrd"
    assert main(["browse", str(dataset), "--episode", episode_id[:12], "--rerun", str(path)]) == 0
    return path, episode_id


@pytest.fixture(scope="module")
def rows(written: tuple[Path, str]) -> dict[str, list[dict[str, Any]]]:
    """The rows of every entity, as Rerun's reader gives them."""
    from rerun.chunk import RrdReader

    found: dict[str, list[dict[str, Any]]] = {}
    for chunk in RrdReader(written[0]).stream():
        found.setdefault(chunk.entity_path, []).extend(chunk.to_record_batch().to_pylist())
    return found


def values(rows: list[dict[str, Any]], component: str) -> list[Any]:
    """One component of the rows that have a step, in the order of steps."""
    timed = sorted((row for row in rows if "step" in row), key=lambda row: row["step"])
    name = next(key for key in timed[0] if key.endswith(component))
    return [row[name][0] for row in timed]


def test_reruns_own_program_finds_the_file_sound(written: tuple[Path, str]) -> None:
    program = shutil.which("rerun", path=str(Path(sys.executable).parent))
    assert program, "expected the viewer that comes with rerun-sdk"
    told = subprocess.run([program, "rrd", "verify", str(written[0])], capture_output=True, text=True, timeout=120)
    assert told.returncode == 0 and "1 file verified without error" in told.stderr + told.stdout


def test_every_picture_is_the_shards_own_bytes(dataset: Path, written: tuple[Path, str], rows: Any) -> None:
    store = EpisodeStore(dataset)
    for camera in store.cameras(written[1]):
        blobs = values(rows[f"/cameras/{camera}"], "blob")
        assert [bytes(blob) for blob in blobs] == [store.jpeg(written[1], camera, step) for step in range(30)]


def test_state_and_action_keep_their_values_and_names(dataset: Path, written: tuple[Path, str], rows: Any) -> None:
    episode = EpisodeStore(dataset).episode(written[1])
    for path, column in (
        ("/state/arm0/x", episode.state[:, 0]),
        ("/action/arm0/roll", episode.action[:, 3]),
        ("/state/gripper1", episode.state[:, 13]),
    ):
        np.testing.assert_array_equal(np.array(values(rows[path], "scalars"), np.float32), column)
    names = [row[key] for row in rows["/state/arm0/x"] for key in row if key.endswith("names")]
    assert names == [["state arm0 x (m)"]]


def test_times_are_the_episodes(rows: Any) -> None:
    timed = sorted((row for row in rows["/state/arm0/x"] if "step" in row), key=lambda row: row["step"])
    assert [row["step"] for row in timed] == list(range(30))
    assert [row["time"].total_seconds() for row in timed] == pytest.approx([step / 10 for step in range(30)])


def test_segments_stand_where_they_begin(dataset: Path, written: tuple[Path, str], rows: Any) -> None:
    segments = EpisodeStore(dataset).episode(written[1]).segments
    assert sorted(row["step"] for row in rows["/segments"]) == [segment.start for segment in segments]
    assert values(rows["/segments"], "text")[0] == f"{segments[0].text} (0 to {segments[0].end})"


def test_an_episode_and_a_file_name_are_asked_for(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["browse", str(dataset), "--rerun", "a.rrd"]) == 2
    assert "--rerun: expected an episode; give --episode ID" in capsys.readouterr().err
    key = next(iter(open_collection(str(dataset)).episodes))
    assert main(["browse", str(dataset), "--episode", key, "--rerun", "a.mp4"]) == 2
    assert "expected a file name that ends in .rrd" in capsys.readouterr().err


def test_the_extra_is_named_where_it_is_missing() -> None:
    assert missing_package_message("rerun", ["rerun-sdk; extra == 'rerun'"]) == (
        "this needs the package rerun-sdk, which is not installed. Run: pip install 'embodimix[rerun]'"
    )
