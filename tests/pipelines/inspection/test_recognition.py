"""What `inspect` says of inputs of every format, and of those that are of none."""

import json
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from pipelines.contract.errors import UsageError
from pipelines.inspection.recognition import recognize
from pipelines.inspection.report import describe_lines
from pipelines.inspection.sampling import MAX_EPISODES, spread
from pipelines.sources.folders import ScanLimit, limited_scan, scan_files
from pipelines.storage.mirror import forget_copies
from tests.support.foreign.foreign_sets import write_aloha_hdf5, write_own_tfds, write_so101_v21, write_umi
from tests.support.inputs.lerobot_writer import write_lines
from tests.support.servers.memory_store import MemoryStore
from trainers.main import main


@pytest.mark.shared
@pytest.mark.parametrize(
    ("folder", "format", "n", "cameras", "hz"),
    [
        ("real/gr1_lerobot_v2", "lerobot", 5, 2, 20),
        ("real/bridge_rlds", "rlds", 50, 4, None),
        ("sim/aloha_hdf5", "aloha", 2, 4, None),
        ("sim/dp_zarr", "dp", 4, 2, 10),
        ("sim/droid_raw", "droid", 3, 3, 14.93),
        ("sim/bridge_raw", "bridge", 3, 6, 5.01),
        ("sim/inhouse_zarr/ur5e", "zarr", 6, 2, 20),
    ],
)
def test_samples_are_of_their_format(
    shared: Path, folder: str, format: str, n: int, cameras: int, hz: float | None
) -> None:
    ((description, _), *others) = recognize(str(shared / "data" / folder)).understood
    # HDF5 files of any layout are read by the keys that an entry names.
    assert {other.format for other, _ in others} <= {"hdf5"}
    assert (description.format, description.n_episodes, len(description.cameras)) == (format, n, cameras)
    assert description.control_hz == hz


@pytest.mark.shared
def test_the_template_that_a_builder_left_is_quoted_and_believed_in_nothing(shared: Path) -> None:
    """Bridge's features.json says joint velocities; its numbers are pose deltas."""
    ((description, _),) = recognize(str(shared / "data/real/bridge_rlds")).understood
    lines = describe_lines(description)
    assert any("7x joint velocities" in line for line in lines)
    assert all(len(line) <= 80 or " " not in line.strip() for line in lines)


def test_a_lerobot_set_is_described_by_its_metadata(tmp_path: Path) -> None:
    root = write_so101_v21(tmp_path / "desk")
    low, high = [-90.0] * 5 + [0.0], [99.0] * 5 + [100.0]
    stats = {"observation.state": {"min": low, "max": high}}
    write_lines(root / "meta/episodes_stats.jsonl", [{"episode_index": 0, "stats": stats}])
    ((description, _),) = recognize(str(root)).understood
    state = description.feature("observation.state")
    assert description.dialect == "LeRobot v2.1, a file per episode"
    assert description.robots == ("so101_follower",)
    assert state is not None and state.names[0] == "shoulder_pan.pos" and state.in_all
    assert (state.low[0], state.high[0]) == (-90.0, 99.0)
    assert [(camera.size, camera.stored, camera.rate_hz) for camera in description.cameras] == [
        ((64, 64), "h264", 30)
    ] * 2
    assert description.texts == ("lift it",)


def test_a_damaged_camera_costs_the_camera_and_not_the_numbers(tmp_path: Path) -> None:
    root = write_so101_v21(tmp_path / "desk")
    for path in root.glob("videos/chunk-000/*wrist/*.mp4"):
        path.write_bytes(b"no video")
    ((description, _),) = recognize(str(root)).understood
    assert description.feature("action") is not None
    assert "truncated_video" in description.faults[0]


def test_an_unknown_folder_says_what_it_holds_and_which_formats_nearly_fit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "log.csv").write_text("t,x")
    (tmp_path / "episode_0.hdf5").write_bytes(b"no HDF5")
    assert main(["inspect", str(tmp_path)]) == 1
    shown = capsys.readouterr().out
    assert "1 .csv" in shown
    assert "not aloha" in shown and "unreadable_hdf5" in shown
    assert "has no files of bag, bridge, " in shown


def test_a_format_whose_package_is_missing_says_so_and_costs_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def reader_of(format: str) -> ModuleType:
        if format == "bag":
            raise UsageError("rosbags is not installed")
        return import_module(f"pipelines.sources.{format}")

    monkeypatch.setattr("pipelines.inspection.sampling.reader_of", reader_of)
    write_own_tfds(tmp_path / "own_set/1.0.0")
    (tmp_path / "bags").mkdir()
    (tmp_path / "bags/a.mcap").write_bytes(b"")
    assert main(["inspect", str(tmp_path / "own_set")]) == 0
    assert "rosbags" not in capsys.readouterr().out
    assert main(["inspect", str(tmp_path / "bags")]) == 1
    assert "not bag        rosbags is not installed" in capsys.readouterr().out


def test_the_command_tells_success_from_misfits_and_missing_paths(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_own_tfds(tmp_path / "own_set/1.0.0")
    assert main(["inspect", str(tmp_path / "own_set"), "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["format"] == "rlds" and content["n_episodes"] == 2
    assert {feature["key"]: feature["width"] for feature in content["features"]}["action"] == 8
    assert main(["inspect", str(tmp_path / "own_st")]) == 2
    assert "found nothing; " in (shown := capsys.readouterr().err)
    assert "Did you mean 'own_set'?" in shown


def test_a_draft_never_replaces_a_file_unless_forced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, draft = write_own_tfds(tmp_path / "own_set/1.0.0"), tmp_path / "my.yaml"
    assert main(["inspect", str(source), "--draft", str(draft)]) == 0
    draft.write_text("mine")
    assert main(["inspect", str(source), "--draft", str(draft)]) == 2
    assert draft.read_text() == "mine"
    assert "--force" in capsys.readouterr().err
    assert main(["inspect", str(source), "--draft", str(draft), "--force"]) == 0
    assert "adapters:" in draft.read_text()


def test_numbers_that_are_not_finite_do_not_hide_the_range(tmp_path: Path) -> None:
    import h5py

    path = write_aloha_hdf5(tmp_path / "episode_0.hdf5")
    with h5py.File(path, "r+") as file:
        file["action"][3, 0] = np.nan
    ((description, _), *_) = recognize(str(tmp_path)).understood
    action = description.feature("action")
    assert action is not None and np.isfinite(action.low).all()


def test_few_episodes_are_read_of_many(tmp_path: Path) -> None:
    write_umi(tmp_path / "cup.zarr", n=20, t=6)
    ((description, _),) = recognize(str(tmp_path)).understood
    assert (description.n_episodes, description.n_read) == (20, MAX_EPISODES)
    assert spread(range(20), 3) == [0, 10, 19]


def test_an_object_store_is_described_by_a_part_of_it(tmp_path: Path) -> None:
    MemoryStore.objects.clear()
    forget_copies()
    for source, name in (
        (write_so101_v21(tmp_path / "desk"), "desk"),
        (write_umi(tmp_path / "cup.zarr"), "u/cup.zarr"),
    ):
        for path in sorted(path for path in source.rglob("*") if path.is_file()):
            MemoryStore.objects[f"mem://bucket/{name}/{path.relative_to(source)}"] = path.read_bytes()
    ((desk, _),) = recognize("mem://bucket/desk").understood
    ((umi, sample),) = recognize("mem://bucket/u").understood
    forget_copies()
    assert (desk.format, desk.n_episodes, len(desk.cameras)) == ("lerobot", 2, 2)
    assert (umi.format, umi.n_episodes, umi.cameras[0].size) == ("dp", 2, (48, 48))
    assert not sample.is_cut


def test_a_scan_that_ends_early_says_that_there_is_more(tmp_path: Path) -> None:
    for i in range(3):
        write_aloha_hdf5(tmp_path / f"{i}/episode_{i}.hdf5", t=5)
    with limited_scan(ScanLimit(seconds=60.0, n_found=2)) as limit:
        assert len(scan_files(tmp_path, "*.hdf5").found) == 2
    assert limit.was_reached
    assert len(scan_files(tmp_path, "*.hdf5").found) == 3
