"""What evaluation finds, as frozen records: written as JSON, read back by comparisons, pages and the demo."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

SCHEMA = "embodimix.eval/v1"
PREDICTORS = ("policy", "repeat_state", "mean_action")


@dataclass(frozen=True, kw_only=True)
class Errors:
    """Mean absolute errors of the policy, of repeating the state, and of the mean action of the training data."""

    policy: float
    repeat_state: float
    mean_action: float

    @property
    def best(self) -> float:
        return min(self.policy, self.repeat_state, self.mean_action)

    @property
    def best_baseline(self) -> float:
        return min(self.repeat_state, self.mean_action)

    def values(self) -> tuple[float, float, float]:
        """In the order of `PREDICTORS`."""
        return self.policy, self.repeat_state, self.mean_action


@dataclass(frozen=True, kw_only=True)
class ErrorCurves:
    """The same errors at each step of the chunk; None where no episode goes so far."""

    policy: tuple[float | None, ...]
    repeat_state: tuple[float | None, ...]
    mean_action: tuple[float | None, ...]


@dataclass(frozen=True, kw_only=True)
class SlotErrors:
    """Errors of one action slot in its physical unit; normalized: the policy's in units of the normalization."""

    slot: int
    unit: str
    errors: Errors
    normalized: float


@dataclass(frozen=True, kw_only=True)
class GroupReport:
    """One group's held-out samples. error: by unit. normalized_*: in units of the normalization, over all the robot's
    slots; by_horizon is the mean up to each step. flow_sweep: the policy's error by number of flow steps."""

    name: str
    share: float
    samples: int
    flow_loss: float
    error: Mapping[str, Errors]
    normalized_error: Errors
    normalized_error_by_step: ErrorCurves
    normalized_error_by_horizon: ErrorCurves
    flow_sweep: Mapping[int, float]

    def rows(self) -> list[tuple[str, Errors]]:
        """(unit, errors), the physical units first."""
        return [*self.error.items(), ("normalized", self.normalized_error)]


@dataclass(frozen=True, kw_only=True)
class OverallErrors:
    """Means over the groups, each weighted by its share of the mixture; errors in units of the normalization."""

    errors: Errors
    flow_loss: float


@dataclass(frozen=True, kw_only=True)
class SampleErrors:
    """names: dataset/episode/step of a group's samples. error: the policy's of each, in units of the normalization."""

    names: tuple[str, ...]
    error: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class EvaluationReport:
    """One run's newest policy on held-out episodes. own_mixture: whether they are those of the mixture it trained on.
    plots: the folder of the pictures, None without any. without_episodes: groups that hold out nothing. slots: by norm
    key."""

    run: str
    step: int
    mixture: str
    own_mixture: bool
    samples: int
    seed: int
    flow_steps: int
    plots: str | None
    sample_errors: str
    groups: tuple[GroupReport, ...]
    without_episodes: tuple[str, ...]
    overall: OverallErrors
    slots: Mapping[str, tuple[SlotErrors, ...]]

    def to_json(self) -> dict[str, Any]:
        """The report as `embodimix eval --json` prints it; a group that holds out nothing has 0 samples."""
        plain = {"schema": SCHEMA} | asdict(self)
        del plain["without_episodes"]
        groups = [_group_json(group) for group in self.groups]
        return plain | {
            "groups": groups + [{"name": name, "samples": 0} for name in self.without_episodes],
            "overall": asdict(self.overall.errors) | {"flow_loss": self.overall.flow_loss},
            "slots": {
                key: [
                    {"slot": row.slot, "unit": row.unit, "normalized": row.normalized} | asdict(row.errors)
                    for row in rows
                ]
                for key, rows in self.slots.items()
            },
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "EvaluationReport":
        """Reads back `to_json`. KeyError or TypeError where something is missing."""
        overall = dict(content["overall"])
        simple = {field.name for field in fields(cls)} - {"groups", "without_episodes", "overall", "slots"}
        return cls(
            **{name: content[name] for name in simple},
            groups=tuple(_group_from(group) for group in content["groups"] if group["samples"]),
            without_episodes=tuple(group["name"] for group in content["groups"] if not group["samples"]),
            overall=OverallErrors(flow_loss=overall.pop("flow_loss"), errors=Errors(**overall)),
            slots={key: tuple(map(_slot_from, rows)) for key, rows in content["slots"].items()},
        )


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """A report, and by group the errors of single samples, which comparisons need."""

    report: EvaluationReport
    samples: Mapping[str, SampleErrors]


def _group_json(group: GroupReport) -> dict[str, Any]:
    curves = ("normalized_error_by_step", "normalized_error_by_horizon")
    plain = asdict(group)
    return plain | {
        "flow_sweep": {str(steps): error for steps, error in group.flow_sweep.items()},
        **{name: {predictor: list(values) for predictor, values in plain[name].items()} for name in curves},
    }


def _group_from(group: Mapping[str, Any]) -> GroupReport:
    def curves(name: str) -> ErrorCurves:
        return ErrorCurves(**{predictor: tuple(values) for predictor, values in group[name].items()})

    return GroupReport(
        name=group["name"],
        share=group["share"],
        samples=group["samples"],
        flow_loss=group["flow_loss"],
        error={unit: Errors(**errors) for unit, errors in group["error"].items()},
        normalized_error=Errors(**group["normalized_error"]),
        normalized_error_by_step=curves("normalized_error_by_step"),
        normalized_error_by_horizon=curves("normalized_error_by_horizon"),
        flow_sweep={int(steps): error for steps, error in group["flow_sweep"].items()},
    )


def _slot_from(row: Mapping[str, Any]) -> SlotErrors:
    errors = Errors(**{name: row[name] for name in PREDICTORS})
    return SlotErrors(slot=row["slot"], unit=row["unit"], errors=errors, normalized=row["normalized"])
