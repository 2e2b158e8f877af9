"""Names under which TFDS opens datasets of its own in place of ours."""

from pathlib import Path

import pytest
import yaml

from pipelines.mapping.adapters import load_adapters
from pipelines.shards.schema import write_metadata
from pipelines.sources.tfds.registered_names import explain_clash, registered_names
from tests.support.checkout import ROOT


def test_51_names_of_shipped_entries_are_registered() -> None:
    shared = registered_names() & set(load_adapters().names())
    assert len(shared) == 51 and {"bridge", "viola", "toto", "taco_play"} <= shared


def test_a_clash_is_explained_with_a_name_that_has_none() -> None:
    assert explain_clash("bridge_v2") == explain_clash("desk") == ""
    assert "tfds.builder('bridge', data_dir=...) opens that one" in explain_clash("bridge")
    assert "such as bridge_v2" in explain_clash("bridge")


def test_the_names_are_those_of_tfds() -> None:
    tfds = pytest.importorskip("tensorflow_datasets", reason="lists its own names")
    stored = yaml.safe_load((ROOT / "pipelines/tfds_names.yaml").read_text())
    if tfds.__version__ != stored["version"]:
        pytest.skip(f"the names are those of TFDS {stored['version']}")
    assert set(tfds.list_builders(with_community_datasets=False)) == registered_names()


def test_tfds_opens_its_own_class_under_such_a_name(tmp_path: Path) -> None:
    tfds = pytest.importorskip("tensorflow_datasets", reason="opens datasets by name")
    for name in ("bridge", "bridge_v2"):
        folder = tmp_path / name / "1.0.0"
        folder.mkdir(parents=True)
        lengths = {"train": [0]}
        write_metadata(
            folder,
            name=name,
            version="1.0.0",
            cameras=("base_0_rgb",),
            shard_lengths=lengths,
            shard_bytes={"train": 0},
            description="",
        )
    assert tfds.core.load.builder_cls("bridge").__module__.startswith("tensorflow_datasets.robotics")
    assert str(tfds.builder("bridge_v2", data_dir=tmp_path).version) == "1.0.0"
