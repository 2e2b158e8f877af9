"""The PyTorch datasets: one global order for any workers and ranks, and resuming on others, against one stream."""

import pickle
from collections.abc import Iterable
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra `torch`")

from torch.utils.data import DataLoader, SequentialSampler  # noqa: E402

from mixtures.mixture import Mixture, open_mixture  # noqa: E402
from mixtures.stream.batches import Batch, Stream  # noqa: E402
from mixtures.torch.datasets import StreamDataset, StreamSamples, share_of_cores  # noqa: E402
from mixtures.torch.tensors import batch_tensors  # noqa: E402
from pipelines.contract.errors import UsageError  # noqa: E402
from tests.support.inputs.mixture_data import make_episode, write_dataset, write_spec  # noqa: E402

SPEC = "seed: 3\nweighting: {alpha: 0.43}\ndatasets: [{path: a/1.0.0}]\naction: {horizon: 6}\n"
BATCH, STOP = 4, 40


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("torch")
    write_dataset(root, "a", [make_episode(i) for i in range(6)])
    write_spec(root, SPEC)
    return root


@pytest.fixture(scope="module")
def opener(folder: Path) -> partial[Mixture]:
    return partial(open_mixture, folder / "mixture.yaml", cache=folder / "cache")


@pytest.fixture(scope="module")
def truth(opener: partial[Mixture]) -> list[Batch]:
    """What one stream in one process draws."""
    with Stream(opener(), batch_size=BATCH) as stream:
        return list(stream.batches(stop=STOP))


def names(batches: Iterable[Any]) -> list[str]:
    return [name for batch in batches for name in batch["names"]]


def names_of(truth: list[Batch]) -> list[str]:
    return [name for batch in truth for name in batch.names]


@pytest.mark.parametrize("workers", [0, 1, 2, 3])
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_any_number_of_workers_yields_the_streams_order(
    opener: partial[Mixture], truth: list[Batch], workers: int
) -> None:
    loader = DataLoader(StreamDataset(opener, batch_size=BATCH, stop=STOP), batch_size=None, num_workers=workers)
    assert names(loader) == names_of(truth)
    assert len(loader) == 10


def test_every_field_equals_the_streams_to_the_bit(opener: partial[Mixture], truth: list[Batch]) -> None:
    loader = DataLoader(StreamDataset(opener, batch_size=BATCH, stop=STOP), batch_size=None, num_workers=2)
    for drawn, batch in zip(loader, truth, strict=True):
        for field in fields(Batch):
            expected = getattr(batch, field.name)
            found = drawn[field.name]
            if isinstance(expected, np.ndarray):
                assert found.numpy().dtype == expected.dtype
                np.testing.assert_array_equal(found.numpy(), expected)
            else:
                assert found == expected


def test_a_spawned_worker_opens_its_own_mixture(opener: partial[Mixture], truth: list[Batch]) -> None:
    dataset = pickle.loads(pickle.dumps(StreamDataset(opener, batch_size=BATCH, stop=STOP)))
    assert "mixture" not in vars(dataset.source)
    assert names(DataLoader(dataset, batch_size=None)) == names_of(truth)


def test_ranks_share_the_rows_of_every_batch(opener: partial[Mixture], truth: list[Batch]) -> None:
    ranks = [StreamDataset(opener, batch_size=BATCH, stop=STOP, rank=rank, world_size=2) for rank in (0, 1)]
    drawn = zip(*[DataLoader(rank, batch_size=None) for rank in ranks], strict=True)
    assert names(batch for pair in drawn for batch in pair) == names_of(truth)


@pytest.mark.parametrize(("before", "after"), [(2, 2), (2, 3), (3, 0), (0, 2)])
@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_a_stateful_loader_resumes_on_any_number_of_workers(
    opener: partial[Mixture], truth: list[Batch], before: int, after: int, every: int
) -> None:
    loaders = pytest.importorskip("torchdata.stateful_dataloader", reason="needs torchdata")

    def load(dataset: StreamDataset, workers: int) -> Any:
        return loaders.StatefulDataLoader(dataset, batch_size=None, num_workers=workers, snapshot_every_n_steps=every)

    loader = load(StreamDataset(opener, batch_size=BATCH, stop=STOP), before)
    batches = iter(loader)
    first = names(next(batches) for _ in range(5))
    state = loader.state_dict()
    resumed = StreamDataset(opener, batch_size=BATCH, stop=STOP)
    if before == after:
        again = load(resumed, after)
        again.load_state_dict(state)
    else:
        resumed.load_state_dict(state)
        again = load(resumed, after)
    assert first + names(again) == names_of(truth)


def test_a_state_continues_with_other_ranks_and_sizes(opener: partial[Mixture], truth: list[Batch]) -> None:
    batches = iter(StreamDataset(opener, batch_size=BATCH, rank=1, world_size=2))
    for _ in range(3):
        next(batches)
    resumed = StreamDataset(opener, batch_size=7, stop=STOP)
    resumed.load_state_dict(batches.state_dict())
    assert resumed.position == 12
    assert names(resumed) == names_of(truth)[12:40]


@pytest.mark.parametrize("change", [{"seed": 4}, {"split": "validation"}, {"lock": "0"}])
def test_the_state_of_another_order_is_refused(opener: partial[Mixture], change: dict[str, Any]) -> None:
    dataset = StreamDataset(opener, batch_size=BATCH)
    with pytest.raises(UsageError, match=f"{next(iter(change))}: expected .* another order of samples"):
        dataset.load_state_dict(dataset.state_dict() | change)


def test_what_is_no_state_is_refused(opener: partial[Mixture]) -> None:
    with pytest.raises(UsageError, match="expected the state of a stream's dataset"):
        StreamDataset(opener, batch_size=BATCH).load_state_dict({"position": 3})


def test_tensors_share_the_streams_memory(opener: partial[Mixture]) -> None:
    batch = next(iter(StreamDataset(opener, batch_size=BATCH, preset=lambda batch: batch)))
    made = batch_tensors(batch)
    for name in ("images", "state", "action", "action_physical", "chunk_mask", "position"):
        assert made[name].data_ptr() == getattr(batch, name).ctypes.data, name


def test_the_map_holds_the_sample_at_each_position(opener: partial[Mixture], truth: list[Batch]) -> None:
    dataset = StreamSamples(opener, n_positions=STOP)
    loader = DataLoader(dataset, batch_size=BATCH, sampler=SequentialSampler(dataset), num_workers=2)
    for drawn, batch in zip(loader, truth, strict=True):
        assert list(drawn["names"]) == batch.names
        np.testing.assert_array_equal(drawn["images"].numpy(), batch.images)
        np.testing.assert_array_equal(drawn["action"].numpy(), batch.action)
    assert dataset[17]["names"] == names_of(truth)[17]
    assert len(dataset) == STOP
    with pytest.raises(IndexError, match="expected a position below 40, found 40"):
        dataset[40]


def test_a_fork_of_a_process_that_read_from_a_store_is_refused(
    opener: partial[Mixture], monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = StreamDataset(opener, batch_size=BATCH)
    next(iter(dataset))
    monkeypatch.setitem(vars(dataset.mixture.tables[0]), "is_remote", True)
    monkeypatch.setattr("os.getpid", lambda: -1)
    with pytest.raises(UsageError, match="multiprocessing_context='spawn'"):
        next(iter(dataset))


def test_the_processes_of_a_host_share_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(16)))
    assert share_of_cores(1) is None
    assert share_of_cores(4) == 5
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert share_of_cores(4) == 3
