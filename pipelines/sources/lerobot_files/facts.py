"""What a LeRobot dataset states about itself: version, robot, features with their names and ranges, cameras."""

import json
from collections.abc import Mapping
from typing import Any

from pipelines.contract.facts import SourceFacts, StatedCamera, StatedFeature
from pipelines.sources.folders import source_root
from pipelines.sources.lerobot_files.meta import Meta, find_root, flatten_names, load_meta, malformed_metadata_named
from pipelines.sources.lerobot_files.modality import Modality
from pipelines.sources.lerobot_files.records import read_metadata_json
from pipelines.sources.lerobot_files.videos import is_depth
from pipelines.storage.paths import StoragePath

_PICTURES = ("video", "image")


def describe_dataset(source: str) -> SourceFacts:
    """Returns what meta/ says. Raises FailedWork where it is damaged."""
    root = find_root(source_root(source))
    with malformed_metadata_named(root):
        return _describe(root, load_meta(root))


def _describe(root: StoragePath, meta: Meta) -> SourceFacts:
    ranges, groups = _read_ranges(root), _group_names(meta.modality)
    vectors = {key: spec for key, spec in meta.features.items() if not _is_camera(spec)}
    return SourceFacts(
        dialect=f"LeRobot {meta.info['codebase_version']}, {meta.layout}",
        robot=str(meta.info.get("robot_type") or ""),
        n_episodes=len(meta.episodes),
        n_steps=meta.info.get("total_frames"),
        control_hz=meta.fps,
        features={
            key: _describe_feature(spec, ranges.get(key, {}), groups.get(key, ())) for key, spec in vectors.items()
        },
        cameras={key: _describe_camera(spec) for key, spec in meta.features.items() if _is_camera(spec)},
        tasks=tuple(meta.tasks.values()),
        notes=tuple(meta.inferred.values()),
        repeats=frozenset({*meta.modality.parts, *meta.modality.cameras} - set(meta.features)),
    )


def _is_camera(spec: Mapping[str, Any]) -> bool:
    return str(spec.get("dtype")) in _PICTURES


def _describe_feature(spec: Mapping[str, Any], range: Mapping[str, Any], groups: tuple[str, ...]) -> StatedFeature:
    return StatedFeature(
        dtype=str(spec.get("dtype")),
        shape=tuple(int(n) for n in spec.get("shape") or ()),
        names=groups or flatten_names(spec.get("names")),
        low=_numbers(range.get("min")),
        high=_numbers(range.get("max")),
    )


def _numbers(values: Any) -> tuple[float, ...]:
    return tuple(float(x) for x in values) if isinstance(values, list) and _are_numbers(values) else ()


def _are_numbers(values: list[Any]) -> bool:
    return all(isinstance(x, (int, float)) for x in values)


def _describe_camera(spec: Mapping[str, Any]) -> StatedCamera:
    info = {**(spec.get("info") or {}), **(spec.get("video_info") or {})}
    names, shape = flatten_names(spec.get("names")), [int(n) for n in spec.get("shape") or ()]
    by_name = dict(zip(names, shape, strict=False))
    size = (by_name["height"], by_name["width"]) if {"height", "width"} <= set(by_name) else None
    rate = info.get("video.fps")
    codec = str(info.get("video.codec") or ("video" if spec.get("dtype") == "video" else ""))
    return StatedCamera(
        size=size,
        codec=codec,
        rate_hz=float(rate) if isinstance(rate, (int, float)) else None,
        why_left_out="depth, which is left out" if is_depth(spec) else "",
    )


def _read_ranges(root: StoragePath) -> Mapping[str, Mapping[str, Any]]:
    """Lows and highs of each feature: of meta/stats.json, or over the lines of meta/episodes_stats.jsonl."""
    whole, lines = root / "meta/stats.json", root / "meta/episodes_stats.jsonl"
    if whole.exists():
        return {key: item for key, item in read_metadata_json(whole).items() if isinstance(item, Mapping)}
    ranges: dict[str, dict[str, list[float]]] = {}
    for line in lines.read_bytes().splitlines() if lines.exists() else ():
        for key, item in (json.loads(line).get("stats") or {}).items():
            if _numbers(item.get("min")) and _numbers(item.get("max")):
                known = ranges.setdefault(key, {"min": list(item["min"]), "max": list(item["max"])})
                known["min"] = list(map(min, known["min"], item["min"]))
                known["max"] = list(map(max, known["max"], item["max"]))
    return ranges


def _group_names(modality: Modality) -> dict[str, tuple[str, ...]]:
    """GR00T's names of dims, by groups such as `left_arm`: feature -> `left_arm[0]`, ... one a dim."""
    names: dict[str, dict[int, str]] = {}
    for part, columns in modality.parts.items():
        own = names.setdefault(columns.key, {})
        group = part.partition(".")[2]
        own |= {i: f"{group}[{i - columns.start}]" for i in range(columns.start, columns.stop)}
    return {
        key: tuple(by_number[i] for i in range(len(by_number)))
        for key, by_number in names.items()
        if sorted(by_number) == list(range(len(by_number)))
    }
