"""Recorded cases of the reference implementation, array by array."""

from pathlib import Path

import numpy as np
import pytest

from model.published import check

pytestmark = pytest.mark.shared


@pytest.mark.parametrize("name, arrays", [("pi0_d32", 25), ("pi0_d18", 10), ("pi05_d32", 10), ("pi0_d32_bf16", 10)])
def test_every_recorded_array_agrees(shared: Path, name: str, arrays: int) -> None:
    rows = check.forward_rows(check.load_case(shared / "goldens/openpi" / name))
    bad = [row for row in rows if not row.ok]
    assert len(rows) == arrays and not bad, check.results_table(bad)


def test_all_gradients_agree(shared: Path) -> None:
    rows = check.gradient_rows(check.load_case(shared / "goldens/openpi/pi0_d32"))
    bad = [row for row in rows if not row.ok]
    assert len(rows) == 51 and not bad, check.results_table(bad)


def test_the_command_prints_the_table_and_tells_a_wrong_array(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = shared / "goldens/openpi/pi0_dummy"
    arrays = dict(np.load(f"{source}.npz"))
    arrays["out/v_t"] = arrays["out/v_t"] * 1.001
    np.savez(tmp_path / "bent.npz", **arrays)
    (tmp_path / "bent_params.npz").symlink_to(f"{source}_params.npz")
    assert check.main([str(tmp_path / "bent")]) == 1
    out = capsys.readouterr().out
    assert "FAIL v_t" in out and "8 of 9 arrays agree" in out


def test_all_cases_are_found_and_summed_up(shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = [stem.name for stem in check.find_cases(shared / "goldens")]
    assert names == ["pi05_d32", "pi0_d18", "pi0_d32", "pi0_d32_bf16", "pi0_dummy"]
    with pytest.raises(ValueError, match="found none"):
        check.find_cases(tmp_path)
    row = check.ComparedArray(name="v_t", rel_rms=2e-7, max_abs=1e-6, limits=(3e-5, 3e-4), ok=True)
    assert check.summary("a", [row]) == "| `a` | 1 of 1 | 2.0e-07 | - | - | - |"
    with pytest.raises(SystemExit):
        check.main([])
    assert "expected either cases or --all FOLDER" in capsys.readouterr().err
