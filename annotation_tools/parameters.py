"""Parameters of the proposals as a YAML file: `embodimix.propose/v1` and any field of `ProposeParameters`."""

from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import Any

import yaml

from pipelines.contract.errors import UsageError, nearest
from pipelines.segments.motion import MotionParameters
from pipelines.segments.propose import ProposeParameters

SCHEMA = "embodimix.propose/v1"


def load_parameters(path: Path) -> ProposeParameters:
    """Reads parameters; what the file leaves out keeps its default.

    Raises UsageError where the file is not readable, or has another schema, an unknown key or a value that is no
    number or out of range.
    """
    try:
        document = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"{path}: expected a YAML file of proposal parameters, found {error}") from error
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        found = document.get("schema") if isinstance(document, dict) else document
        raise UsageError(f"{path}: expected schema: {SCHEMA}, found {found!r}")
    rest = {key: value for key, value in document.items() if key != "schema"}
    motion = rest.pop("motion", {})
    if not isinstance(motion, dict):
        raise UsageError(f"{path}: motion: expected keys and numbers, found {motion!r}")
    _check_numbers(path, "", rest, ProposeParameters)
    _check_numbers(path, "motion.", motion, MotionParameters)
    try:
        return ProposeParameters(**rest, motion=MotionParameters(**motion))
    except ValueError as error:
        raise UsageError(f"{path}: {error}") from error


def dump_parameters(parameters: ProposeParameters) -> str:
    """The YAML text that `load_parameters` reads back as the same parameters."""
    return yaml.safe_dump({"schema": SCHEMA, **asdict(parameters)}, sort_keys=False)


def _check_numbers(path: Path, where: str, values: dict[Any, Any], kind: type) -> None:
    names = [field.name for field in fields(kind) if field.default is not MISSING]
    for key, value in values.items():
        if key not in names:
            raise UsageError(f"{path}: unknown key {where}{key}. {nearest(str(key), names)}")
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
            raise UsageError(f"{path}: {where}{key}: expected a number of 0 or more, found {value!r}")
