"""The audit: silent for the planned stream, loud for another, and right about chi-square."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from mixtures.mixture import Mixture, open_mixture
from mixtures.stream.audit import Audit, chi_square
from mixtures.stream.batches import Stream
from tests.support.inputs.mixture_data import make_episode, write_dataset, write_spec


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Mixture:
    root = tmp_path_factory.mktemp("audit")
    tasks = ["fold", "sort", "fold", "wipe"]
    episodes = [make_episode(i, task=tasks[i % 4], cameras=("base_0_rgb",), n_steps=6) for i in range(8)]
    write_dataset(root, "a", episodes, n_shards=1)
    return open_mixture(write_spec(root, "datasets: [{path: a/1.0.0}]\n"), cache=root / "cache")


def test_the_planned_stream_passes(mixture: Mixture) -> None:
    audit = Audit(mixture, window=256)
    with Stream(mixture, batch_size=64) as stream:
        reports = [audit.add(batch, wait_s=0.0) for batch in stream.batches(stop=512)]
    first, second = reports[3], reports[7]
    assert first is not None and second is not None and reports.count(None) == 6
    assert (first.start, first.draws, second.start) == (0, 256, 256)
    assert first.p_value > 1e-3 and not first.is_alarming and first.excess_repeats == 0
    assert first.off_by < 0.1
    assert "are what the mixture plans" in str(first)


def test_other_shares_are_loud(mixture: Mixture) -> None:
    audit = Audit(mixture, window=256)
    with Stream(mixture, batch_size=256, groups=["fold@arx", "sort@arx"]) as stream:
        report = audit.add(stream.batch_at(0))
    assert report is not None and report.is_alarming and report.p_value < 1e-10
    assert report.worst_group == "wipe@arx"


def test_a_sample_that_comes_too_often_is_loud(mixture: Mixture) -> None:
    audit = Audit(mixture, window=64)
    with Stream(mixture, batch_size=64) as stream:
        batch = stream.batch_at(0)
    is_first_group = batch.group == batch.group[0]
    stuck = replace(batch, names=np.where(is_first_group, batch.names[0], batch.names).tolist())
    report = audit.add(stuck)
    assert report is not None and report.excess_repeats > 5 and report.is_alarming
    assert "NOT what the mixture plans" in str(report)


def test_waiting_is_measured(mixture: Mixture) -> None:
    audit = Audit(mixture, window=10**9)
    assert audit.report() is None
    with Stream(mixture, batch_size=8) as stream:
        audit.add(stream.batch_at(0), wait_s=1e6)
    report = audit.report()
    assert report is not None and report.data_wait == 1.0


@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0])
def test_chi_square_agrees_with_the_exact_distribution(scale: float) -> None:
    shares = np.array([0.1, 0.2, 0.3, 0.25, 0.15])
    counts = np.round(10_000 * shares + scale * np.array([30, -50, 40, -35, 15])).astype(np.int64)
    statistic, degrees, p_value = chi_square(counts, shares)
    expected = stats.chisquare(counts, counts.sum() * shares)
    assert (statistic, degrees) == (pytest.approx(expected.statistic), 4)
    assert p_value == pytest.approx(expected.pvalue, abs=0.005)


def test_groups_too_rare_to_judge_are_taken_together() -> None:
    statistic, degrees, _ = chi_square(np.array([995, 3, 2]), np.array([0.995, 0.003, 0.002]))
    assert (statistic, degrees) == (0.0, 1)
