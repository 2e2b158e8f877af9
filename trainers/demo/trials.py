"""One world that a policy acts in: how it begins, when it is over, and what came of it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trainers.demo.logs import Series
from trainers.demo.script import draw_scene, first_state
from trainers.demo.world import Body, Scene, State, base_to_world, hand_positions, lifted


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One world that a policy acts in, as it stands now. closest: how near a hand came to each thing so far (m)."""

    scene: Scene
    state: State
    closest: tuple[float, ...]

    @property
    def is_over(self) -> bool:
        """Whether something hangs clear of the table: what was meant, or another thing."""
        return bool(lifted(self.scene, self.state).any())


def new_trial(series: Series, seed: Sequence[int]) -> Trial:
    """A new scene of a series and the robot in it, the same for the same seed."""
    random = np.random.default_rng(list(seed))
    scene, places = draw_scene(series.task, series.colours, random)
    state = first_state(series.body, places, random)
    return Trial(scene=scene, state=state, closest=tuple(distances(series.body, scene, state).tolist()))


def distances(body: Body, scene: Scene, state: State) -> np.ndarray:
    """How far the nearest hand is from a handle of each thing, float64 [items], m."""
    hands = base_to_world(state.base, hand_positions(body, state.joints))
    return np.array(
        [
            min(np.linalg.norm(hands - (place + np.array(handle)), axis=1).min() for handle in item.handles)
            for item, place in zip(scene.items, state.items, strict=True)
        ]
    )


def lifted_other(trial: Trial) -> bool:
    """Whether another thing than the sentence means hangs clear of the table."""
    return bool(np.delete(lifted(trial.scene, trial.state), trial.scene.target).any())
