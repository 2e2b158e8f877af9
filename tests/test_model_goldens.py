"""Recorded cases of the reference implementation, array by array."""

from pathlib import Path

import numpy as np
import pytest

from model import check

pytestmark = pytest.mark.shared
CASES = ("pi0_d32", "pi0_d18")


@pytest.mark.parametrize("name", CASES)
def test_every_recorded_array_agrees(shared: Path, name: str) -> None:
    rows = check.check_case(check.load_case(shared / "goldens/openpi" / name))
    bad = [row for row in rows if not row.ok]
    assert len(rows) > 8 and not bad, check.table(bad)


def test_the_command_prints_the_table_and_succeeds(shared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check.main([str(shared / "goldens/openpi/pi0_dummy")]) == 0
    assert "9 of 9 arrays agree" in capsys.readouterr().out


def test_the_command_fails_on_a_wrong_array(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = shared / "goldens/openpi/pi0_dummy"
    arrays = dict(np.load(f"{source}.npz"))
    arrays["out/v_t"] = arrays["out/v_t"] * 1.001
    np.savez(tmp_path / "bent.npz", **arrays)
    (tmp_path / "bent_params.npz").symlink_to(f"{source}_params.npz")
    assert check.main([str(tmp_path / "bent")]) == 1
    assert "FAIL v_t" in capsys.readouterr().out
