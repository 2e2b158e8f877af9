"""mix lock, diff, preview, simulate, schema, and the plan's page."""

import json
import os
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from pipelines.pages.charts import bars, lines
from tests.support.inputs.mixture_data import make_episode, write_dataset, write_spec
from trainers.main import main

BODY = """datasets: [{path: a/1.0.0}, {path: b/1.0.0}]
filters: [{drop: idle}]
action: {horizon: 5}
language: {proposals: true}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tools")
    write_dataset(root, "a", [make_episode(i, task=["fold", "sort"][i % 2], idle=[0]) for i in range(6)])
    write_dataset(root, "b", [make_episode(i, robot="ur5e", n_steps=20) for i in (8, 9)])
    return root


@pytest.fixture(autouse=True)
def cache(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMBODIMIX_CACHE", str(folder / "cache"))


def run(*arguments: object, expect: int = 0) -> None:
    assert main(["mix", *map(str, arguments)]) == expect


def test_a_lock_is_written_beside_the_spec_and_checked(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = write_spec(folder, BODY, "locked.yaml")
    run("lock", spec)
    lock = json.loads((folder / "locked.lock.json").read_text())
    assert lock["schema"] == "embodimix.lock/v1"
    assert [group["name"] for group in lock["groups"]] == ["fold@arx", "fold@ur5e", "sort@arx"]
    run("lock", spec, "--check", folder / "locked.lock.json")
    spec.write_text(spec.read_text().replace("{path: b/1.0.0}", "{path: b/1.0.0, multiplier: 2}"))
    run("lock", spec, "--check", folder / "locked.lock.json", expect=1)
    assert "group fold@ur5e: share 0.351962 became" in capsys.readouterr().err


def test_verifying_reads_every_shard(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_dataset(tmp_path, "a", [make_episode(0)], n_shards=1)
    spec = write_spec(tmp_path, "datasets: [{path: a/1.0.0}]\n")
    run("lock", spec, "--verify")
    shard = folder / "a-train.tfrecord-00000-of-00001"
    content, written_ns = bytearray(shard.read_bytes()), shard.stat().st_mtime_ns
    content[1000] ^= 1
    shard.write_bytes(content)
    os.utime(shard, ns=(written_ns, written_ns))  # as a bad disk does it
    run("lock", spec)
    run("lock", spec, "--verify", expect=1)
    assert "expected sha256" in capsys.readouterr().err


def test_diff_says_what_changes_in_shares_and_epochs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = write_spec(folder, BODY, "old.yaml")
    new = write_spec(
        folder,
        BODY.replace("[{drop: idle}]", "[{drop: idle}, {keep: {robot: [arx]}}]").replace(", {path: b/1.0.0}", ""),
        "new.yaml",
    )
    run("diff", old, new, "--draws", 660, "--html", folder / "diff.html", expect=1)
    text = capsys.readouterr().out
    assert re.search(r"fold@ur5e +35\.196 % +0\.000 % +-35\.196 +40 +0 +5\.81 +0\n", text)
    assert re.search(r"fold@arx +32\.402 % +50\.000 % +\+17\.598 +33 +33 +6\.48 +10\n", text)
    assert (
        "35.20 % of all draws" in text
        and "- group fold@ur5e is gone" in text
        and "- dataset b/1.0.0 train is gone" in text
    )
    assert "fold@ur5e" in (folder / "diff.html").read_text()
    run("diff", old, old)
    assert "draw the same samples" in capsys.readouterr().out


def test_diff_refuses_other_json(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "other.json").write_text("{}")
    run("diff", folder / "other.json", folder / "other.json", expect=2)
    assert "expected schema 'embodimix.lock/v1', found None" in capsys.readouterr().err


def test_simulated_draws_follow_the_plan_and_repeat_evenly(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = write_spec(folder, BODY, "simulated.yaml")
    run("simulate", spec, "--draws", 70_000, "--json")
    groups = json.loads(capsys.readouterr().out)
    assert sum(group["draws"] for group in groups) == 70_000
    for group in groups:
        assert group["realised_share"] == pytest.approx(group["planned_share"], abs=0.005)
        assert group["distinct"] == group["n_steps"]
        assert group["most"] - group["fewest"] <= 1
    assert 1_000 < groups[0]["bytes_read"] / groups[0]["draws"] < 10_000


def test_preview_shows_pictures_texts_and_chunks_of_every_group(folder: Path) -> None:
    spec = write_spec(folder, BODY, "previewed.yaml")
    run("preview", spec, "--out", folder / "preview.html", "--samples", 2)
    page = (folder / "preview.html").read_text()
    assert page.count("<h2>") == 3 and page.count("data:image/jpeg;base64,") == 3 * 2 * 2
    assert page.count("gripper0 (slot 6)") == 6 and page.count("arm0 joint 3 (slot 2)") == 6
    assert "reach 9" in page or "close 9" in page or "fold it" in page


def test_the_plans_page_holds_every_plot(folder: Path) -> None:
    spec = write_spec(folder, BODY, "page.yaml")
    run("plan", spec, "--draws", 1000, "--html", folder / "plan.html")
    page = (folder / "plan.html").read_text()
    for title in (
        "Groups",
        "Tree of shares",
        "Shares",
        "Effective epochs",
        "Shares by alpha",
        "Language",
        "Episode lengths",
        "Actions by slot",
    ):
        assert f"<h2>{title}" in page
    for svg in re.findall(r"<svg.*?</svg>", page):
        ElementTree.fromstring(svg)


def test_charts_scale_to_the_largest_value() -> None:
    widths = re.findall(r"width:([\d.]+)%", bars(["a", "b"], {"x": [1.0, 2.0]}))
    assert widths == ["39.00", "78.00"]
    assert "nan" not in lines({"a": ([0, 1, 2], [1.0, float("nan"), 3.0])}, "x", "y")


def test_the_schema_is_json_and_knows_the_groups(capsys: pytest.CaptureFixture[str]) -> None:
    run("schema")
    schema = json.loads(capsys.readouterr().out)
    assert schema["properties"]["groups"]["items"] == {"$ref": "#/$defs/group"}
