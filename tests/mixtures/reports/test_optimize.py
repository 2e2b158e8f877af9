"""Weights from excess loss: the step, the new spec, and factors on single groups."""

import json
from pathlib import Path

import pytest

from mixtures.mixture import open_mixture
from mixtures.reports.optimize import optimized_factors
from pipelines.contract.errors import UsageError
from tests.support.inputs.mixture_data import make_episode, write_dataset, write_spec
from trainers.main import main

BODY = "# kept\ngroup_multipliers: {fold@arx: 2}   # gone\naction: {horizon: 5}\ndatasets: [{path: a/1.0.0}]\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EMBODIMIX_CACHE", str(tmp_path / "cache"))
    tasks = ["fold", "sort", "wipe"]
    write_dataset(tmp_path, "a", [make_episode(i, task=tasks[i % 3], cameras=("base_0_rgb",)) for i in range(6)])
    return tmp_path


def report(path: Path, **losses: float) -> Path:
    path.write_text(json.dumps({"groups": [{"name": f"{k}@arx", "flow_loss": v} for k, v in losses.items()]}))
    return path


def shares(spec: Path) -> dict[str, float]:
    return {group.name: group.probability for group in open_mixture(spec).groups}


def test_factors_on_single_groups_multiply_their_weights(folder: Path) -> None:
    assert shares(write_spec(folder, BODY)) == pytest.approx({"fold@arx": 0.5, "sort@arx": 0.25, "wipe@arx": 0.25})
    with pytest.raises(UsageError, match=r"mixture.yaml:4:21: no group is named 'flod@arx'. Did you mean 'fold@arx'"):
        open_mixture(write_spec(folder, BODY.replace("fold@arx", "flod@arx")))


def test_groups_with_excess_loss_get_more(folder: Path) -> None:
    groups = open_mixture(write_spec(folder, "datasets: [{path: a/1.0.0}]\n")).groups
    losses = {"fold@arx": 1.5, "sort@arx": 0.5, "wipe@arx": 0.2}
    reference = {"fold@arx": 0.5, "sort@arx": 0.9}
    factors = optimized_factors(groups, losses, reference, floor=0.0)
    total = (2.718281828 + 1 + 1) / 3
    expected = {"fold@arx": 2.718281828 / total, "sort@arx": 1 / total, "wipe@arx": 1 / total}
    assert factors == pytest.approx(expected)


def test_the_new_spec_keeps_all_but_the_factors(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = write_spec(folder, BODY)
    losses = report(folder / "run.json", fold=1.0, sort=1.0, wipe=0.3)
    reference = report(folder / "reference.json", fold=0.3, sort=1.0, wipe=0.3)
    out = folder / "new.yaml"
    assert (
        main(["mix", "optimize", str(spec), "--losses", str(losses), "--reference", str(reference), "--out", str(out)])
        == 0
    )
    text = out.read_text()
    assert "# kept" in text and "# gone" not in text and "action: {horizon: 5}" in text
    assert text.count("group_multipliers") == 1
    before, after = shares(spec), shares(out)
    assert after["fold@arx"] / after["sort@arx"] == pytest.approx(2 * 2.71828**0.7, rel=0.01)
    assert sum(after.values()) == pytest.approx(1) and after["fold@arx"] > before["fold@arx"]
    assert "% of all draws go to other groups" in capsys.readouterr().out


def test_what_is_no_report_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = write_spec(folder, BODY)
    (folder / "bad.json").write_text("{}")
    options = ["--losses", str(folder / "bad.json"), "--reference", str(folder / "bad.json")]
    assert main(["mix", "optimize", str(spec), *options, "--out", str(folder / "new.yaml")]) == 2
    assert "expected the JSON report of `embodimix eval`" in capsys.readouterr().err
    for elsewhere in (folder / "deeper", folder.parent):
        assert main(["mix", "optimize", str(spec), *options, "--out", str(elsewhere / "new.yaml")]) == 2
        assert "expected a file in the folder of" in capsys.readouterr().err
