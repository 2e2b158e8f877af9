"""`where` names the episode, step, record and source that a position draws; the pictures' colours say which it was."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import simplejpeg

from mixtures.mixture import open_mixture
from mixtures.reports.origin import Origin, find_origins
from pipelines.contract.errors import UsageError
from pipelines.shards.tfrecord import iter_records
from tests.support.inputs.mixture_data import colour, make_episode, write_dataset, write_spec
from trainers.main import main
from trainers.run import RunDirectory

BODY = "datasets: [{path: a/1.0.0}, {path: b/1.0.0}]\naction: {horizon: 5}\nlanguage: {proposals: true}\n"


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("where")
    write_dataset(root, "a", [make_episode(i, task=["fold", "sort"][i % 2]) for i in range(6)])
    write_dataset(root, "b", [make_episode(i, robot="ur5e", n_steps=20) for i in (8, 9)])
    return write_spec(root, BODY)


@pytest.fixture(autouse=True)
def cache(spec: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMBODIMIX_CACHE", str(spec.parent / "cache"))


def as_json(capsys: pytest.CaptureFixture[str], *arguments: object) -> list[dict[str, Any]]:
    capsys.readouterr()
    assert main(["where", *map(str, arguments), "--json"]) == 0
    rows: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    return rows


@pytest.mark.parametrize("position", [0, 17, 123_456])
def test_the_picture_is_of_the_episode_and_step_that_are_named(
    spec: Path, tmp_path: Path, position: int, capsys: pytest.CaptureFixture[str]
) -> None:
    (origin,) = as_json(capsys, spec, position, "--picture", tmp_path / "seen.jpg")
    number = int(origin["source_uri"].removeprefix("log-"))
    assert origin["source_key"] == f"key-{number}"
    assert (origin["dataset"], origin["robot"]) == (("b", "ur5e") if number >= 8 else ("a", "arx"))
    sheet = simplejpeg.decode_jpeg((tmp_path / "seen.jpg").read_bytes())
    assert sheet.shape == (224, 448, 3)
    for camera in (0, 1):
        seen = sheet[100, 224 * camera + 100].astype(int)
        assert np.abs(seen - colour(number, origin["step"], camera)).max() <= 3
    assert origin["time_s"] == pytest.approx(origin["step"] / 10)


def test_the_record_is_the_one_that_holds_the_episode(spec: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (origin,) = as_json(capsys, spec, 40)
    records = [payload for _, payload in iter_records(Path(origin["path"]) / origin["shard"])]
    assert origin["episode_id"].encode() in records[origin["record"]]


def test_the_text_says_whose_it_is_and_the_share_how_it_came(spec: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["where", str(spec), "5", "--draws", "1000"]) == 0
    out = capsys.readouterr().out
    assert "group     " in out and "0.43" in out and "in 1,000 draws" in out
    origins, _ = find_origins(open_mixture(spec), 0, 200)
    assert {origin.text_of for origin in origins} == {"segment", "task"}
    assert all(_is_of_its_kind(origin) for origin in origins)


def _is_of_its_kind(origin: Origin) -> bool:
    return origin.text.startswith(("reach", "close")) == (origin.text_of == "segment")


def test_a_step_of_a_run_is_its_batch(spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mixture = open_mixture(spec)
    run = RunDirectory(tmp_path / "run")
    mixture.save_statistics(_made(run.statistics_path))
    run.write_lock(mixture.lock())
    run.config_path.write_text("x")
    config = SimpleNamespace(mixture=str(spec), steps=10, batch_size=8, stage=None)
    monkeypatch.setattr(RunDirectory, "read_config", lambda self: config)
    outputs: list[str] = []
    monkeypatch.setattr("builtins.print", lambda text, **_: outputs.append(text))
    assert main(["where", str(run.path), "--step", "3", "--json"]) == 0
    assert [row["position"] for row in json.loads(outputs[0])] == list(range(16, 24))
    assert main(["where", str(run.path), "--step", "3"]) == 0
    assert outputs[1].count("\n") == 7


def _made(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


@pytest.mark.parametrize("arguments", [[], ["3", "--step", "1"], ["--step", "1"], ["-5"]])
def test_wrong_use_is_refused(spec: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    try:
        assert main(["where", str(spec), *arguments]) == 2
    except SystemExit as error:  # argparse takes -5 for an option
        assert error.code == 2
    assert "expected" in capsys.readouterr().err


def test_a_negative_position_is_refused(spec: Path) -> None:
    with pytest.raises(UsageError, match="expected a position of at least 0"):
        find_origins(open_mixture(spec), -1)
