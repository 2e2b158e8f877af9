"""Memory that workers lend is used again, and never while anything refers to it."""

import gc
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Iterator
from multiprocessing.reduction import ForkingPickler
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch", reason="needs the extra `torch`")

from torch.utils.data import DataLoader, default_convert  # noqa: E402

from mixtures.mixture import Mixture, open_mixture  # noqa: E402
from mixtures.stream.batches import Batch, Stream  # noqa: E402
from mixtures.torch import lending  # noqa: E402
from mixtures.torch.datasets import StreamDataset, as_is  # noqa: E402
from mixtures.torch.lending import held, lender_of_process, lent  # noqa: E402
from pipelines.contract.errors import FailedWork  # noqa: E402
from tests.support.inputs.mixture_data import make_episode, write_dataset, write_spec  # noqa: E402

SPEC = "seed: 3\nweighting: {alpha: 0.43}\ndatasets: [{path: a/1.0.0}]\naction: {horizon: 6}\n"
BATCH, STOP, N = 2, 80, 1 << 20


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Mixture:
    root = tmp_path_factory.mktemp("lending")
    write_dataset(root, "a", [make_episode(i) for i in range(6)])
    return open_mixture(write_spec(root, SPEC), cache=root / "cache")


@pytest.fixture(scope="module")
def truth(mixture: Mixture) -> list[Batch]:
    with Stream(mixture, batch_size=BATCH) as stream:
        return list(stream.batches(stop=STOP))


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> lending.SharedPool:
    """Buffers of one lender of this process, which sends to itself."""
    monkeypatch.setattr(lending, "_own", None)
    return lender_of_process().pool((N,), np.uint8)


def load(mixture: Mixture, workers: int = 2, collate: Any = default_convert, **changes: Any) -> Iterator[Any]:
    dataset = StreamDataset(mixture, batch_size=BATCH, stop=STOP, **changes)
    return iter(DataLoader(dataset, batch_size=None, num_workers=workers, collate_fn=collate))


def filled(pool: lending.SharedPool, value: int) -> NDArray[np.uint8]:
    buffer: NDArray[np.uint8] = pool.take()
    buffer[:] = value
    return buffer


def sent(tree: Any) -> Any:
    """What another process would receive."""
    return ForkingPickler.loads(ForkingPickler.dumps(lent(tree)))


def check(drawn: Any, batch: Batch) -> None:
    for name, found in drawn.items():
        if isinstance(found, torch.Tensor):
            assert type(found) is torch.Tensor, name
            np.testing.assert_array_equal(found.numpy(), getattr(batch, name), err_msg=name)
        else:
            assert found == getattr(batch, name)


def test_batches_that_are_all_held_do_not_change(mixture: Mixture, truth: list[Batch]) -> None:
    for drawn, batch in zip(list(load(mixture)), truth, strict=True):
        check(drawn, batch)


def test_what_is_held_of_a_batch_does_not_change_while_memory_is_used_again(
    mixture: Mixture, truth: list[Batch]
) -> None:
    rows, seen = {}, set()
    for i, drawn in enumerate(load(mixture)):
        seen |= held()
        if i % 7 == 0:
            rows[i] = drawn["images"][1, 0, 3:5].numpy()  # a view of a view
        del drawn
    assert len(rows) == 6 and 6 < len(seen) < 30  # of 40 batches
    for i, found in rows.items():
        np.testing.assert_array_equal(found, truth[i].images[1, 0, 3:5])


def test_a_worker_that_keeps_what_it_sent_may_send_it_again(mixture: Mixture, truth: list[Batch]) -> None:
    before: list[Any] = []

    def with_the_one_before(batch: Batch) -> dict[str, Any]:
        before.append(torch.from_numpy(batch.images))
        return {"images": before[-1], "before": before.pop(0) if len(before) > 1 else torch.zeros(1)}

    pairs = []
    for drawn in load(mixture, workers=1, preset=with_the_one_before):
        pairs.append(drawn["before"])
        del drawn
    for found, batch in zip(pairs[1:], truth, strict=False):
        np.testing.assert_array_equal(found.numpy(), batch.images)


def test_arrays_that_a_preset_makes_are_lent_as_arrays(mixture: Mixture, truth: list[Batch]) -> None:
    loader = load(mixture, preset=lambda b: [{"views": (b.images[:, 0], b.images[:, 1] / 255), "n": 3}], collate=as_is)
    for [drawn], batch in zip(list(loader), truth, strict=True):
        assert [type(view) for view in drawn["views"]] == [np.ndarray, np.ndarray]
        np.testing.assert_array_equal(drawn["views"][0], batch.images[:, 0])
        np.testing.assert_array_equal(drawn["views"][1], batch.images[:, 1] / 255)


def test_a_collation_of_ones_own_makes_plain_tensors(mixture: Mixture, truth: list[Batch]) -> None:
    for drawn, batch in zip(list(load(mixture, collate=lambda made: made["images"].float() + 1)), truth, strict=True):
        np.testing.assert_array_equal(drawn.numpy(), batch.images.astype(np.float32) + 1)


def test_pytorchs_own_way_is_taken_where_asked_for(mixture: Mixture, truth: list[Batch]) -> None:
    drawn = next(load(mixture, lend=False))
    assert not held()
    check(drawn, truth[0])


def test_without_workers_nothing_is_sent(mixture: Mixture) -> None:
    assert type(next(load(mixture, workers=0))["images"]) is torch.Tensor
    assert not held()


def test_memory_comes_back_when_sender_and_receiver_let_go(pool: lending.SharedPool) -> None:
    buffer = filled(pool, 7)
    address = buffer.ctypes.data
    received = sent({"a": torch.from_numpy(buffer), "b": buffer[5:]})
    del buffer
    assert filled(pool, 8).ctypes.data != address
    view = received["b"][1:3]
    del received
    assert filled(pool, 8).ctypes.data != address
    np.testing.assert_array_equal(view, [7, 7])
    del view
    assert address in {each.ctypes.data for each in [filled(pool, 9), filled(pool, 9)]}
    assert not held()


def test_what_nobody_received_is_never_written_to(pool: lending.SharedPool) -> None:
    payload = ForkingPickler.dumps(lent(filled(pool, 7)))
    assert filled(pool, 8)[0] == 8
    np.testing.assert_array_equal(ForkingPickler.loads(payload), np.full(N, 7))


def test_arrays_elsewhere_are_copied_to_memory_that_is_used_again(pool: lending.SharedPool) -> None:
    values = np.arange(N, dtype=np.float32).reshape(-1, 4)[:, ::2]
    for _ in range(5):
        np.testing.assert_array_equal(sent(torch.from_numpy(values)).numpy(), values)
    held_now = [sent(values + i) for i in range(2)]
    assert lender_of_process().n_segments == 2
    np.testing.assert_array_equal(held_now, [values, values + 1])


@pytest.mark.parametrize(
    "value",
    [torch.ones(3), torch.ones(3, 2).T, torch.tensor(2.0), torch.zeros(0, 3), torch.ones(2, dtype=torch.bool)],
)
def test_small_tensors_go_through_the_pipe(pool: lending.SharedPool, value: Any) -> None:
    found = sent(value)
    assert found.dtype == value.dtype and torch.equal(found, value) and not held()


def test_what_cannot_be_lent_stays_as_it_is() -> None:
    for value in (torch.ones(2, requires_grad=True), torch.ones(2, dtype=torch.bfloat16), np.array(["a"]), "text", 3):
        assert lent(value) is value


def test_more_arrays_than_a_segment_counts_are_copied(pool: lending.SharedPool, monkeypatch: Any) -> None:
    monkeypatch.setattr(lending, "MOST_SENT", 2)
    buffer = filled(pool, 7)
    received = [sent(buffer) for _ in range(4)]
    np.testing.assert_array_equal(received, np.full((4, N), 7))
    assert len(held()) == 3


def test_a_fork_keeps_what_its_parent_held(pool: lending.SharedPool) -> None:
    received = [sent(filled(pool, 7))]
    context = multiprocessing.get_context("fork")
    go, answer = context.Event(), context.SimpleQueue()

    def look() -> None:
        go.wait(60)
        answer.put(int(received[0].sum()))

    child = context.Process(target=look)
    child.start()
    received.clear()
    gc.collect()
    assert [filled(pool, 9)[0] for _ in range(4)] == [9] * 4
    go.set()
    assert answer.get() == 7 * N
    child.join()
    assert lender_of_process().n_segments == 1  # the kept one is forgotten


def test_a_forks_copy_does_not_return_what_its_parent_holds(pool: lending.SharedPool) -> None:
    received = [sent(filled(pool, 7))]
    child = multiprocessing.get_context("fork").Process(target=received.clear)
    child.start()
    child.join()
    lending._received[next(iter(held()))].head[lending._KEPT] = 0  # as if the fork had not marked it
    filled(pool, 9)
    assert received[0].sum() == 7 * N


def test_the_batch_of_a_worker_that_ended_is_refused() -> None:
    code = (
        "import numpy as np, sys; from multiprocessing.reduction import ForkingPickler as F;"
        "from mixtures.torch.lending import *;"
        "sys.stdout.buffer.write(F.dumps(lent(lender_of_process().pool((1 << 20,), np.uint8).take())))"
    )
    payload = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=True).stdout
    with pytest.raises(FailedWork, match="a worker ended before its batch was read"):
        ForkingPickler.loads(payload)


def test_memory_of_another_name_is_refused(pool: lending.SharedPool) -> None:
    buffer = filled(pool, 7)
    arguments = lender_of_process().send(buffer)
    assert arguments is not None
    with pytest.raises(FailedWork, match="another process has taken its number"):
        lending.receive(*arguments[:2], os.urandom(16), *arguments[3:])
