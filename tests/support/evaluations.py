"""Evaluation reports made up for tests of what reads them."""

from dataclasses import replace

from trainers.evaluation.records import ErrorCurves, Errors, EvaluationReport, GroupReport, OverallErrors


def group_report(name: str, errors: Errors, *, samples: int = 8, share: float = 1.0, unit: str = "rad") -> GroupReport:
    """A group with the same errors in its unit and in units of the normalization."""
    curve = ErrorCurves(policy=(0.1, None), repeat_state=(0.1, None), mean_action=(0.1, None))
    return GroupReport(
        name=name,
        share=share,
        samples=samples,
        flow_loss=0.25,
        error={unit: errors},
        normalized_error=errors,
        normalized_error_by_step=curve,
        normalized_error_by_horizon=replace(curve, policy=(0.1, 0.1), repeat_state=(0.1, 0.1), mean_action=(0.1, 0.1)),
        flow_sweep={},
    )


def evaluation_report(run: str, *groups: GroupReport, without_episodes: tuple[str, ...] = ()) -> EvaluationReport:
    """A report of step 9 on the mixture `toy`; its overall numbers are those of the first group."""
    return EvaluationReport(
        run=run,
        step=9,
        mixture="toy",
        own_mixture=True,
        samples=8,
        seed=0,
        flow_steps=10,
        plots=None,
        sample_errors="samples.json",
        groups=groups,
        without_episodes=without_episodes,
        overall=OverallErrors(errors=groups[0].normalized_error, flow_loss=0.25),
        slots={},
    )
