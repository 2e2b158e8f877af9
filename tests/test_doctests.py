"""The examples in docstrings run: one that has gone stale would teach a reader what is not so."""

import subprocess
import sys
from importlib.util import find_spec

import pytest

from tests.support.checkout import ROOT
from tests.test_house import PACKAGES


@pytest.mark.slow
def test_every_example_in_a_docstring_holds() -> None:
    command = [sys.executable, "-m", "pytest", "--quiet", "--doctest-modules", "-p", "no:cacheprovider", *PACKAGES]
    if find_spec("torch") is None:
        command.append("--ignore=mixtures/torch")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:]
    assert int(done.stdout.split(" passed")[0].split()[-1]) >= 60
