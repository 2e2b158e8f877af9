"""Datasets published for LeRobot: read back by our reader and, where EMBODIMIX_LEROBOT_PYTHON names one, by LeRobot's.

EMBODIMIX_LEROBOT_PYTHON: an interpreter with `lerobot[dataset]`, which the tests only run.
"""

import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipelines.contract.embodiments import get_embodiment
from pipelines.contract.episode import Episode, Segment
from pipelines.contract.errors import FailedWork, UsageError
from pipelines.contract.images import decode_image
from pipelines.mapping.adapters import Adapter, parse_adapter
from pipelines.mapping.to_slots import to_episode
from pipelines.publishing.encoding import VideoForm
from pipelines.publishing.publication import Choice, Form, plan_publication
from pipelines.publishing.publishing import publish
from pipelines.publishing.unit_files import record_path, write_unit
from pipelines.shards.manifest import Counts, Manifest, save_manifest
from pipelines.sources import lerobot
from tests.support.checkout import ROOT
from tests.support.inputs.stored_episodes import make_episode, store_dataset

pytest.importorskip("av", reason="videos are written with PyAV, of the extra `pipelines`")
FOREIGN = os.environ.get("EMBODIMIX_LEROBOT_PYTHON", "")
# The gripper first, in per cent open; joints in degrees.
SIDE = {
    "arm0": {"from": "{}[1:7]", "form": "joints", "degrees": True},
    "gripper0": {"from": "{}[0]", "open": 100, "closed": 0},
}
ENTRY = {
    "title": "toy",
    "format": "lerobot",
    "robot": "ur5e",
    "control_mode": "joint_position",
    "units": "metric",
    "cameras": {"base_0_rgb": "base", "left_wrist_0_rgb": "wrist"},
}


def adapter() -> Adapter:
    sides = {
        side: {part: {**about, "from": str(about["from"]).format(side)} for part, about in SIDE.items()}
        for side in ("state", "action")
    }
    return parse_adapter("toy", {**ENTRY, **sides})


def spoken(episode: Episode) -> Episode:
    """With labelled segments: of steps 1 and 2, and of step 3 on."""
    segments = (
        Segment(start=1, end=3, text="reach the cube", source="human"),
        Segment(start=3, end=5, text="lift it", source="human"),
    )
    return replace(episode, segments=segments)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four episodes in two splits with the manifest of a conversion; one lacks the wrist camera."""
    folder = tmp_path_factory.mktemp("toy") / "toy" / "1.0.0"
    episodes = [spoken(make_episode(0)), make_episode(1, t=7, wrist=False), make_episode(2)]
    store_dataset(folder, {"train": [episodes[:2], episodes[2:]], "val": [[make_episode(3, split="val")]]})
    counts = Counts(
        episodes_in=4,
        episodes_out=4,
        episodes_rejected=0,
        steps_out=22,
        steps_dropped=0,
        bytes_out=0,
        rejects={},
        cameras={},
    )
    manifest = Manifest(
        name="toy",
        version="1.0.0",
        converter="embodimix 0.1.0",
        options_hash="",
        code_hash="",
        adapter=asdict(adapter()),
        robot=None,
        task=None,
        appended_to=None,
        counts=counts,
        shards=(),
        episodes=(),
        rejected=(),
        robots={"ur5e": asdict(get_embodiment("ur5e"))},
    )
    save_manifest(folder, manifest)
    return folder


@pytest.fixture(scope="module")
def published(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("published") / "out"
    write(dataset, out, Form(steps_per_file=12, licence="MIT"))
    return out


def write(dataset: Path, out: Path, form: Form) -> Any:
    (publication,) = plan_publication([Choice(path=str(dataset))], str(out), form)
    return publish([publication])[0]


def read_back(out: Path) -> dict[str, Episode]:
    """The episodes as our reader has them, by the entry that stands beside the data."""
    import yaml

    entry = yaml.safe_load((out / "meta/embodimix_adapter.yaml").read_text())["adapters"]["published"]
    own = parse_adapter("published", entry)
    found = lerobot.find(str(out), own)
    assert not found.rejects
    natives = [lerobot.read(located, own) for located in found.episodes]
    return {
        native.reference.key: to_episode(native, own, get_embodiment("ur5e"), tuple(own.all_cameras))
        for native in natives
    }


def originals() -> Mapping[str, Episode]:
    made = [spoken(make_episode(0)), make_episode(1, t=7, wrist=False), make_episode(2), make_episode(3, split="val")]
    return {f"episode_{number:06d}": episode for number, episode in enumerate(made)}


def test_native_dims_names_and_units_are_the_sources(published: Path) -> None:
    info = json.loads((published / "meta/info.json").read_text())
    names = ["gripper0", *get_embodiment("ur5e").joint_names]
    assert info["features"]["action"] == {"dtype": "float32", "shape": [7], "names": names}
    assert (info["codebase_version"], info["robot_type"], info["fps"]) == ("v3.0", "ur5e", 20)
    assert info["splits"] == {"train": "0:3", "val": "3:4"}
    own = json.loads((published / "meta/embodimix.json").read_text())
    assert [dim["unit"] for dim in own["state"]] == ["100 open, 0 closed", *["degrees"] * 6]
    table = pq.read_table(published / "data/chunk-000/file-000.parquet")
    episode = make_episode(0)
    expected = np.column_stack([100 - 100 * episode.state[:, 6], np.rad2deg(episode.state[:, :6])])
    np.testing.assert_allclose(np.array(table["observation.state"].to_pylist()[:5]), expected, atol=1e-4)


@pytest.mark.parametrize("form", [None, *(Form(version=v, dims=d) for v, d in (("2.1", "robot"), ("3.0", "slots")))])
def test_our_reader_finds_equal_vectors_texts_and_near_pictures(
    form: Form | None, dataset: Path, published: Path, tmp_path: Path
) -> None:
    if form is not None:
        write(dataset, tmp_path / "out", replace(form, video=VideoForm(codec="h264", crf=10)))
    found = read_back(published if form is None else tmp_path / "out")
    assert found.keys() == originals().keys()
    for key, episode in originals().items():
        back = found[key]
        np.testing.assert_allclose(back.state, episode.state, atol=1e-6)
        np.testing.assert_allclose(back.action, episode.action, atol=1e-6)
        assert (back.task, back.language, back.control_hz) == (episode.task, episode.language, 20.0)
        assert back.reference.split == episode.reference.split
        assert back.norm_key == episode.norm_key
        for camera, pictures in episode.images.items():
            for before, after in zip(pictures, back.images[camera], strict=True):
                after = decode_image(after) if isinstance(after, bytes) else after
                assert np.abs(after.astype(int) - decode_image(before)).mean() < 12


def test_labelled_segments_are_subtasks_and_proposals_are_not(published: Path) -> None:
    segments = {key: [(s.start, s.end, s.text) for s in e.segments] for key, e in read_back(published).items()}
    assert segments["episode_000000"] == [(1, 3, "reach the cube"), (3, 5, "lift it")]
    assert segments["episode_000002"] == []


def test_provenance_names_source_converter_and_licence(published: Path) -> None:
    rows = pq.read_table(published / "meta/embodimix_episodes.parquet").to_pylist()
    assert [row["source_key"] for row in rows] == ["ur5e/0", "ur5e/1", "ur5e/2", "ur5e/3"]
    assert {(row["converter"], row["licence"], row["version"]) for row in rows} == {("embodimix 0.1.0", "MIT", "1.0.0")}
    assert [row["missing_cameras"] for row in rows] == [[], ["left_wrist_0_rgb"], [], []]


def test_pictures_in_tables_are_those_of_the_shards(dataset: Path, tmp_path: Path) -> None:
    write(dataset, tmp_path / "out", Form(video=None))
    table = pq.read_table(tmp_path / "out/data/chunk-000/file-000.parquet")
    assert table["observation.images.base_0_rgb"][0].as_py()["bytes"] == make_episode(0).images["base_0_rgb"][0]
    assert not (tmp_path / "out/videos").exists()


def test_an_interrupted_run_is_continued_with_the_same_bytes(dataset: Path, published: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    form = Form(steps_per_file=12, licence="MIT")
    (publication,) = plan_publication([Choice(path=str(dataset))], str(out), form)
    assert len(publication.units) == 2
    write_unit(publication, 1)
    first = (out / "data/chunk-000/file-001.parquet").stat().st_mtime_ns
    assert not (out / "meta").exists() and record_path(publication, 1).exists()
    with pytest.raises(FailedWork, match="expected a new or empty folder"):
        publish([publication])
    (out / ".publish/plan.json").write_text(json.dumps({"fingerprint": publication.fingerprint}))
    assert not publish([publication])[0].already_done
    assert (out / "data/chunk-000/file-001.parquet").stat().st_mtime_ns == first
    assert not (out / ".publish").exists()
    for path in ("meta/info.json", "meta/stats.json", "data/chunk-000/file-000.parquet"):
        assert (out / path).read_bytes() == (published / path).read_bytes()
    assert publish([publication])[0].already_done


def test_another_dataset_is_never_changed(dataset: Path, published: Path) -> None:
    before = (published / "meta/info.json").read_bytes()
    with pytest.raises(FailedWork, match="other episodes or options"):
        write(dataset, published, Form(dims="slots"))
    assert (published / "meta/info.json").read_bytes() == before


def test_several_rates_are_refused_or_split(tmp_path: Path) -> None:
    folder = tmp_path / "toy" / "1.0.0"
    store_dataset(folder, {"train": [[make_episode(0), replace(make_episode(1), control_hz=10.0)]]})
    choice = [Choice(path=str(folder))]
    with pytest.raises(UsageError, match=r"found 2:\n  ur5e/joint_position/pi18/v1 at 20 Hz.*\n.*at 10 Hz"):
        plan_publication(choice, str(tmp_path / "out"), Form(dims="robot"))
    both = plan_publication(choice, str(tmp_path / "out"), Form(dims="robot"), split_robots=True)
    assert [publication.out.name for publication in both] == ["ur5e_joint_position_20hz", "ur5e_joint_position_10hz"]


def test_native_dims_need_a_manifest(tmp_path: Path) -> None:
    folder = tmp_path / "toy" / "1.0.0"
    store_dataset(folder, {"train": [[make_episode(0)]]})
    with pytest.raises(UsageError, match="expected a manifest.*--dims robot"):
        plan_publication([Choice(path=str(folder))], str(tmp_path / "out"), Form())


@pytest.mark.skipif(not FOREIGN, reason="EMBODIMIX_LEROBOT_PYTHON names no interpreter with lerobot[dataset]")
@pytest.mark.parametrize("with_video", [True, False])
def test_lerobot_reads_it_and_computes_the_same_statistics(dataset: Path, tmp_path: Path, with_video: bool) -> None:
    from PIL import Image

    out, pictures = tmp_path / "out", tmp_path / "pictures"
    write(dataset, out, Form(steps_per_file=12, video=VideoForm() if with_video else None))
    steps: dict[str, list[np.ndarray]] = {"base_0_rgb": [], "left_wrist_0_rgb": []}
    for number, episode in enumerate(originals().values()):
        for camera, all_pixels in steps.items():
            folder = pictures / f"observation.images.{camera}" / str(number)
            folder.mkdir(parents=True)
            for step in range(episode.n_steps):
                black = np.zeros((224, 224, 3), np.uint8)
                pixels = decode_image(episode.images[camera][step]) if camera in episode.images else black
                Image.fromarray(pixels).save(folder / f"{step:06d}.png")
                all_pixels.append(pixels)
    asked = [0, 3, 8, 21]
    script = str(ROOT / "tests/support/foreign/foreign_lerobot_dataset.py")
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")}
    found_at = tmp_path / "found.npz"
    command = [FOREIGN, script, str(out), str(pictures), str(found_at), *map(str, asked)]
    subprocess.run(command, check=True, env=environment, timeout=300)
    found = dict(np.load(found_at))
    joints = np.concatenate([np.rad2deg(episode.action[:, :6]) for episode in originals().values()])
    np.testing.assert_allclose(found["column action"][:, 1:], joints, rtol=1e-6, atol=1e-4)
    assert found["tasks"].tolist() == ["pick the cube"] * 4
    computed = {name.removeprefix("computed ") for name in found if name.startswith("computed ")}
    assert "observation.images.base_0_rgb/q99" in computed and "action/std" in computed
    for name in computed:
        np.testing.assert_allclose(found[f"stored {name}"], found[f"computed {name}"], atol=1e-6, err_msg=name)
    for camera, all_pixels in steps.items():
        frames = found[f"frames observation.images.{camera}"].transpose(0, 2, 3, 1) * 255
        for frame, step in zip(frames, asked, strict=True):
            assert np.abs(frame - all_pixels[step]).mean() < (12 if with_video else 1e-3)
    rows = [json.loads(row) for row in found["language"]]
    assert [each["content"] for each in rows[0]] == [None, "reach the cube", "lift it"]
    assert rows[6] == []
