"""How the state's changes follow the action's: each lag's mean product, against numpy's own on pairs cut by hand."""

import numpy as np

from pipelines.quality.tracking import _correlations


def test_each_lag_has_the_mean_over_the_pairs_that_there_are() -> None:
    random = np.random.default_rng(0)
    x = random.normal(size=(40, 3))
    # The state does what the action did three steps before; the third slot stands still.
    y = np.concatenate([random.normal(size=(3, 3)), x[:-3]])
    y[:, 2] = 1.0
    found = _correlations(x, y, 5)
    now, then = ((v[:, :2] - v[:, :2].mean(0)) / v[:, :2].std(0) for v in (x, y))
    for lag in range(-5, 6):
        pairs = [now[t] * then[t + lag] for t in range(40) if 0 <= t + lag < 40]
        np.testing.assert_allclose(found[lag + 5], np.mean(pairs), rtol=1e-12)
    assert int(np.argmax(found)) - 5 == 3 and found.max() > 0.9


def test_nothing_follows_where_nothing_moves() -> None:
    assert _correlations(np.zeros((9, 2)), np.ones((9, 2)), 3).tolist() == [0.0] * 7
