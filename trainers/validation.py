"""Flow loss of held-out episodes while a run trains, per group, with the moving average of the parameters."""

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from mixtures.mixture import Mixture
from mixtures.stream.batches import Stream
from model.arrays import Array
from pipelines.contract.errors import UsageError
from trainers.batches import build_batcher
from trainers.config import RunConfig
from trainers.mesh import place_batch, replicated, traced_on
from trainers.step import TrainBatch, TrainState, build_flow_loss


class Validation:
    """Measures a state on the same samples, noise and flow times every time; nothing of the training depends on it."""

    def __init__(self, config: RunConfig, mesh: Mesh, mixture: Mixture) -> None:
        """UsageError if the mixture holds out nothing."""
        self._config, self._mesh, self._mixture = config, mesh, mixture
        self._groups = [group for group in mixture.groups if group.n_validation_episodes]
        if not self._groups:
            raise UsageError(
                "--eval-every: the mixture holds out no episodes; say `validation: {fraction: 0.1, min_per_group: 1}` "
                "in it"
            )
        self._batcher = build_batcher(config)
        flow_loss = build_flow_loss(config)

        def sample_loss(state: TrainState, batch: TrainBatch, key: jax.Array) -> Array:
            return flow_loss(state.best_params, batch, key)

        self._sample_loss = jax.jit(traced_on(mesh, sample_loss), out_shardings=replicated(mesh))

    def measure(self, state: TrainState) -> dict[str, Any]:
        """Returns {"loss": over the groups by their shares, "group_loss": {name: mean}}."""
        key = jax.random.key(self._config.seed)
        losses = {
            group.name: self._group_loss(state, group.name, jax.random.fold_in(key, number))
            for number, group in enumerate(self._groups)
        }
        shares = np.array([group.probability for group in self._groups])
        return {"loss": float(shares @ np.array([*losses.values()]) / shares.sum()), "group_loss": losses}

    def _group_loss(self, state: TrainState, group: str, key: jax.Array) -> float:
        size = self._config.batch_size
        stream = Stream(
            self._mixture,
            batch_size=size,
            split="validation",
            groups=[group],
            host_index=jax.process_index(),
            host_count=jax.process_count(),
        )
        with stream:
            count = min(self._config.eval_samples, stream.n_samples)
            losses = [
                np.asarray(self._sample_loss(state, place_batch(self._mesh, self._batcher(batch)), part))
                for batch, part in zip(stream.batches(start=0, stop=-(-count // size) * size), _keys(key), strict=False)
            ]
        return float(np.concatenate(losses)[:count].mean())


def _keys(key: jax.Array) -> Any:
    number = 0
    while True:
        yield jax.random.fold_in(key, number)
        number += 1
