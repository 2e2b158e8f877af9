"""How many damaged inputs a test tries: few in the test suite, many times that in `make fuzz`."""

import os

from hypothesis import HealthCheck, settings

# `make fuzz` sets it; a run of the suite takes each test's own number.
TIMES = int(os.environ.get("EMBODIMIX_FUZZ_TIMES", "1"))


def fuzzing(n_examples: int) -> settings:
    """Settings of a test that tries `n_examples` inputs, times EMBODIMIX_FUZZ_TIMES, without a time limit for one."""
    return settings(
        max_examples=n_examples * TIMES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
    )
