"""What a newcomer meets first: whatever is not known ends in one short message that says what to do next."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.contract.errors import nearest
from pipelines.contract.registries import use_registries
from tests.support.inputs.native_files import bridge_features, write_rlds
from trainers.main import main

DRAFT = "To see what is there, and to draft an entry of your own: embodimix inspect {} --draft my.yaml"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory with a TFDS set that no entry knows, and a folder of texts."""
    monkeypatch.chdir(tmp_path)
    write_rlds(tmp_path / "my_set/1.0.0", {"train": [bridge_features(i) for i in range(2)]})
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts/a.txt").write_text("no log")
    yield tmp_path
    use_registries([])


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["convert", *arguments, "--name", "x", "--version", "1.0.0", "--workers", "1"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") <= 2 and len(said) < 600
    return said


@pytest.mark.parametrize(
    ("arguments", "found", "draft"),
    [
        (["rlds", "my_set/1.0.0"], "no entry of format rlds is named 'my_set'. Did you mean", "my_set/1.0.0"),
        (["rlds", "my_sett/1.0.0"], "expected a file or folder, found none; ", "PATH"),
        (["rlds", "my_sett/1.0.0"], " has no 'my_sett'. Did you mean 'my_set'?", "PATH"),
        (["rdls", "my_set/1.0.0"], "FORMAT 'rdls' is unknown. Did you mean 'rlds'?", "my_set/1.0.0"),
        (
            ["rlds", "my_set/1.0.0", "out", "--adapter", "zzz"],
            "adapter 'zzz' is not in the registry. None of ",
            "INPUT",
        ),
        (
            ["rlds", "my_set/1.0.0", "out", "--adapter", "bridge_orig", "--robot", "widow"],
            "robot 'widow' is not in the registry. Did you mean 'widowx'",
            "INPUT",
        ),
        (["rlds", "texts", "out", "--adapter", "bridge_orig"], "expected files such as NAME-train.tfrecord", "texts"),
        (["lerobot", "texts", "out", "--adapter", "lerobot_so100"], "expected one LeRobot dataset", "texts"),
        (["aloha", "texts"], "expected files such as episode_0.hdf5", "texts"),
        (["hdf5", "my_set/1.0.0"], "expected HDF5 files", "my_set/1.0.0"),
    ],
)
def test_what_is_not_known_is_said_with_what_to_do(
    arguments: list[str], found: str, draft: str, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(capsys, *arguments, *(["out"] if len(arguments) == 2 else []))
    assert found in said
    assert said.endswith(DRAFT.format(draft) + "\n")


def test_a_long_list_of_names_is_not_printed() -> None:
    assert nearest("zzz", [f"name_{i}" for i in range(13)]) == "None of 13 known names is near."
    assert nearest("zzz", [f"name_{i}" for i in range(3)]) == "Known: name_0, name_1, name_2."


def test_a_name_that_tfds_has_is_warned_of(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "convert",
        "rlds",
        "my_set/1.0.0",
        "out",
        "--version",
        "1.0.0",
        "--workers",
        "1",
        "--adapter",
        "bridge_orig",
    ]
    assert main([*arguments, "--name", "viola"]) == 0
    expected = (
        "--name viola: TFDS has a dataset of its own named 'viola': tfds.builder('viola', data_dir=...) opens that"
    )
    assert expected in capsys.readouterr().err
    assert main([*arguments, "--name", "bridge_v2"]) == 0
    assert "TFDS" not in capsys.readouterr().err
