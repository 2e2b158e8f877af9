"""What the code hash covers, and what it decides: an unfinished conversion starts over, a finished one is kept."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.contract.embodiments import freeze_robots
from pipelines.conversion import launch, plan
from pipelines.conversion.code_hash import code_hash, code_modules
from pipelines.conversion.launch import convert, make_job, plan_conversion, prepare_output
from pipelines.conversion.plan import ConversionPlan, Job, is_saved, options_hash
from pipelines.mapping.adapters import get_adapter
from tests.pipelines.conversion.test_convert import hash_files, make_conversion
from tests.support.checkout import ROOT
from tests.support.inputs.native_files import bridge_features, write_rlds

Edit = Callable[[Path], None]
PRINT_HASH = (
    "from pipelines.contract.embodiments import freeze_robots; from pipelines.mapping.adapters import get_adapter\n"
    "from pipelines.conversion.code_hash import code_hash\n"
    "print(code_hash(get_adapter('bridge_orig'), freeze_robots('widowx')))"
)


def replace_in(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def edit_docstring(root: Path) -> None:
    replace_in(root / "pipelines/sources/rlds.py", '"""RLDS', '"""Other words; RLDS')


def edit_comment(root: Path) -> None:
    path = root / "pipelines/mapping/forms.py"
    path.write_text(path.read_text() + "\n# A remark.\n")


def edit_other_reader(root: Path) -> None:
    path = root / "pipelines/sources/aloha.py"
    path.write_text(path.read_text() + "\nEXTRA = 1\n")


def add_robot(root: Path) -> None:
    replace_in(
        root / "pipelines/embodiments.yaml",
        "\n  ur5e:\n",
        """
  robot_of_a_test:
    description: unrelated
    control_hz: 20
    cameras: [base_0_rgb]
    joint: {state: *single, action: *single}
  ur5e:
""",
    )


def edit_used_robot(root: Path) -> None:
    path = root / "pipelines/embodiments.yaml"
    text = path.read_text()
    start = text.index("\n  widowx:\n")
    path.write_text(text[:start] + text[start:].replace("control_hz: 5", "control_hz: 6", 1))


def edit_reader_line(root: Path) -> None:
    path = root / "pipelines/sources/rlds.py"
    path.write_text(path.read_text() + "\nEXTRA = 1\n")


def edit_imported_through_others(root: Path) -> None:
    path = root / "pipelines/shards/example_wire.py"
    path.write_text(path.read_text() + "\nEXTRA = 1\n")


@pytest.mark.parametrize(
    ("edit", "changes"),
    [
        (edit_docstring, False),
        (edit_comment, False),
        (edit_other_reader, False),
        (add_robot, False),
        (edit_used_robot, True),
        (edit_reader_line, True),
        (edit_imported_through_others, True),
    ],
)
def test_only_code_and_entries_that_a_conversion_uses_change_its_hash(
    edit: Edit, changes: bool, tmp_path: Path
) -> None:
    for package in ("pipelines", "annotation_tools"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    edit(tmp_path)
    command = [sys.executable, "-c", PRINT_HASH]
    run = subprocess.run(command, cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert (run.stdout.strip() != code_hash(get_adapter("bridge_orig"), freeze_robots("widowx"))) == changes


def test_the_modules_of_a_format_are_found_from_imports() -> None:
    modules = code_modules("lerobot")
    assert {"pipelines.sources.lerobot", "pipelines.sources.video", "pipelines.contract.native"} <= set(modules)
    assert not {"pipelines.sources.rlds", "pipelines.conversion.launch", "pipelines.quality.card"} & set(modules)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_rlds(tmp_path / "in" / "tiny" / "1.0.0", {"train": [bridge_features(i) for i in range(4)]})


def with_other_code(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (launch, plan):
        monkeypatch.setattr(module, "code_hash", lambda adapter, robots: "of other code")


def test_a_finished_dataset_is_known_under_other_code(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "already_done" not in convert(make_conversion(source, tmp_path))
    before = hash_files(tmp_path / "tiny/1.0.0")
    with_other_code(monkeypatch)
    counts = convert(make_conversion(source, tmp_path))
    assert (counts["already_done"], counts["same_code"]) == (True, False)
    assert hash_files(tmp_path / "tiny/1.0.0") == before


def test_an_unfinished_conversion_starts_over_under_other_code(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def prepare() -> Job:
        wanted = make_conversion(source, tmp_path)
        planned = plan_conversion(wanted, None)
        job = make_job(wanted, planned)
        prepare_output(job, planned, None)
        return job

    job = prepare()
    kept = job.folder / "tiny-train.tfrecord-00000-of-00003"
    kept.write_bytes(b"a shard of the first code")
    assert is_saved(prepare()) and kept.exists()
    with_other_code(monkeypatch)
    assert not is_saved(job)
    assert is_saved(prepare()) and not kept.exists()


@pytest.mark.parametrize(
    ("name", "expected"), [("bridge_orig", "34e755cb9a6cd302"), ("libero_hdf5", "856972430c27a987")]
)
def test_keys_that_were_added_later_change_no_old_hash(name: str, expected: str) -> None:
    # As commit 55c7879 printed them, before parts had `units` and `when` and cameras `crop`.
    adapter = get_adapter(name)
    job = Job(directory="d", name="x", version="1.0.0", adapter=adapter, robots=freeze_robots(adapter.robot))
    assert options_hash(job, ConversionPlan(shards={}, rejects=())) == expected


def test_words_of_an_entry_are_no_option(source: Path, tmp_path: Path) -> None:
    from dataclasses import replace

    adapter = get_adapter("bridge_orig")
    hashes = [
        make_job(wanted, plan_conversion(wanted, None)).options_hash
        for changed in (adapter, replace(adapter, note="better words"), replace(adapter, drop_first="never"))
        for wanted in [make_conversion(source, tmp_path, adapter=changed)]
    ]
    assert hashes[0] == hashes[1] != hashes[2]
