"""A trained policy that acts: from one observation of a robot to its next actions in native units."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

from mixtures.actions.normalizer import Normalizer
from model import policy
from model.inputs import observation_from_batch
from model.tokenizer import tokenizer_for
from pipelines.contract.slots import IMAGE_SIZE, N_SLOTS
from pipelines.shards.statistics import load_statistics
from trainers.config import RunConfig
from trainers.evaluation.evaluate import sample_masked
from trainers.robots import Robot, read_robots
from trainers.run import RunDirectory
from trainers.serving.observations import Observation
from trainers.setup import read_best
from trainers.step import TrainBatch


class Actor:
    """A run's newest policy, with what normalizes its inputs and outputs; needs the run directory alone.

    The same seed and the same looks in the same order give the same actions.
    """

    def __init__(self, run: Path, *, flow_steps: int = 10, seed: int = 0) -> None:
        directory = RunDirectory(run)
        self.config, self.step, params = read_best(directory)
        self._params = policy.serving_params(self.config.policy, params)
        self.robots = read_robots(directory.robots_path)
        action = directory.read_lock()["action"]
        self._normalizer = Normalizer(
            statistics=load_statistics(directory.recorded_statistics()),
            mode=action["mode"],
            rotation=action.get("rotation", "euler"),
            parts={key: robot.parts for key, robot in self.robots.items()},
            normalization=action["normalization"],
        )
        self._encode = tokenizer_for(self.config.policy, self.config.tokenizer).encode
        self._sample = jax.jit(partial(sample_masked, self.config, flow_steps=flow_steps))
        self._key = jax.random.key(seed)
        self._number = 0

    @property
    def cameras(self) -> tuple[str, ...]:
        return self.config.cameras

    def state_mask(self, robot: Robot) -> NDArray[np.bool_]:
        """The slots that the robot measured in training, bool [18]."""
        return self._normalizer.statistics[robot.norm_key].state.count > 0

    def action_mask(self, robot: Robot) -> NDArray[np.bool_]:
        """The slots that the robot commands, bool [18]."""
        return self._normalizer.statistics[robot.norm_key].action.count > 0

    def act(self, robot: Robot, look: Observation) -> NDArray[np.float32]:
        """The next chunk, float32 [h, d]: the slots of `action_mask` ascending, absolute, in their units."""
        keys, mask, state = [robot.norm_key], self.action_mask(robot)[None], look.state[None]
        state_mask = self.state_mask(robot)[None]
        normalized = self._normalizer.normalize_state(keys, state, state_mask)
        batch = _as_batch(self.config, look.images, self._encode(look.prompt), normalized, mask)
        action = np.asarray(self._sample(self._params, batch, jax.random.fold_in(self._key, self._number)))
        self._number += 1
        return self._normalizer.unnormalize_action(keys, action, state, state_mask, mask)[0][:, mask[0]]

    def warm_up(self) -> None:
        """Compiles the policy, so that the first robot does not wait for it."""
        black = dict.fromkeys(self.cameras, np.zeros((IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8))
        robot = next(iter(self.robots.values()))
        self.act(robot, Observation(images=black, state=np.zeros(N_SLOTS, np.float32), prompt=""))
        self._number = 0


def _as_batch(
    config: RunConfig,
    images: Mapping[str, NDArray[np.uint8]],
    prompt: tuple[Any, Any],
    state: NDArray[np.float32],
    action_mask: NDArray[np.bool_],
) -> TrainBatch:
    """A batch of one, in the form that the run was trained on: a camera that was not sent is black and masked."""
    black = np.zeros((IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
    horizon = config.policy.horizon
    return TrainBatch(
        observation=observation_from_batch(
            images={camera: images.get(camera, black)[None] for camera in config.cameras},
            image_masks={camera: np.array([camera in images]) for camera in config.cameras},
            tokenized_prompt=prompt[0][None],
            tokenized_prompt_mask=prompt[1][None],
            state=state,
            drop_missing=False,
        ),
        actions=np.zeros((1, horizon, N_SLOTS), np.float32),
        action_mask=action_mask,
        chunk_mask=np.ones((1, horizon), np.bool_),
        stop_signal=np.zeros(1, np.int32),
    )
