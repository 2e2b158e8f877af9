"""The stored form of an episode: read back by plain TFDS and by the rlds package, and the episode's identity."""

import hashlib
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

from pipelines.contract.episode import Segment
from pipelines.contract.errors import UsageError
from pipelines.contract.images import BLACK_JPEG, CorruptImage, decode_jpeg
from pipelines.shards.example_wire import parse_example
from pipelines.shards.record import make_record
from pipelines.shards.statistics import normalize
from tests.support.inputs.stored_episodes import CAMERAS, make_episode, statistics_of, store_dataset, with_base_frames

tfds = pytest.importorskip("tensorflow_datasets")


def record_bytes(episode: Any) -> bytes:
    record = make_record(
        episode, dataset="toy", cameras=CAMERAS, statistics=statistics_of([episode]), converter="embodimix 0.1.0+ab"
    )
    return b"".join(record.encode().chunks)


def identity(episode: Any) -> str:
    return bytes(parse_example(record_bytes(episode))["episode_metadata/episode_id"][0]).decode()


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four episodes in three shards, the second one empty; the last episode lacks the wrist camera."""
    directory = tmp_path_factory.mktemp("data") / "toy" / "1.0.0"
    last = [make_episode(2), make_episode(3, wrist=False)]
    store_dataset(directory, {"train": [[make_episode(0), make_episode(1)], [], last]})
    return directory


@pytest.fixture(scope="module")
def episodes(stored: Path) -> dict[str, Any]:
    """The episodes as plain TFDS yields them, by source key, steps as a list; base pictures as their bytes."""
    undecoded = {"steps": {"observation": {"base_0_rgb": tfds.decode.SkipDecoding()}}}
    dataset = tfds.builder_from_directory(str(stored)).as_dataset(split="train", decoders=undecoded)
    found = {}
    for episode in dataset:
        metadata = {name: value.numpy() for name, value in episode["episode_metadata"].items()}
        found[metadata["source_key"].decode()] = (metadata, list(episode["steps"].as_numpy_iterator()))
    return found


def test_plain_tfds_reads_every_step_back(episodes: dict[str, Any]) -> None:
    assert sorted(episodes) == ["ur5e/0", "ur5e/1", "ur5e/2", "ur5e/3"]
    for number in range(4):
        expected, (_, steps) = make_episode(number, wrist=number < 3), episodes[f"ur5e/{number}"]
        assert len(steps) == 5
        for i, step in enumerate(steps):
            np.testing.assert_array_equal(step["observation"]["state_physical"], expected.state[i])
            np.testing.assert_array_equal(step["action_physical"], expected.action[i])
            assert step["observation"]["base_0_rgb"] == expected.images["base_0_rgb"][i]
            if number < 3:
                wrist = decode_jpeg(expected.images["left_wrist_0_rgb"][i]).astype(int)
                assert np.abs(step["observation"]["left_wrist_0_rgb"] - wrist).max() <= 4  # TensorFlow's fast decoding.


def test_flags_times_and_language_of_the_steps(episodes: dict[str, Any]) -> None:
    _, steps = episodes["ur5e/0"]
    column = {name: [step[name] for step in steps] for name in steps[0] if name != "observation"}
    assert [bool(x) for x in column["is_first"]] == [True, False, False, False, False]
    assert [bool(x) for x in column["is_last"]] == [False, False, False, False, True]
    assert [bool(x) for x in column["is_terminal"]] == [False, False, False, False, True]
    assert [bool(x) for x in column["is_idle"]] == [False, True, False, False, False]
    assert column["reward"] == [0, 0, 0, 0, 1]
    assert column["discount"] == [1, 1, 1, 1, 1]
    assert column["segment_id"] == [0, 0, 1, 1, 1]
    assert column["language_instruction"] == [b"pick the cube"] * 5
    assert column["segment_text"] == [b""] * 5
    assert column["timestamp_ns"] == [0, 50_000_000, 100_000_000, 150_000_000, 200_000_000]
    np.testing.assert_array_equal(column["timestamp_s"], np.float32([0, 0.05, 0.1, 0.15, 0.2]))


SENTENCES = (
    Segment(start=0, end=2, text="open the drawer", source="source"),
    Segment(start=3, end=5, text="put the block inside", source="source"),
)


def step_texts(episode: Any, name: str) -> list[str]:
    return [bytes(text).decode() for text in parse_example(record_bytes(episode))[f"steps/{name}"]]


def test_a_step_has_the_instruction_that_the_source_gave_it_and_no_other_step_s() -> None:
    sentences = ("open the drawer", "put the block inside")
    episode = replace(make_episode(0), task=sentences[0], language=sentences, segments=SENTENCES)
    expected = ["open the drawer"] * 2 + [""] + ["put the block inside"] * 2
    assert step_texts(episode, "language_instruction") == expected
    assert step_texts(episode, "segment_text") == expected


def test_a_step_without_a_sentence_has_that_of_the_whole_task() -> None:
    episode = replace(make_episode(0), task="tidy up", language=("tidy up",), segments=SENTENCES)
    expected = ["open the drawer"] * 2 + ["tidy up"] + ["put the block inside"] * 2
    assert step_texts(episode, "language_instruction") == expected


def test_the_text_of_a_proposal_is_no_language() -> None:
    segments = (
        Segment(start=0, end=2, text="close the gripper, move the arm slightly"),
        Segment(start=2, end=4, text="grasp the cube", source="human"),
    )
    episode = replace(make_episode(0), segments=segments)
    assert step_texts(episode, "segment_text") == ["", "", "grasp the cube", "grasp the cube", ""]
    assert step_texts(episode, "language_instruction") == ["pick the cube"] * 5
    assert step_texts(replace(episode, task="", language=()), "language_instruction") == [""] * 5


def test_vectors_are_normalized_by_the_statistics_of_the_dataset(episodes: dict[str, Any]) -> None:
    statistics = statistics_of([make_episode(i) for i in range(4)])["ur5e/joint_position/pi18/v1"]
    episode, (_, steps) = make_episode(1), episodes["ur5e/1"]
    expected = normalize(episode.action, statistics.action.affine("quantile"), episode.action_mask)
    np.testing.assert_array_equal([step["action"] for step in steps], expected)
    assert np.all(expected[:, 7:] == 0)


def test_episode_metadata(episodes: dict[str, Any]) -> None:
    metadata, _ = episodes["ur5e/2"]
    texts = {name: value.decode() for name, value in metadata.items() if isinstance(value, bytes)}
    assert texts.pop("episode_id") == identity(make_episode(2))
    assert texts.pop("segments") == (
        '[{"start": 0, "end": 2, "text": "reach", "kind": "subtask", "arms": ["arm0"], "success": -1, '
        '"confidence": 0.30000001192092896, "source": "proposal"}, {"start": 2, "end": 5, "text": "", '
        '"kind": "idle", "arms": [], "success": 1, "confidence": 1.0, "source": "human"}]'
    )
    assert texts == {
        "dataset": "toy",
        "source_uri": "logs/2.zarr",
        "source_key": "ur5e/2",
        "robot": "ur5e",
        "control_mode": "joint_position",
        "layout": "pi18/v1",
        "task": "pick the cube",
        "norm_key": "ur5e/joint_position/pi18/v1",
        "converter": "embodimix 0.1.0+0123abcd",
        "parts": '{"arm0": [0, 1, 2, 3, 4, 5], "gripper0": [6]}',
    }
    assert metadata["language"].tolist() == [b"pick the cube", b"take the cube"]
    assert (metadata["control_hz"], metadata["success"], metadata["n_steps"]) == (20, 1, 5)
    assert metadata["state_mask"].tolist() == [True] * 7 + [False] * 11
    assert metadata["camera_mask"].tolist() == [True, True, False]


def test_a_camera_that_an_episode_lacks_is_black_and_masked(episodes: dict[str, Any]) -> None:
    metadata, steps = episodes["ur5e/3"]
    assert metadata["camera_mask"].tolist() == [True, False, False]
    assert max(step["observation"]["left_wrist_0_rgb"].max() for step in steps) == 0


def test_the_rlds_package_batches_the_steps(stored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Only its pattern matcher uses reverb, but the package imports it at once.
    monkeypatch.setitem(sys.modules, "reverb", mock.MagicMock())
    rlds = pytest.importorskip("rlds")
    dataset = tfds.builder_from_directory(str(stored)).as_dataset(split="train")
    batch = rlds.transformations.batch
    pairs = dataset.flat_map(lambda e: batch(e[rlds.STEPS], size=2, shift=1, drop_remainder=True))
    assert next(iter(pairs))[rlds.OBSERVATION]["state"].shape == (2, 18)
    assert sum(1 for _ in pairs) == 4 * 4


def test_readers_that_take_all_steps_undecoded_get_whole_arrays(stored: Path) -> None:
    undecoded = {"steps": tfds.decode.SkipDecoding()}
    dataset = tfds.builder_from_directory(str(stored)).as_dataset(split="train", decoders=undecoded)
    for episode in dataset:
        assert episode["steps"]["action"].shape == (5, 18)
        assert episode["steps"]["observation"]["state"].shape == (5, 18)
        assert episode["steps"]["observation"]["base_0_rgb"].numpy()[2].startswith(b"\xff\xd8")
        assert episode["steps"]["language_instruction"].shape == (5,)


def test_splits_may_have_any_name_and_several_shards(stored: Path) -> None:
    info = tfds.builder_from_directory(str(stored)).info
    assert (info.name, str(info.version)) == ("toy", "1.0.0")
    assert {name: (s.num_examples, s.num_shards) for name, s in info.splits.items()} == {"train": (4, 3)}


def test_equal_episodes_give_equal_bytes() -> None:
    assert record_bytes(make_episode(4)) == record_bytes(make_episode(4))


def test_the_identity_is_the_content_and_nothing_else() -> None:
    episode = make_episode(0)
    same = replace(episode, segments=(), success=0, robot="franka", reward=episode.discount)
    assert identity(same) == identity(episode)
    assert len(identity(episode)) == 32


def test_an_episode_that_was_cut_off_does_not_end_in_a_terminal_step() -> None:
    features = parse_example(record_bytes(replace(make_episode(0), is_terminal=False)))
    assert list(features["steps/is_last"]) == [0, 0, 0, 0, 1]
    assert list(features["steps/is_terminal"]) == [0, 0, 0, 0, 0]


@pytest.mark.parametrize("name", ["state", "action", "timestamp_s", "state_mask", "action_mask", "language", "images"])
def test_the_identity_changes_with_every_part_of_the_content(name: str) -> None:
    episode, other = make_episode(0), make_episode(1)
    changed = {"state_mask": np.arange(18) < 6, "action_mask": np.arange(18) < 6, "timestamp_s": np.arange(5) / 10.0}
    changed["language"] = ("another",)
    assert identity(replace(episode, **{name: changed.get(name, getattr(other, name))})) != identity(episode)


def test_a_frame_that_is_no_picture_is_refused() -> None:
    with pytest.raises(CorruptImage, match="found 7 bytes"):
        record_bytes(with_base_frames(make_episode(0), [BLACK_JPEG] * 4 + [b"garbage"]))


def test_statistics_without_the_norm_key_are_refused_with_the_nearest_one() -> None:
    episode = make_episode(0)
    statistics = {"ur5/joint_position/pi18/v1": statistics_of([episode])[episode.norm_key]}
    with pytest.raises(UsageError, match="Did you mean 'ur5/joint_position/pi18/v1'"):
        make_record(episode, dataset="toy", cameras=CAMERAS, statistics=statistics, converter="x")


def test_pictures_of_the_cameras_are_asked_for_some_steps_of_each_in_turn() -> None:
    asked: list[str] = []

    class Noted(list[bytes]):
        def __getitem__(self, index: Any) -> Any:
            asked.append(self.camera)
            return super().__getitem__(index)

        __iter__ = Sequence.__iter__

    episode = make_episode(0, t=40)
    images = {camera: Noted(frames) for camera, frames in episode.images.items()}
    for camera, frames in images.items():
        frames.camera = camera
    stored = parse_example(record_bytes(replace(episode, images=images)))
    base, wrist = CAMERAS
    turns = [(camera, len(list(run))) for camera, run in groupby(asked)]
    assert turns[:4] == [(base, 16), (wrist, 16), (base, 16), (wrist, 16)]
    for camera in CAMERAS:
        assert [bytes(one) for one in stored[f"steps/observation/{camera}"]] == episode.images[camera]


def test_pictures_lie_in_the_record_as_the_identity_hashes_them() -> None:
    payload = record_bytes(make_episode(0))
    pictures = parse_example(payload)["steps/observation/base_0_rgb"]
    assert [bytes(p) for p in pictures] == make_episode(0).images["base_0_rgb"]
    first, end = int(pictures.offsets[0]) - 3, int(pictures.offsets[-1] + pictures.lengths[-1])
    frames = make_record(
        make_episode(0), dataset="toy", cameras=CAMERAS, statistics=statistics_of([make_episode(0)]), converter="x"
    ).frames
    assert hashlib.sha256(payload[first:end]).digest() == frames["base_0_rgb"].digest
