"""One robot's own dims among a run's slots, in their order, and the maps that normalize them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.shards.scales import Affine, Normalization
from pipelines.shards.statistics import ArrayStatistics, NormStatistics, load_statistics
from trainers.robots import Robot
from trainers.run import RunDirectory

# Arrays whose dims are those of the state; those of the other arrays with dims are of the action.
STATE_ARRAYS = ("state_proj/kernel",)


@dataclass(frozen=True, kw_only=True)
class RobotDims:
    """One robot's own dims: the slots of its state and of its action, and what normalizes them."""

    robot: Robot
    statistics: NormStatistics
    normalization: Normalization
    state_slots: tuple[int, ...]
    action_slots: tuple[int, ...]

    def affine(self, side: str) -> Affine:
        """Center and half range of the robot's own dims of state or action, ascending by slot."""
        array: ArrayStatistics = getattr(self.statistics, side)
        whole = array.affine(self.normalization)
        slots = list(self.state_slots if side == "state" else self.action_slots)
        return Affine(center=whole.center[slots], half_range=whole.half_range[slots])


def robot_dims(run: RunDirectory, robot: Robot) -> RobotDims:
    """A robot of a run, its slots and its statistics."""
    statistics = load_statistics(run.recorded_statistics())[robot.norm_key]
    return RobotDims(
        robot=robot,
        statistics=statistics,
        normalization=run.read_lock()["action"]["normalization"],
        state_slots=_slots(statistics.state.count),
        action_slots=_slots(statistics.action.count),
    )


def _slots(count: NDArray[np.int64]) -> tuple[int, ...]:
    return tuple(np.flatnonzero(count).tolist())
