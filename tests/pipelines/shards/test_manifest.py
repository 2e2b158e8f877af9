"""The manifest as a record: it reads back as it was, also from older versions, and damage is named."""

import json
from pathlib import Path

import pytest

from pipelines.contract.errors import FailedWork
from pipelines.shards.manifest import (
    CameraCounts,
    Counts,
    EpisodeEntry,
    InputRecord,
    Manifest,
    RejectedEntry,
    ShardEntry,
    load_manifest,
    save_manifest,
)

COUNTS = Counts(
    episodes_in=3,
    episodes_out=2,
    episodes_rejected=1,
    steps_out=20,
    steps_dropped=2,
    bytes_out=900,
    rejects={"first_step": 2, "non_finite": 1},
    cameras={"base_0_rgb": CameraCounts(present=2, missing=0)},
)


def episode(number: int, **notes: float) -> EpisodeEntry:
    return EpisodeEntry(
        source_uri=f"logs/{number}.h5",
        source_key=f"name {number}",
        record_key=f"{number}.h5",
        split="train",
        place=(number, 7),
        shard=0,
        record=number,
        n_steps=10,
        missing_cameras=(),
        notes=notes,
    )


MANIFEST = Manifest(
    name="toy",
    version="1.0.0",
    converter="embodimix 0.1.0",
    options_hash="0123",
    code_hash="abcd",
    adapter={"name": "toy", "title": "Toys", "format": "aloha"},
    robot=None,
    task="fold",
    appended_to=None,
    counts=COUNTS,
    shards=(ShardEntry(split="train", shard=0, n_shards=1, n_episodes=2, n_steps=20, n_bytes=900, sha256="ff"),),
    episodes=(episode(0, time_error_s=0.01), episode(1, time_error_s=-0.03, skew_ms_max=4.0)),
    rejected=(RejectedEntry(source_uri="logs/2.h5", source_key="2.h5", split="train", reason="non_finite"),),
    inferred={"units: joints read as percent of range": 2},
    input=InputRecord(mode="fast", n_files=3, n_bytes=99, prints={"logs/0.h5": "00"}),
)


def test_a_manifest_reads_back_as_it_was(tmp_path: Path) -> None:
    save_manifest(tmp_path, MANIFEST)
    assert load_manifest(tmp_path) == MANIFEST


def test_a_manifest_of_an_older_version_opens(tmp_path: Path) -> None:
    content = json.loads(json.dumps(MANIFEST.to_json()))
    for name in ("inferred", "input", "findings", "partial", "robots"):
        del content[name]
    for entry in content["episodes"]:
        del entry["record_key"]
    (tmp_path / "manifest.json").write_text(json.dumps(content | {"of_a_later_version": 1}))
    found = load_manifest(tmp_path)
    assert found is not None and found.counts == COUNTS
    assert (found.input, found.inferred, found.episodes[1].scan_key) == (None, {}, "name 1")


def test_the_worst_of_every_note_names_its_episode() -> None:
    assert MANIFEST.worst_notes() == {"skew_ms_max": (4.0, "name 1"), "time_error_s": (-0.03, "name 1")}


def test_a_dataset_of_another_writer_has_no_manifest(tmp_path: Path) -> None:
    assert load_manifest(tmp_path) is None
    (tmp_path / "manifest.json").write_text('{"name": "toy", "merged": []}')
    assert load_manifest(tmp_path) is None


DAMAGED = ["", '{"adapter"', '{"adapter": 1}', "[" * 100_000, '{"adapter": {}, "shards": [1]}']


@pytest.mark.parametrize("text", DAMAGED, ids=range(len(DAMAGED)))
def test_a_damaged_manifest_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(FailedWork, match=r"manifest.json: expected the manifest of a conversion, found \w+Error"):
        load_manifest(tmp_path)
