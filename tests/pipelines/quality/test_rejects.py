"""Rejects are grouped by reason with advice, filtered by what is asked, and refused where no conversion wrote them."""

import json
from pathlib import Path

import pytest

from pipelines.contract.errors import FailedWork, UsageError
from pipelines.contract.native import Reject
from pipelines.conversion.manifest import write_rejects
from pipelines.quality.rejects import RejectFilter, group_rejects, read_rejects, render_rejects
from trainers.main import main


def reject(key: str, reason: str, *, steps: tuple[int, int] | None = None, split: str = "train") -> Reject:
    start, end = steps or (0, 0)
    level = "steps" if steps else "episode"
    return Reject(
        source_uri=f"logs/{key}.h5",
        source_key=key,
        split=split,
        level=level,
        start=start,
        end=end,
        reason=reason,
        detail=f"what the reader found in {key}",
    )


REJECTS = [
    reject("kitchen/1", "truncated_file"),
    reject("kitchen/2", "truncated_file", split="val"),
    reject("lab/3", "one_step"),
    reject("lab/4", "first_step", steps=(0, 1)),
    reject("lab/5", "first_step", steps=(0, 1)),
]


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    write_rejects(tmp_path / "rejects.parquet", REJECTS)
    return tmp_path


def test_the_reason_that_lost_most_episodes_comes_first_with_its_advice(dataset: Path) -> None:
    groups = group_rejects(read_rejects(dataset))
    assert [(g.reason, g.episodes, g.steps) for g in groups] == [
        ("truncated_file", 2, 0),
        ("one_step", 1, 0),
        ("first_step", 0, 2),
    ]
    assert groups[0].meaning == "a TFRecord file that ends inside a record"
    assert groups[0].advice.startswith("Fetch the file again")


@pytest.mark.parametrize(
    ("wanted", "keys"),
    [
        (RejectFilter(reasons=("one_step", "first_step")), ["lab/3", "lab/4", "lab/5"]),
        (RejectFilter(split="val"), ["kitchen/2"]),
        (RejectFilter(key="*/[34]"), ["lab/3", "lab/4"]),
        (RejectFilter(reasons=("first_step",), key="*5"), ["lab/5"]),
    ],
)
def test_filters_take_what_they_name(dataset: Path, wanted: RejectFilter, keys: list[str]) -> None:
    assert [row.source_key for row in read_rejects(dataset) if wanted.takes(row)] == keys


def test_a_mistyped_reason_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="Did you mean 'truncated_file'"):
        RejectFilter(reasons=("truncated_fil",))


def test_long_lists_are_cut_and_say_so() -> None:
    rows = [reject(f"lab/{n}", "one_step") for n in range(5)]
    text = render_rejects("toy", group_rejects(rows))
    assert text.splitlines()[0] == "toy: 5 episodes left out"
    assert "lab/2: what the reader found" in text and "lab/3" not in text
    assert "and 2 more (--all lists them)" in text
    assert "lab/4" in render_rejects("toy", group_rejects(rows), shown=None)


def test_the_command_prints_groups_and_json(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rejects", str(dataset), "--reason", "first_step"]) == 0
    assert "first_step: 2 steps" in capsys.readouterr().out
    assert main(["rejects", str(dataset), "--split", "test"]) == 0
    assert "none of its 5 rejects is like that" in capsys.readouterr().out
    assert main(["rejects", str(dataset), "--json"]) == 0
    groups = json.loads(capsys.readouterr().out)["groups"]
    assert [row["source_key"] for row in groups[0]["rejects"]] == ["kitchen/1", "kitchen/2"]


def test_a_folder_without_rejects_is_wrong_use(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"expected a converted dataset.*found none"):
        read_rejects(tmp_path)


def test_a_damaged_table_is_named(tmp_path: Path) -> None:
    (tmp_path / "rejects.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(FailedWork, match=r"rejects\.parquet: expected the table"):
        read_rejects(tmp_path)
