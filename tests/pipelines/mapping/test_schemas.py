"""The JSON Schemas of registries and mixtures, against the shipped files and as editors would check them."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from mixtures.specs.grammar import mixture_json_schema
from pipelines.mapping.entry_grammar import ENTRY
from pipelines.mapping.schemas import registry_json_schema
from tests.support.checkout import ROOT
from tests.support.inputs.own_registry import OWN
from trainers.main import main

jsonschema = pytest.importorskip("jsonschema", reason="checks JSON Schemas")
SCHEMAS = {
    "adapter": registry_json_schema("adapter"),
    "robot": registry_json_schema("robot"),
    "registry": registry_json_schema("registry"),
    "mixture": mixture_json_schema(),
}
SHIPPED = {
    "pipelines/adapters.yaml": "adapter",
    "pipelines/adapters_oxe.yaml": "adapter",
    "pipelines/embodiments.yaml": "robot",
    **{f"mixtures/specs/{path.name}": "mixture" for path in sorted((ROOT / "mixtures/specs").glob("*.yaml"))},
}


def faults(kind: str, content: Any) -> list[str]:
    """Where a content breaks a schema, as paths of keys."""
    # As JSON has it: the keys of YAML's mappings may be numbers.
    plain = json.loads(json.dumps(content))
    validator = jsonschema.Draft202012Validator(SCHEMAS[kind])
    return [".".join(map(str, error.absolute_path)) for error in validator.iter_errors(plain)]


@pytest.mark.parametrize("kind", SCHEMAS)
def test_the_schemas_are_schemas(kind: str) -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMAS[kind])


@pytest.mark.parametrize("path", SHIPPED)
def test_every_shipped_file_fits_its_schema(path: str) -> None:
    assert faults(SHIPPED[path], yaml.safe_load((ROOT / path).read_text())) == []


def test_a_registry_of_ones_own_fits_and_mistakes_are_found() -> None:
    own = yaml.safe_load(OWN)
    assert faults("registry", own) == []
    entry = own["adapters"]["desk_logs"]
    assert faults("adapter", own | {"adapters": {"desk_logs": entry | {"unit": "metric"}}}) == ["adapters.desk_logs"]
    wrong = own | {"adapters": {"desk_logs": entry | {"control_mode": "joint_positon"}}}
    assert faults("registry", wrong) == ["adapters.desk_logs.control_mode"]
    assert faults("robot", {key: value for key, value in own.items() if key != "robots"}) == [""]


def test_an_open_question_is_marked_where_only_some_values_fit() -> None:
    own = yaml.safe_load(OWN.replace("control_mode: joint_position", 'control_mode: "?"'))
    assert faults("registry", own) == ["adapters.desk_logs.control_mode"]


@pytest.mark.parametrize("kind", SCHEMAS)
def test_a_command_prints_each(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema", kind]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(SCHEMAS[kind]))


def test_the_schema_names_every_key_of_an_entry() -> None:
    entry = SCHEMAS["adapter"]["properties"]["adapters"]["additionalProperties"]
    assert set(entry["properties"]) == set(ENTRY.fields)
    assert Path(ROOT / "docs/registries.md").exists()
