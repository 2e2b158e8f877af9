"""The rules of the house that import-linter does not hold: docstrings, sizes of modules and rooms, a light start."""

import ast
import subprocess
import sys

import pytest

from tests.support.checkout import ROOT

PACKAGES = ("pipelines", "mixtures", "model", "trainers", "annotation_tools")
HEAVY = {"apache_beam", "tensorflow", "tensorflow_datasets", "jax", "flax", "optax", "orbax", "matplotlib"}
MOST_MODULES = 20


@pytest.mark.parametrize("package", PACKAGES)
def test_package_files_hold_one_docstring(package: str) -> None:
    for path in (ROOT / package).rglob("__init__.py"):
        body = ast.parse(path.read_text()).body
        assert len(body) == 1 and ast.get_docstring(ast.parse(path.read_text())), path


@pytest.mark.parametrize("package", PACKAGES)
def test_every_module_says_what_it_holds_and_stays_readable(package: str) -> None:
    for path in (ROOT / package).rglob("*.py"):
        text = path.read_text()
        assert ast.get_docstring(ast.parse(text)), f"{path.name} has no docstring"
        assert text.count("\n") <= 500, f"{path.name} is past 500 lines"


def test_the_command_starts_without_heavy_packages() -> None:
    code = f"import sys, trainers.main; trainers.main.build_parser(); print(sorted(set(sys.modules) & {HEAVY!r}))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize("package", PACKAGES)
def test_no_room_holds_more_modules_than_a_reader_can_look_over(package: str) -> None:
    for folder in {path.parent for path in (ROOT / package).rglob("*.py")}:
        n = sum(1 for path in folder.glob("*.py") if path.name != "__init__.py")
        assert n <= MOST_MODULES, f"{folder.relative_to(ROOT)}: {n} modules; make a room of those that belong together"


def test_tests_mirror_the_rooms() -> None:
    for folder in {path.parent for path in (ROOT / "tests").rglob("test_*.py")}:
        of_code = ROOT / folder.relative_to(ROOT / "tests")
        assert of_code.is_dir(), f"{folder.relative_to(ROOT)} mirrors no room"
