"""Parameters of the proposals as a YAML file: `embodimix.propose/v1` and any field of `ProposeParameters`."""

from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import Any

import yaml

from pipelines.contract.document import Fields, Kind, Number, TextKind, read_document
from pipelines.contract.errors import UsageError
from pipelines.segments.motion import MotionParameters
from pipelines.segments.propose import ProposeParameters

SCHEMA = "embodimix.propose/v1"
_WHAT = "proposal parameters"
# More than any time in s, speed or part of a range that a proposal could mean; infinity would switch a rule off unseen.
MOST = 1e6


def load_parameters(path: Path) -> ProposeParameters:
    """Reads parameters; what the file leaves out keeps its default.

    Raises UsageError where the file is not readable, or has another schema, an unknown key or a value that is no
    number or out of range, with line and column.
    """
    known = _numbers(ProposeParameters)
    known |= {
        "schema": TextKind(about=f"schema: {SCHEMA}", choices=(SCHEMA,)),
        "motion": Fields(about="parameters of motion", fields=_numbers(MotionParameters)),
    }
    kind = Fields(about=_WHAT, fields=known, required=("schema",))
    values: dict[str, Any] = read_document(path, kind, {}, _WHAT).unmarked()
    values.pop("schema")
    motion = MotionParameters(**values.pop("motion", {}))
    try:
        return ProposeParameters(**values, motion=motion)
    except ValueError as error:
        raise UsageError(f"{path}: {error}") from error


def dump_parameters(parameters: ProposeParameters) -> str:
    """The YAML text that `load_parameters` reads back as the same parameters."""
    return yaml.safe_dump({"schema": SCHEMA, **asdict(parameters)}, sort_keys=False)


def _numbers(record: type) -> dict[str, Kind]:
    """Every field of a record of numbers, by name; one that holds another record has no default to read here."""
    number = Number(about="a number", at_least=0, at_most=MOST)
    return {field.name: number for field in fields(record) if field.default is not MISSING}
