"""Checkpoints: the round trip, which ones stay, and damage that is found rather than trained on."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.published.export import read_trained
from pipelines.contract.errors import FailedWork, UsageError
from tests.support.inputs.toy_mixture import file_size_limit
from tests.support.waiting import wait_for
from trainers.checkpoint import Checkpoints, Progress, _device_bit_sum, bit_sum
from trainers.config import CheckpointConfig
from trainers.step import TrainState


def saved(checkpoints: Checkpoints, *values: float) -> None:
    for value in values:
        checkpoints.save(state_of(value), progress_at(int(value)))
    checkpoints.finish()


def state_of(value: float) -> TrainState:
    value = float(value)
    return TrainState(
        step=jnp.asarray(int(value), jnp.int32),
        trained={"a": jax.random.normal(jax.random.key(int(value)), (64, 64)), "b": None},
        frozen={"a": None, "b": jnp.arange(3.0)},
        optimizer=(jnp.full((64, 64), 2 * value), None),
        ema={"a": jnp.full((64, 64), 3 * value), "b": None},
    )


def progress_at(step: int) -> Progress:
    return Progress(step=step, position=32 * step, batches="chain", draws={"push": step})


@pytest.fixture
def checkpoints(tmp_path: Path) -> Iterator[Checkpoints]:
    opened = Checkpoints(tmp_path / "checkpoints", CheckpointConfig(every=1, keep=2))
    yield opened
    opened.close()


def largest_file(directory: Path) -> Path:
    return max((path for path in directory.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


def test_a_checkpoint_holds_state_and_progress_together(checkpoints: Checkpoints) -> None:
    saved(checkpoints, 5)
    state, progress = checkpoints.restore(5, state_of(0.0))
    assert progress == progress_at(5)
    jax.tree.map(np.testing.assert_array_equal, state, state_of(5.0))


def test_the_parameters_to_act_with_are_read_without_the_optimizer(checkpoints: Checkpoints) -> None:
    saved(checkpoints, 5)
    state = checkpoints.restore_best(5, state_of(0.0))
    assert state.optimizer is None
    assert float(state.best_params["a"][0, 0]) == 15.0
    np.testing.assert_array_equal(state.best_params["b"], [0.0, 1.0, 2.0])


def test_the_newest_stay_and_so_do_multiples_to_keep(tmp_path: Path) -> None:
    opened = Checkpoints(tmp_path / "checkpoints", CheckpointConfig(every=1, keep=1, keep_every=2))
    saved(opened, 1, 2, 3, 5)
    assert opened.steps() == [2, 5]
    opened.close()


def test_without_a_checkpoint_there_is_nothing_to_restore(checkpoints: Checkpoints) -> None:
    assert checkpoints.restore_newest(state_of(0.0)) is None


@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_a_damaged_newest_checkpoint_falls_back_loudly(
    checkpoints: Checkpoints, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    saved(checkpoints, 1, 2)
    path = largest_file(checkpoints.directory / "2")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    {
        "flip": lambda: path.write_bytes(content),
        "cut": lambda: path.write_bytes(content[: len(content) // 2]),
        "remove": path.unlink,
    }[damage]()
    restored = checkpoints.restore_newest(state_of(0.0))
    assert restored is not None and restored[1].step == 1
    assert "checkpoint 2" in capsys.readouterr().err
    assert checkpoints.steps() == [1]
    assert (checkpoints.directory.parent / "checkpoints-damaged" / "2").is_dir()
    saved(checkpoints, 2)  # the place is free again
    assert checkpoints.steps() == [1, 2]


def test_a_checkpoint_of_another_model_is_named_and_stays(checkpoints: Checkpoints) -> None:
    saved(checkpoints, 1)
    message = r"of another model .* trained a: expected float32\[512, 512\]; found float32\[64, 64\]"
    for restore in (checkpoints.restore_newest, lambda like: checkpoints.restore_best(1, like)):
        with pytest.raises(UsageError, match=message):
            restore(large_state(0.0))
    assert checkpoints.steps() == [1]


def test_when_all_are_damaged_nothing_starts_over(checkpoints: Checkpoints) -> None:
    saved(checkpoints, 1)
    largest_file(checkpoints.directory / "1").write_bytes(b"")
    with pytest.raises(FailedWork, match="no checkpoint can be read: checkpoint 1 in .* is damaged"):
        checkpoints.restore_newest(state_of(0.0))


def large_state(value: float) -> TrainState:
    return state_of(value).replace(trained={"a": jax.random.normal(jax.random.key(0), (512, 512)), "b": None})


def test_a_full_disk_fails_by_name_and_keeps_what_was_there(checkpoints: Checkpoints) -> None:
    saved(checkpoints, 1)
    with file_size_limit(100_000), pytest.raises(FailedWork, match="checkpoint 2 was not saved .* Make room and give"):
        checkpoints.save(large_state(2.0), progress_at(2))
        checkpoints.finish()
    assert (checkpoints.steps(), checkpoints.newest) == ([1], 1)
    assert checkpoints.restore(1, state_of(0.0))[1].step == 1
    saved(checkpoints, 2)  # there is room again
    assert checkpoints.steps() == [1, 2]


def test_a_full_disk_comes_up_at_the_next_save_and_is_not_lost_at_the_end(
    checkpoints: Checkpoints, capsys: pytest.CaptureFixture[str]
) -> None:
    with file_size_limit(100_000):
        checkpoints.save(large_state(1.0), progress_at(1))
        with pytest.raises(FailedWork, match="checkpoint 1 was not saved"):
            checkpoints.save(state_of(2.0), progress_at(2))
        checkpoints.save(large_state(3.0), progress_at(3))
        checkpoints.close()
    assert "WARNING: checkpoint 3 was not saved" in capsys.readouterr().err


def test_steps_that_follow_at_once_leave_what_is_being_written_alone(checkpoints: Checkpoints) -> None:
    """The step's buffers are donated to the next one while the checkpoint is still being written."""
    state = large_state(1.0)
    expected = np.array(state.trained["a"])
    checkpoints.save(state, progress_at(1))
    overwrite = jax.jit(lambda array: array * 0 - 7, donate_argnums=0)
    moved = state.trained["a"]
    for _ in range(5):
        moved = overwrite(moved)
    jax.block_until_ready(moved)
    checkpoints.finish()
    restored, _ = checkpoints.restore(1, large_state(0.0))
    np.testing.assert_array_equal(restored.trained["a"], expected)


def test_the_bit_sum_sees_any_flipped_bit_and_no_order() -> None:
    values = np.array([1.0, 2.0, 3.0], np.float32)
    assert bit_sum({"a": jnp.asarray(values)}) == 0x3F800000 + 0x40000000 + 0x40400000
    flipped = values.copy()
    flipped.view(np.uint32)[1] ^= 1
    assert bit_sum({"a": jnp.asarray(values[::-1].copy())}) == bit_sum({"a": jnp.asarray(values)})
    assert bit_sum({"a": jnp.asarray(flipped)}) != bit_sum({"a": jnp.asarray(values)})


def test_the_bit_sum_on_a_device_is_that_of_the_host() -> None:
    tree = [jax.random.normal(jax.random.key(0), (300, 7)), jnp.full((5,), -1, jnp.int32), jnp.ones((3,), jnp.bfloat16)]
    assert int(_device_bit_sum(tree)) == bit_sum(tree)


def progress_file(checkpoints: Checkpoints, step: int) -> Path:
    return checkpoints.directory / str(step) / "progress" / "metadata"


def test_any_flipped_digit_of_the_progress_or_the_array_table_is_found(checkpoints: Checkpoints) -> None:
    saved(checkpoints, 57)
    path = progress_file(checkpoints, 57)
    whole = path.read_bytes()
    digits = [k for k, byte in enumerate(whole) if chr(byte).isdigit()]
    assert len(digits) > 60
    for k in digits:
        flipped = bytes([whole[k] ^ 1])
        path.write_bytes(whole[:k] + flipped + whole[k + 1 :])
        with pytest.raises(FailedWork, match="checkpoint 57 in .* is damaged"):
            checkpoints.restore(57, state_of(0.0))
    path.write_bytes(whole)
    assert checkpoints.restore(57, state_of(0.0))[1] == progress_at(57)


def test_a_checkpoint_from_before_the_digest_is_read(checkpoints: Checkpoints) -> None:
    saved(checkpoints, 5)
    path = progress_file(checkpoints, 5)
    content = json.loads(path.read_text())
    del content["digest"]
    path.write_text(json.dumps(content))
    assert checkpoints.restore(5, state_of(0.0))[1] == progress_at(5)


def test_a_reader_leaves_the_unfinished_checkpoint_of_a_running_trainer_alone(checkpoints: Checkpoints) -> None:
    saved(checkpoints, 1)
    unfinished = checkpoints.directory / "2.orbax-checkpoint-tmp"
    unfinished.mkdir()
    (unfinished / "array").write_bytes(b"half")
    before = sorted(path for path in checkpoints.directory.rglob("*"))
    reader = Checkpoints(checkpoints.directory)
    assert reader.steps() == [1]
    assert float(reader.restore_best(1, state_of(0.0)).best_params["a"][0, 0]) == 3.0
    reader.close()
    assert sorted(path for path in checkpoints.directory.rglob("*")) == before
    Checkpoints(checkpoints.directory, CheckpointConfig(every=1, keep=2)).close()  # a trainer that resumes
    wait_for(lambda: not unfinished.exists())  # Orbax removes it from a thread of its own.


def test_an_export_refuses_arrays_that_are_not_those_of_the_run(checkpoints: Checkpoints) -> None:
    saved(checkpoints, 5)
    run = checkpoints.directory.parent
    step, arrays = read_trained(run)
    assert (step, sorted(arrays), arrays["a"][0, 0]) == (5, ["a", "b"], 15.0)
    path = progress_file(checkpoints, 5)
    content = json.loads(path.read_text())
    content["bit_sums"]["ema"] ^= 1
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="5/ema: expected the arrays that the run saved; found others"):
        read_trained(run)


def test_a_run_whose_checkpoints_are_gone_does_not_start_over(checkpoints: Checkpoints) -> None:
    saved(checkpoints, 5)
    checkpoints.close()
    shutil.rmtree(checkpoints.directory)
    again = Checkpoints(checkpoints.directory, CheckpointConfig(every=1, keep=2))
    with pytest.raises(FailedWork, match=r"expected the checkpoint of step 5, which this run saved; found none"):
        again.restore_newest(state_of(0.0))
    again.close()


def test_a_missing_newest_checkpoint_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoints = Checkpoints(tmp_path / "kept", CheckpointConfig(every=1, keep=3))
    saved(checkpoints, 3, 4, 5)
    checkpoints.close()
    shutil.rmtree(checkpoints.directory / "5")
    again = Checkpoints(checkpoints.directory, CheckpointConfig(every=1, keep=3))
    restored = again.restore_newest(state_of(0.0))
    again.close()
    assert restored is not None and restored[1].step == 4
    assert "checkpoint 5 is gone; resuming from 4" in capsys.readouterr().err
