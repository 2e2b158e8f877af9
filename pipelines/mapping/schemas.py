"""JSON Schemas of registry files, for editors that complete and check YAML."""

from typing import Any, Literal

from pipelines.contract.document import json_schema
from pipelines.contract.embodiments import ROBOT
from pipelines.contract.registries import ADAPTERS_SCHEMA, ROBOTS_SCHEMA, SCHEMAS, registry_grammar
from pipelines.mapping.entry_grammar import ENTRY

FileKind = Literal["adapter", "robot", "registry"]
_OWN = SCHEMAS[0]
_NEEDED: dict[FileKind, tuple[str, list[str]]] = {
    "adapter": (ADAPTERS_SCHEMA, ["schema", "adapters"]),
    "robot": (ROBOTS_SCHEMA, ["schema", "robots"]),
    "registry": (_OWN, ["schema"]),
}


def registry_json_schema(kind: FileKind) -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a file of adapters, of robots, or of both; what the reader's grammar says."""
    name, required = _NEEDED[kind]
    header = {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": name, "title": f"embodimix {kind}"}
    return header | json_schema(registry_grammar(ENTRY, ROBOT)) | {"required": required}
