"""What a TFDS dataset states about itself: name and version, counts, and the descriptions of its features."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from pipelines.contract.facts import SourceFacts, StatedFeature
from pipelines.sources.folders import source_root
from pipelines.sources.tfds.version_folder import count_promised, explain_missing, find_version_folder, list_shards
from pipelines.storage.paths import StoragePath

_STEPS = "steps/"


def describe_dataset(source: str) -> SourceFacts:
    """Returns what dataset_info.json and features.json say; what neither says is empty.

    The descriptions of features are the builder's own text, which many have from a template that says other than the
    numbers are. They are shown, and nothing is read from them.
    """
    folder = find_version_folder(source_root(source))
    info, features = _read_json(folder / "dataset_info.json"), _read_json(folder / "features.json")
    files = list_shards(folder)
    name = info.get("name") or folder.parent.name
    return SourceFacts(
        dialect=f"TFDS {name} {info.get('version') or folder.name}, RLDS episodes",
        n_episodes=count_promised(files.there),
        features={key: stated for key, stated in _walk("", features) if key},
        notes=(f"{explain_missing(folder, files)}; --partial converts what is there",) if files.missing else (),
    )


def _read_json(path: StoragePath) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _walk(key: str, node: Any) -> Iterator[tuple[str, StatedFeature]]:
    """Every tensor of features.json, by its key as the reader names it (below `steps/`)."""
    if not isinstance(node, Mapping):
        return
    below = (node.get("featuresDict") or {}).get("features") or {}
    for name, child in below.items():
        yield from _walk(f"{key}/{name}" if key else name, child)
    yield from _walk(key, (node.get("sequence") or {}).get("feature"))
    tensor = node.get("tensor")
    if isinstance(tensor, Mapping):
        shape = (tensor.get("shape") or {}).get("dimensions") or ()
        about = str(node.get("description") or "")
        dtype = str(tensor.get("dtype") or "")
        yield (
            key.removeprefix(_STEPS),
            StatedFeature(dtype=dtype, shape=tuple(int(n) for n in shape), about=about),
        )
