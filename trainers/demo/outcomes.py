"""What the demo's stages found, as frozen records that its page and its checks read."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class RolloutOutcome:
    """How a policy did on one task in `episodes` new scenes.

    condition: the kind of prompt. went_to_meant: its hands came nearest to the object that the sentence means.
    lifted_other: it lifted what the sentence did not mean. videos: names of files, of the first scenes.
    """

    task: str
    robot: str
    condition: str
    episodes: int
    successes: int
    went_to_meant: int
    lifted_other: int
    videos: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> "RolloutOutcome":
        """Reads what `trainers.demo.rollout` prints."""
        return cls(**{**row, "videos": tuple(row["videos"])})


@dataclass(frozen=True, kw_only=True)
class PlannedShare:
    """One group of the pretraining mixture, as `mix plan` states it: its part of the data and of the draws."""

    name: str
    n_episodes: int
    n_steps: int
    raw_share: float
    share: float
    effective_epochs: float

    @classmethod
    def from_json(cls, group: Mapping[str, Any]) -> "PlannedShare":
        """Reads what the page shows of one group of the plan."""
        return cls(**{name: group[name] for name in cls.__dataclass_fields__})
