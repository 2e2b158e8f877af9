"""The metadata of a LeRobot dataset: its info.json, its episodes, and the texts of its tasks."""

import functools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from pipelines.contract.errors import FailedWork, UsageError, nearest
from pipelines.contract.native import Reject
from pipelines.sources.folders import key_of
from pipelines.sources.lerobot_files.first_version import INFO, is_first_version, list_episodes, read_info
from pipelines.sources.lerobot_files.listing import list_promised, list_shared, list_single
from pipelines.sources.lerobot_files.modality import Modality, read_modality
from pipelines.sources.lerobot_files.records import EpisodeFiles, read_lines, read_metadata_json, read_table
from pipelines.sources.lerobot_files.templates import Info, Layout, layout_of, read_templates
from pipelines.storage.paths import StoragePath

_METADATA = ("meta", "meta_data")
VERSIONS = ("v2.0", "v2.1", "v3.0", "v3.1")
# What metadata raises that is JSON or a table, but not LeRobot's.
_MALFORMED = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)


@dataclass(frozen=True, kw_only=True)
class Meta:
    """The metadata of a dataset: its info.json, every episode that it lists, and task texts by index.

    rejects: what is listed or there and cannot be an episode. inferred: what was concluded about the whole dataset.
    modality: parts and cameras as GR00T names them.
    """

    info: Info
    layout: Layout
    episodes: Mapping[int, EpisodeFiles]
    tasks: Mapping[int, str]
    subtasks: Mapping[int, str] = field(default_factory=dict)
    rejects: tuple[Reject, ...] = ()
    inferred: Mapping[str, str] = field(default_factory=dict)
    modality: Modality = Modality()

    @property
    def fps(self) -> float:
        return float(self.info["fps"])

    @property
    def features(self) -> Mapping[str, Mapping[str, Any]]:
        return self.info.get("features") or {}


@functools.lru_cache(maxsize=2)
def load_meta(root: StoragePath) -> Meta:
    """Reads the metadata, wherever it lies. Raises UsageError for other versions, FailedWork for damaged files."""
    with malformed_metadata_named(root):
        return _load_meta(root)


@contextmanager
def malformed_metadata_named(root: StoragePath) -> Iterator[None]:
    """Raises FailedWork, which names the dataset, for what metadata of another form raises."""
    try:
        yield
    except _MALFORMED as error:
        raise FailedWork(f"{root}/meta: expected LeRobot's metadata, found {error!r}") from error


def find_root(source: StoragePath) -> StoragePath:
    """Returns the folder of the one dataset at or below `source`. Raises UsageError when there are none, or several."""
    roots = (
        [source]
        if (source / "meta/info.json").exists() or is_first_version(source)
        else sorted(
            {path.parent.parent for path in source.rglob("info.json") if path.parent.name in _METADATA}, key=str
        )
    )
    if len(roots) != 1:
        _refuse_bare_tables(source, roots)
        listed = ", ".join(key_of(root, source) for root in roots) or "none"
        raise UsageError(f"{source}: expected one LeRobot dataset (meta/info.json), found {listed}")
    return roots[0]


def _refuse_bare_tables(source: StoragePath, roots: Sequence[StoragePath]) -> None:
    """Raises UsageError where tables lie without what says their rate and what their columns mean."""
    tables: list[StoragePath] = [] if roots else sorted(source.rglob("*.parquet"), key=str)
    if tables:
        raise UsageError(
            f"{source}: expected one LeRobot dataset, found tables such as {key_of(tables[0], source)} without the "
            "metadata that says their rate and what their columns mean (meta/info.json and others). Fetch the folder "
            "meta/ of the same dataset beside data/"
        )


def flatten_names(names: Any) -> tuple[str, ...]:
    """Returns the names of a feature's dims, in every form that LeRobot's datasets have them.

    A list; lists in a list; lists by group, `{"motors": [...]}`; numbers by name, `{"x": 0, "y": 1}`.

    >>> flatten_names({"motors": ["waist", "shoulder"]})
    ('waist', 'shoulder')
    """
    if isinstance(names, Mapping):
        if all(isinstance(number, int) for number in names.values()):
            return tuple(str(name) for name, _ in sorted(names.items(), key=lambda item: item[1]))
        return tuple(name for group in names.values() for name in flatten_names(group))
    if not isinstance(names, Sequence) or isinstance(names, str):
        return ()
    nested = (flatten_names(name) if isinstance(name, Mapping | list) else (str(name),) for name in names)
    return tuple(name for group in nested for name in group)


def _load_meta(root: StoragePath) -> Meta:
    if not (root / "meta/info.json").exists() and is_first_version(root):
        return _load_first_version(root)
    info = read_metadata_json(root / "meta/info.json")
    version = str(info.get("codebase_version"))
    if version not in VERSIONS:
        raise UsageError(f"{root}: LeRobot version {version!r} is unknown. {nearest(version, VERSIONS)}")
    _check_rate(root / "meta/info.json", info)
    layout = layout_of(root, info)
    templates = read_templates(info, layout)
    there = {path for folder in templates.folders for path in (root / folder).rglob("*") if "." in path.name}
    inferred = {}
    if (layout == "files of many episodes") != version.startswith("v3"):
        inferred["layout"] = f"LeRobot: info.json says {version}; the files are laid out as {layout}"
    if templates.refused:
        inferred["templates"] = f"LeRobot: {'; '.join(templates.refused)}; the usual paths were taken"
    list_files = list_single if layout == "a file per episode" else list_shared
    listing = list_files(root, info, templates, there)
    inferred |= listing.inferred
    episodes = dict(sorted(listing.episodes.items()))
    return Meta(
        info=info,
        layout=layout,
        episodes=episodes,
        tasks=_read_texts(root, "tasks", "task"),
        subtasks=_read_texts(root, "subtasks", "subtask"),
        rejects=(*listing.rejects, *list_promised(root, info, episodes, listing.rejects)),
        inferred=inferred,
        modality=read_modality(root),
    )


def _load_first_version(root: StoragePath) -> Meta:
    info = read_info(root)
    _check_rate(root / INFO, info)
    listing = list_episodes(root, info)
    return Meta(
        info=info,
        layout="files of many episodes",
        episodes=dict(sorted(listing.episodes.items())),
        tasks={},
        rejects=listing.rejects,
    )


def _check_rate(path: StoragePath, info: Info) -> None:
    if not 0 < float(info.get("fps") or 0) < float("inf"):
        raise FailedWork(f"{path}: expected fps above 0, found {info.get('fps')!r}")


def _read_texts(root: StoragePath, name: str, column: str) -> dict[int, str]:
    """Texts by index from meta/NAME.jsonl or meta/NAME.parquet, where pandas stores the text as the index column."""
    lines = root / f"meta/{name}.jsonl"
    table = root / f"meta/{name}.parquet"
    number = f"{column}_index"
    texts: dict[int, str] = {}
    for path, rows in ((lines, read_lines(lines)), (table, read_table(table).to_pylist() if table.exists() else [])):
        for row in rows:
            index, text = int(row[number]), str(row.get(column) or row.get("__index_level_0__") or "")
            if texts.setdefault(index, text) != text:
                both = f"{texts[index]!r} and {text!r}"
                raise FailedWork(
                    f"{path}: expected one text for {number} {index}, in tasks.jsonl and tasks.parquet alike, found "
                    f"{both}. Correct it, or remove the file that is out of date"
                )
    return texts
