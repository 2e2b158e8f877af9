"""One training step: what is weighted, what is drawn, and that parts of a batch add up to the whole."""

import dataclasses
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from model import policy
from pipelines.contract.errors import UsageError
from tests.support.inputs.toy_mixture import ToyStream, open_toy_mixture, quick_compilation, settings
from trainers.batches import build_batcher, chain_names
from trainers.config import OptimizerConfig, RunConfig, resolve_config
from trainers.optimizer import learning_rate, merge_params, move_average, split_params
from trainers.step import StepReport, TrainBatch, TrainState, build_train_step, draw_noise, element_weights, new_state

pytestmark = pytest.mark.usefixtures("quick_compilation")
__all__ = ["quick_compilation"]
PEAK = {"learning_rate": 1.0, "final_learning_rate": 0.1, "warmup_steps": 3, "decay_steps": 7, "ema_decay": 0.9}


def config_of(**changes: object) -> RunConfig:
    return resolve_config(
        stage="pretrain",
        mixture=Path("toy.yaml"),
        horizon=4,
        cameras=("base_0_rgb",),
        overrides=settings(batch_size=4, **changes),
    )


@pytest.fixture(scope="module")
def toy_batch(tmp_path_factory: pytest.TempPathFactory) -> TrainBatch:
    path = tmp_path_factory.mktemp("toy") / "toy.yaml"
    path.write_text("toy")
    return build_batcher(config_of())(ToyStream(open_toy_mixture(path), batch_size=4).batch_at(0))


def first_step(config: RunConfig, batch: TrainBatch) -> tuple[TrainState, StepReport]:
    return compiled_step(config)(new_state(config, first_params()), batch, jax.random.key(7), 0.01)


@cache
def compiled_step(config: RunConfig) -> Callable[..., tuple[TrainState, StepReport]]:
    return jax.jit(build_train_step(config))


@cache
def first_params() -> Any:
    return policy.init_params(config_of().policy, jax.random.key(0))


def test_masked_weights_share_each_step_out_among_the_robots_slots() -> None:
    action_mask = np.array([[True, True, False, False], [False, False, False, True]])
    chunk_mask = np.array([[True, True, False], [True, False, False]])
    weights = element_weights("masked", action_mask, chunk_mask)
    np.testing.assert_array_equal(
        weights,
        [
            [[0.5, 0.5, 0, 0], [0.5, 0.5, 0, 0], [0, 0, 0, 0]],
            [[0, 0, 0, 1], [0, 0, 0, 0], [0, 0, 0, 0]],
        ],
    )


def test_openpi_weights_are_ones_for_padded_slots_and_steps_too() -> None:
    weights = element_weights("openpi", np.zeros((1, 2), bool), np.zeros((1, 3), bool))
    np.testing.assert_array_equal(weights, np.ones((1, 3, 2)))


def test_the_masked_loss_gives_no_noise_to_slots_that_a_robot_lacks(toy_batch: TrainBatch) -> None:
    noise, time = draw_noise(jax.random.key(0), toy_batch, "masked")
    present = np.asarray(noise != 0).any(axis=1)
    np.testing.assert_array_equal(present, toy_batch.action_mask)
    assert time.shape == (4,)


def test_noise_follows_from_the_seed_and_the_step(toy_batch: TrainBatch) -> None:
    config = config_of()
    once, twice = first_step(config, toy_batch), first_step(config, toy_batch)
    assert float(once[1].loss) == float(twice[1].loss)
    jax.tree.map(np.testing.assert_array_equal, once[0].trained, twice[0].trained)


def test_a_batch_in_two_parts_gives_the_gradients_of_the_whole(toy_batch: TrainBatch) -> None:
    (_, whole), (_, parts) = (first_step(config_of(accumulate=n), toy_batch) for n in (1, 2))
    assert float(parts.loss) == pytest.approx(float(whole.loss), rel=1e-5)
    assert float(parts.grad_norm) == pytest.approx(float(whole.grad_norm), rel=1e-5)
    np.testing.assert_allclose(parts.sample_loss, whole.sample_loss, rtol=1e-5)


def test_frozen_parameters_stay_and_the_others_move(toy_batch: TrainBatch) -> None:
    config = config_of(freeze=["*/img/*"])
    before = first_params()
    after = first_step(config, toy_batch)[0].params
    jax.tree.map(np.testing.assert_array_equal, after["PaliGemma"]["img"], before["PaliGemma"]["img"])
    moved = np.abs(after["action_out_proj"]["kernel"] - before["action_out_proj"]["kernel"]).max()
    assert moved == pytest.approx(0.01, rel=0.01)  # Adam's first step is the learning rate


def test_each_step_draws_its_own_noise_and_the_same_step_the_same(toy_batch: TrainBatch) -> None:
    state, step = new_state(config_of(), first_params()), compiled_step(config_of())

    def loss_at(number: int, seed: int) -> float:
        at_step = dataclasses.replace(state, step=np.int32(number))
        return float(step(at_step, toy_batch, jax.random.key(seed), 0.0)[1].loss)

    assert loss_at(0, seed=7) == loss_at(0, seed=7)
    assert len({loss_at(number, seed=7) for number in range(4)}) == 4  # else every step would learn one noise
    assert loss_at(0, seed=7) != loss_at(0, seed=8)


def test_the_rate_climbs_in_a_line_falls_as_a_cosine_and_stays() -> None:
    rates = [learning_rate(OptimizerConfig(**PEAK), step) for step in range(9)]
    np.testing.assert_allclose(rates, [0.25, 0.5, 0.75, 1.0, 0.868198, 0.55, 0.231802, 0.1, 0.1], atol=1e-6)


@pytest.mark.shared
@pytest.mark.parametrize(("schedule", "peak"), [("cosine", 2.5e-5), ("rsqrt", 5e-5)])
def test_the_rates_are_those_recorded_of_openpi(shared: Path, schedule: Any, peak: float) -> None:
    recorded = np.load(shared / "goldens/openpi/lr_schedules.npz")
    config = OptimizerConfig(
        schedule=schedule,
        learning_rate=peak,
        final_learning_rate=2.5e-6,
        warmup_steps=1000,
        decay_steps=30_000,
        ema_decay=0.99,
    )
    rates = [learning_rate(config, int(step)) for step in recorded["steps"]]
    np.testing.assert_allclose(rates, recorded[f"{schedule}_default"], rtol=2e-5)  # recorded in float32


def test_the_moving_average_forgets_its_start_quickly() -> None:
    average = move_average({"a": np.float32(0.0)}, {"a": np.float32(1.0)}, 0.99, np.int32(0))
    assert float(average["a"]) == pytest.approx(0.9)  # decay (1 + 0)/(10 + 0)
    late = move_average({"a": np.float32(0.0)}, {"a": np.float32(1.0)}, 0.99, np.int32(10_000))
    assert float(late["a"]) == pytest.approx(0.01, abs=1e-4)


def test_splitting_and_merging_parameters_is_a_round_trip() -> None:
    params = {"img": {"a": 1, "b": 2}, "out": 3}
    trained, frozen = split_params(params, ("img/a",))
    assert (trained, frozen) == ({"img": {"a": None, "b": 2}, "out": 3}, {"img": {"a": 1, "b": None}, "out": None})
    assert merge_params(trained, frozen) == params


def test_a_freeze_pattern_that_matches_nothing_is_an_error() -> None:
    with pytest.raises(UsageError, match="'imge' matches no parameter. Did you mean 'img'"):
        split_params({"img": 1, "out": 2}, ("imge",))
    with pytest.raises(UsageError, match="leaves no parameter to train"):
        split_params({"img": 1}, ("*",))


def test_a_pattern_after_an_exclamation_mark_trains_all_the_same() -> None:
    params = {"llm": {"w": 1, "lora_a": 2}, "out": 3}
    trained, _ = split_params(params, ("llm/*", "!*lora*"))
    assert trained == {"llm": {"w": None, "lora_a": 2}, "out": 3}
    with pytest.raises(UsageError, match="'!lara' matches no parameter"):
        split_params(params, ("llm/*", "!lara"))


def test_equal_chains_mean_equal_names_in_equal_order() -> None:
    first = chain_names("", ["a", "b"])
    assert chain_names(first, ["c"]) != chain_names(chain_names("", ["b", "a"]), ["c"])
    assert chain_names(first, ["c"]) == chain_names(chain_names("", ["a", "b"]), ["c"])
