"""The stream: what a batch holds, and that only seed and position decide it."""

import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import simplejpeg

from mixtures.mixture import Mixture, open_mixture
from mixtures.stream import pictures
from mixtures.stream.batches import Batch, Stream
from mixtures.stream.pictures import _decode_into
from mixtures.stream.shard_files import OpenShards
from pipelines.contract.errors import FailedWork, UsageError
from pipelines.contract.slots import CAMERAS
from tests.support.inputs.mixture_data import colour, make_episode, write_dataset, write_spec

SPEC = """
seed: 3
weighting: {alpha: 0.43}
datasets: [{path: a/1.0.0}, {path: b/1.0.0}]
filters: [{drop: idle}]
validation: {fraction: 0.1, min_per_group: 1}
action: {horizon: 6}
language: {proposals: true}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("stream")
    write_dataset(root, "a", [make_episode(i, task=["fold", "sort"][i % 2], idle=[0, 3]) for i in range(8)])
    missing = [(), CAMERAS[1:2]]
    episodes = [make_episode(i, robot="ur5e", missing=missing[i % 2], n_steps=20) for i in range(8, 14)]
    write_dataset(root, "b", episodes, n_shards=3)
    return root


@pytest.fixture(scope="module")
def mixture(folder: Path) -> Mixture:
    return open_mixture(write_spec(folder, SPEC), cache=folder / "cache")


@pytest.fixture(scope="module")
def stream(mixture: Mixture) -> Iterator[Stream]:
    with Stream(mixture, batch_size=32) as stream:
        yield stream


def rows(batch: Batch) -> list[tuple[object, ...]]:
    """Each sample of a batch as its numbers' bytes and texts."""
    values = [getattr(batch, f.name) for f in fields(batch) if f.name != "next_position"]
    return [
        tuple(v[i].tobytes() if isinstance(v, np.ndarray) else v[i] for v in values) for i in range(len(batch.step))
    ]


def test_pictures_are_those_of_the_named_sample_and_missing_ones_black(stream: Stream) -> None:
    batch = stream.batch_at(0)
    number = np.floor(batch.state_physical[:, 0] + 1e-4).astype(int)
    for i in range(32):
        for camera in range(3):
            has = camera == 0 or (camera == 1 and (batch.dataset[i] == "a" or number[i] % 2 == 0))
            expected = colour(number[i], int(batch.step[i]), camera) if has else (0, 0, 0)
            assert batch.camera_mask[i, camera] == has
            assert np.abs(batch.images[i, camera].astype(int) - expected).max() <= (2 if has else 0)


def test_a_chunk_holds_the_next_actions_and_repeats_the_last_behind_the_end(stream: Stream) -> None:
    batch = stream.batch_at(64)
    n_steps = np.where(np.array(batch.dataset) == "a", 12, 20)
    ahead = batch.step[:, None] + np.arange(6)
    assert np.array_equal(batch.chunk_mask, ahead < n_steps[:, None])
    first = batch.state_physical[:, 0] - batch.step / 100
    expected = first[:, None] + np.minimum(ahead, n_steps[:, None] - 1) / 100 + 0.01
    assert batch.action_physical[:, :, 0] == pytest.approx(expected, abs=1e-5)
    assert not batch.chunk_mask.all()


def test_normalized_vectors_invert_to_physical_ones_and_masked_slots_are_zero(mixture: Mixture, stream: Stream) -> None:
    batch = stream.batch_at(0)
    assert (batch.action[~np.broadcast_to(batch.action_mask[:, None], batch.action.shape)] == 0).all()
    assert np.abs(batch.state[batch.state_mask]).max() < 1.2
    nothing = np.zeros_like(batch.action_mask)
    vectors = batch.norm_key, batch.action_physical + 5, batch.state_physical
    assert not mixture.normalize_action(*vectors, batch.state_mask, nothing).any()
    back = mixture.unnormalize_batch_action(batch, batch.action)
    assert np.abs(back - batch.action_physical).max() < 1e-6
    affine = mixture.statistics[batch.norm_key[0]].state.affine("quantile")
    expected = (batch.state_physical[0] - affine.center) / affine.half_range
    assert batch.state[0][:7] == pytest.approx(expected[:7], abs=1e-5)


def test_names_are_dataset_episode_and_step(stream: Stream) -> None:
    batch = stream.batch_at(0)
    assert batch.names[0] == f"{batch.dataset[0]}/{batch.episode_id[0]}/{batch.step[0]}"
    assert stream.names(stream.samples(0, 32)) == batch.names


def test_idle_steps_are_never_drawn_but_stay_in_chunks(stream: Stream) -> None:
    samples = stream.samples(0, 3000)
    in_a = stream.index.table[samples.episode] == 0
    assert not np.isin(samples.step[in_a], [0, 3]).any()
    assert set(samples.step[in_a]) == {1, 2, 4, 5, 6, 7, 8, 9, 10, 11}


def test_validation_episodes_never_train(mixture: Mixture, stream: Stream) -> None:
    with Stream(mixture, batch_size=4, split="validation") as validation:
        held = {row.episode_id for row in validation.episodes()}
        assert len(held) == len(mixture.groups) == 3
        assert {name.split("/")[1] for name in validation.names(validation.samples(0, 500))} == held
    assert held.isdisjoint({row.episode_id for row in stream.episodes()})
    assert len(held) + len(stream.episodes()) == 14


@pytest.mark.parametrize(("hosts", "threads", "size"), [(1, 1, 24), (2, 3, 32), (5, 2, 40), (64, 1, 64)])
def test_hosts_threads_and_batch_size_do_not_change_the_order(
    mixture: Mixture, stream: Stream, hosts: int, threads: int, size: int
) -> None:
    expected = [row for start in range(960, 960 + 5 * 32, 32) for row in rows(stream.batch_at(start))][: 3 * size]
    found: list[tuple[object, ...]] = []
    streams = [
        Stream(mixture, batch_size=size, host_index=host, host_count=hosts, threads=threads) for host in range(hosts)
    ]
    for start in range(960, 960 + len(expected) // size * size, size):
        for one in streams:
            found += rows(one.batch_at(start))
    for one in streams:
        one.close()
    assert len(found) >= 64
    assert found == expected[: len(found)]


def test_resuming_anywhere_gives_the_rest_of_the_stream(mixture: Mixture) -> None:
    with Stream(mixture, batch_size=8) as first, Stream(mixture, batch_size=8) as second:
        whole = list(first.batches(start=1000, stop=1040))
        assert [batch.next_position for batch in whole] == [1008, 1016, 1024, 1032, 1040]
        rest = list(second.batches(start=whole[1].next_position, stop=1040))
        assert [rows(batch) for batch in rest] == [rows(batch) for batch in whole[2:]]


def test_each_of_several_hosts_goes_on_where_the_whole_batch_ended(mixture: Mixture) -> None:
    for host in range(2):
        with Stream(mixture, batch_size=8, host_index=host, host_count=2) as stream:
            batches = list(stream.batches(start=1000, stop=1024))
        assert [batch.next_position for batch in batches] == [1008, 1016, 1024]  # not by this host's four rows
        assert [batch.position.tolist()[0] for batch in batches] == [1000 + 4 * host, 1008 + 4 * host, 1016 + 4 * host]


def test_texts_follow_the_rule_and_the_position(stream: Stream, mixture: Mixture) -> None:
    batches = [stream.batch_at(start) for start in range(0, 640, 32)]
    segment = np.concatenate([batch.is_segment_text for batch in batches])
    texts = [text for batch in batches for text in batch.language]
    assert segment.mean() == pytest.approx(0.5, abs=4 * np.sqrt(0.25 / 640))
    assert {text.split()[0] for text, is_segment in zip(texts, segment, strict=True) if is_segment} == {
        "reach",
        "close",
    }
    assert {text for text, is_segment in zip(texts, segment, strict=True) if not is_segment} == {
        "fold the shirt",
        "fold it",
    }


def test_the_pictures_of_a_camera_lie_side_by_side(stream: Stream) -> None:
    batch = stream.batch_at(0)
    assert all(batch.images[:, camera].flags.c_contiguous for camera in range(3))


def test_a_picture_buffer_is_used_again_only_when_nobody_holds_it(mixture: Mixture) -> None:
    with Stream(mixture, batch_size=4) as stream:
        batches = stream.batches(prefetch=1)
        view = next(batches).images[1:2, 0]
        copy = view.copy()
        for _ in range(12):
            next(batches)
        assert np.array_equal(view, copy)
        assert stream._pool.n_made <= 5


@pytest.mark.parametrize(
    ("is_remote", "size", "expected"), [(False, 64, 2), (True, 64, 5), (True, 2048, 3), (False, 4096, 1)]
)
def test_batches_ahead_keep_a_store_busy_and_fit_into_memory(
    mixture: Mixture, is_remote: bool, size: int, expected: int
) -> None:
    with Stream(mixture, batch_size=size) as stream:
        stream._is_remote = is_remote
        assert stream.default_prefetch == expected


def test_groups_restrict_the_draws(mixture: Mixture) -> None:
    with Stream(mixture, batch_size=4, groups=["sort@arx"]) as stream:
        assert set(stream.samples(0, 200).group) == {mixture.group_index("sort@arx")}
        assert stream.n_samples == mixture.groups[mixture.group_index("sort@arx")].n_steps == 30


def test_gather_reads_the_samples_asked_for(stream: Stream) -> None:
    row = stream.episodes()[4]
    batch = stream.gather([row.row, row.row], [5, 2])
    assert batch.names == [f"{row.dataset}/{row.episode_id}/5", f"{row.dataset}/{row.episode_id}/2"]
    assert batch.position.tolist() == [-1, -1]


@pytest.mark.parametrize(("episode", "step"), [(99, 0), (0, 12), (0, -1)])
def test_gather_refuses_what_is_not_there(stream: Stream, episode: int, step: int) -> None:
    with pytest.raises(UsageError, match="expected a (row of the 11 episodes|step below 12 of episode 0), found"):
        stream.gather([episode], [step])


def test_a_split_without_episodes_and_an_unknown_group_are_refused(folder: Path, mixture: Mixture) -> None:
    spec = write_spec(folder, "datasets: [{path: a/1.0.0}]\n", "plain.yaml")
    plain = open_mixture(spec, cache=folder / "cache")
    with pytest.raises(UsageError, match="'validation' holds no episodes to draw. Give `validation:"):
        Stream(plain, batch_size=2, split="validation")
    with pytest.raises(UsageError, match="no group 'sort@arz'. Did you mean 'sort@arx'"):
        Stream(mixture, batch_size=2, groups=["sort@arz"])
    with pytest.raises(UsageError, match="3 hosts divide"):
        Stream(mixture, batch_size=4, host_count=3)


def test_a_corrupt_picture_fails_by_name(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path, "a", [make_episode(0)], n_shards=1)
    mixture = open_mixture(write_spec(tmp_path, "datasets: [{path: a/1.0.0}]\n"), cache=tmp_path / "cache")
    (table,) = mixture.tables
    with open(folder / "a-train.tfrecord-00000-of-00001", "r+b") as file:
        file.seek(table.image_base[0, 0] + table.image_start[7, 0])
        file.write(b"\0" * 100)
    with Stream(mixture, batch_size=1) as stream, pytest.raises(FailedWork) as caught:
        stream.gather([0], [7])
    assert "corrupt JPEG of base_0_rgb in sample a/" in str(caught.value)
    assert "tfrecord-00000-of-00001" in str(caught.value) and "/7: " in str(caught.value)


def test_a_corrupt_picture_is_black_masked_and_named_where_the_spec_says_so(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path, "a", [make_episode(0)], n_shards=1)
    body = "corrupt_images: black\ndatasets: [{path: a/1.0.0}]\n"
    mixture = open_mixture(write_spec(tmp_path, body), cache=tmp_path / "cache")
    (table,) = mixture.tables
    with open(folder / "a-train.tfrecord-00000-of-00001", "r+b") as file:
        file.seek(table.image_base[0, 0] + table.image_start[7, 0])
        file.write(b"\0" * 100)
    with Stream(mixture, batch_size=1) as stream:
        batch = stream.gather([0, 0], [7, 8])
        assert batch.camera_mask.tolist() == [[False, True, False], [True, True, False]]
        assert batch.images[0, 0].max() == 0 and batch.images[1, 0].max() > 0
        assert len(stream.corrupt) == 1 and "base_0_rgb in sample a/" in stream.corrupt[0]
        assert stream.gather([0], [7]).camera_mask.tolist() == [[False, True, False]]


def test_a_shard_that_vanishes_or_shrinks_under_an_open_stream_fails_by_name(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path, "a", [make_episode(0)], n_shards=1)
    mixture = open_mixture(write_spec(tmp_path, "datasets: [{path: a/1.0.0}]\n"), cache=tmp_path / "cache")
    shard = folder / "a-train.tfrecord-00000-of-00001"
    shard.write_bytes(shard.read_bytes()[:2000])
    with Stream(mixture, batch_size=1) as stream, pytest.raises(FailedWork, match="changed under its index"):
        stream.batch_at(0)
    shard.unlink()
    with Stream(mixture, batch_size=1) as stream, pytest.raises(FailedWork, match="expected a readable shard"):
        stream.batch_at(0)


@pytest.mark.parametrize(("slow_s", "expected"), [(-1.0, 4), (1e9, 0)])
def test_a_slow_first_read_has_the_disk_bring_all_pictures_of_the_task(
    folder: Path, mixture: Mixture, monkeypatch: pytest.MonkeyPatch, slow_s: float, expected: int
) -> None:
    asked: list[tuple[str, int, int]] = []
    monkeypatch.setattr(pictures, "SLOW_READ_S", slow_s)
    monkeypatch.setattr(OpenShards, "expect", lambda self, *range: asked.append(range))
    with Stream(mixture, batch_size=1, threads=1) as stream:
        batch = stream.gather([0, 1], [2, 4])
        table = mixture.tables[0]
        lengths = [table.image_length[table.first_step[row] + step] for row, step in ((0, 2), (1, 4))]
    assert len(asked) == expected and batch.camera_mask.sum() == 4
    assert [length for _, _, length in asked] == np.concatenate(lengths)[batch.camera_mask.ravel()].tolist()[:expected]


def test_threads_take_short_turns_while_a_stream_reads_and_only_then(mixture: Mixture) -> None:
    before = sys.getswitchinterval()
    sys.setswitchinterval(0.005)
    try:
        with Stream(mixture, batch_size=2) as one, Stream(mixture, batch_size=2) as other:
            one.batch_at(0), other.batch_at(0)
            assert sys.getswitchinterval() == pytest.approx(0.0005)
        assert sys.getswitchinterval() == pytest.approx(0.005)
        sys.setswitchinterval(1e-5)
        with Stream(mixture, batch_size=2) as one:
            one.batch_at(0)
            assert sys.getswitchinterval() == pytest.approx(1e-5)
    finally:
        sys.setswitchinterval(before)


def test_pictures_of_another_size_are_letterboxed() -> None:
    for height, width, size in ((100, 200, (112, 224)), (300, 300, (224, 224)), (448, 224, (224, 112))):
        image = np.full((224, 224, 3), 7, np.uint8)
        white = np.full((height, width, 3), 255, np.uint8)
        _decode_into(simplejpeg.encode_jpeg(white), image)
        assert (image.max(axis=2) > 250).sum() == size[0] * size[1]
        assert (image.min(axis=2) < 5).sum() == 224 * 224 - size[0] * size[1]


def test_processes_that_take_turns_draw_every_batch_once(stream: Stream) -> None:
    whole = [batch.position[0] for batch in stream.batches(stop=160)]
    turns = [[batch.position[0] for batch in stream.batches(32 * i, 160, every=2)] for i in (0, 1)]
    assert whole == [0, 32, 64, 96, 128]
    assert turns == [[0, 64, 128], [32, 96]]


def test_samples_at_any_positions_are_those_of_the_order(stream: Stream) -> None:
    batch = stream.batch_at(0)
    found = stream.batch_of([5, 5000, 2])
    for name in ("position", "images", "state", "action", "camera_mask"):
        np.testing.assert_array_equal(getattr(found, name)[[0, 2]], getattr(batch, name)[[5, 2]])
    assert [found.language[0], found.language[2]] == [batch.language[5], batch.language[2]]
    assert found.names[1] == stream.names(stream.samples(5000, 1))[0]
    assert found.next_position == -1
    with pytest.raises(UsageError, match="0 or more; found -1"):
        stream.batch_of([3, -1])
