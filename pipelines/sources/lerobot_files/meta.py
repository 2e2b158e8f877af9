"""The metadata of a LeRobot dataset: which episodes there are, in which files, and what was promised and is missing."""

import functools
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.contract.errors import FailedWork, UsageError, nearest
from pipelines.contract.native import MAX_PROMISED, Reject
from pipelines.contract.reject_reasons import RejectReason
from pipelines.sources.folders import key_of
from pipelines.storage.paths import StoragePath

VERSIONS = ("v2.0", "v2.1", "v3.0", "v3.1")
Layout = Literal["a file per episode", "files of many episodes"]
_DATA = {
    "a file per episode": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
    "files of many episodes": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
}
_VIDEOS = {
    "a file per episode": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
    "files of many episodes": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
}
_EPISODE_FILE = re.compile(r"episode_(\d+)\.(?:parquet|mp4)")
_FIELD = re.compile(r"\{(\w+)(?::0?(\d*)d?)?\}")
_CHUNK_SIZE = 1000
# What metadata raises that is JSON or a table, but not LeRobot's.
_MALFORMED = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
PARQUET_ERRORS = (pa.ArrowException, OSError, ValueError)


@dataclass(frozen=True, kw_only=True)
class VideoSpan:
    """Where the frames of one camera of one episode lie.

    from_s, to_s: the stretch of the file that is the episode's; to_s None: all of it. file_from_s, file_to_s: the
    stretch that the metadata gives to all episodes of the file, by which its clock is read.
    """

    path: StoragePath
    from_s: float = 0.0
    to_s: float | None = None
    file_from_s: float = 0.0
    file_to_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class EpisodeFiles:
    """One episode as the metadata lists it. data: its table; None where there is none.

    from_row, to_row: what the metadata says of its rows in a file of many episodes.
    """

    number: int
    data: StoragePath | None
    length: int | None = None
    tasks: tuple[str, ...] = ()
    from_row: int | None = None
    to_row: int | None = None
    videos: Mapping[str, VideoSpan] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Meta:
    """The metadata of a dataset: its info.json, every episode that it lists, and task texts by index.

    rejects: what is listed or there and cannot be an episode. inferred: what was concluded about the whole dataset.
    folders: the folders in which tables and videos were looked for.
    """

    info: Mapping[str, Any]
    layout: Layout
    episodes: Mapping[int, EpisodeFiles]
    tasks: Mapping[int, str]
    subtasks: Mapping[int, str] = field(default_factory=dict)
    rejects: tuple[Reject, ...] = ()
    inferred: Mapping[str, str] = field(default_factory=dict)

    @property
    def fps(self) -> float:
        return float(self.info["fps"])

    @property
    def features(self) -> Mapping[str, Mapping[str, Any]]:
        return self.info.get("features") or {}


@dataclass(frozen=True, kw_only=True)
class Templates:
    """The path templates of info.json, checked, and what was wrong with those that were not taken."""

    data: str
    videos: str
    refused: tuple[str, ...] = ()

    @property
    def folders(self) -> tuple[str, ...]:
        """Folders below the root that hold tables and videos."""
        first = (text.split("/")[0] for text in (self.data, self.videos) if "{" not in text.split("/")[0])
        return tuple(dict.fromkeys((*first, "data", "videos")))


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
        if (source / "meta/info.json").exists()
        else sorted((path.parent.parent for path in source.rglob("info.json") if path.parent.name == "meta"), key=str)
    )
    if len(roots) != 1:
        listed = ", ".join(key_of(root, source) for root in roots) or "none"
        raise UsageError(f"{source}: expected one LeRobot dataset (meta/info.json), found {listed}")
    return roots[0]


def key_of_episode(number: int) -> str:
    """The key of an episode: its own number, whatever file it lies in."""
    return f"episode_{number:06d}"


def split_of(info: Mapping[str, Any], number: int) -> str:
    """The split whose range `start:end` in info.json holds the episode; `train` if none does."""
    for name, text in (info.get("splits") or {}).items():
        match = re.fullmatch(r"(\d+):(\d+)", str(text))
        if match and int(match[1]) <= number < int(match[2]):
            return str(name)
    return "train"


def make_reject(root: StoragePath, info: Mapping[str, Any], number: int, reason: RejectReason, detail: str) -> Reject:
    """The reject row of an episode that the scan cannot use."""
    return Reject(
        source_uri=str(root),
        source_key=key_of_episode(number),
        split=split_of(info, number),
        level="episode",
        start=0,
        end=0,
        reason=reason,
        detail=detail,
    )


def fill_template(template: str, values: Mapping[str, int | str]) -> str:
    """Fills a path template such as `data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet`.

    Not `str.format`, which foreign text can make read any attribute or allocate any width. Raises KeyError for a
    field that is not in `values`.

    >>> fill_template("chunk-{chunk_index:03d}/{video_key}.mp4", {"chunk_index": 7, "video_key": "top"})
    'chunk-007/top.mp4'
    """

    def fill(match: re.Match[str]) -> str:
        value = values[match[1]]
        width = min(int(match[2] or 0), 20)
        return f"{value:0{width}d}" if isinstance(value, int) else value

    return _FIELD.sub(fill, template)


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


def read_json(path: StoragePath) -> dict[str, Any]:
    """Reads a JSON object. Raises FailedWork."""
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise FailedWork(f"{path}: expected JSON, found {error}") from error
    if not isinstance(content, dict):
        raise FailedWork(f"{path}: expected a JSON object, found {type(content).__name__}")
    return content


def _load_meta(root: StoragePath) -> Meta:
    info = read_json(root / "meta/info.json")
    version = str(info.get("codebase_version"))
    if version not in VERSIONS:
        raise UsageError(f"{root}: LeRobot version {version!r} is unknown. {nearest(version, VERSIONS)}")
    if not 0 < float(info.get("fps") or 0) < float("inf"):
        raise FailedWork(f"{root}/meta/info.json: expected fps above 0, found {info.get('fps')!r}")
    layout = _layout_of(root, info)
    templates = _read_templates(info, layout)
    there = {path for folder in templates.folders for path in (root / folder).rglob("*") if "." in path.name}
    inferred = {}
    if (layout == "files of many episodes") != version.startswith("v3"):
        inferred["layout"] = f"LeRobot: info.json says {version}; the files are laid out as {layout}"
    if templates.refused:
        inferred["templates"] = f"LeRobot: {'; '.join(templates.refused)}; the usual paths were taken"
    listing = _list_files(root, info, layout, templates, there)
    inferred |= listing.inferred
    episodes = dict(sorted(listing.episodes.items()))
    return Meta(
        info=info,
        layout=layout,
        episodes=episodes,
        tasks=_read_texts(root, "tasks", "task"),
        subtasks=_read_texts(root, "subtasks", "subtask"),
        rejects=(*listing.rejects, *_promised(root, info, episodes, listing.rejects)),
        inferred=inferred,
    )


def _layout_of(root: StoragePath, info: Mapping[str, Any]) -> Layout:
    """By the metadata that is there, then by the path template; the version is a label that exporters copy."""
    if (root / "meta/episodes.jsonl").exists():
        return "a file per episode"
    if any(True for _ in (root / "meta/episodes").rglob("*.parquet")):
        return "files of many episodes"
    template = str(info.get("data_path") or "")
    if "{file_index" in template or "{episode_index" in template:
        return "files of many episodes" if "{file_index" in template else "a file per episode"
    return "files of many episodes" if str(info["codebase_version"]).startswith("v3") else "a file per episode"


def _read_templates(info: Mapping[str, Any], layout: Layout) -> Templates:
    """The templates of info.json where they are paths below the dataset with known fields, else the usual ones."""
    found, refused = {}, []
    for key, usual in (("data_path", _DATA[layout]), ("video_path", _VIDEOS[layout])):
        template = info.get(key)
        if template is None or template == usual:
            found[key] = usual
            continue
        known = {"episode_chunk", "episode_index", "chunk_index", "file_index", "video_key"}
        fields = {match[1] for match in _FIELD.finditer(str(template))}
        path = PurePosixPath(_FIELD.sub("x", str(template)))
        is_safe = not path.is_absolute() and ".." not in path.parts and not set("{}\0\\") & set(str(path))
        needed = {"episode_index"} if layout == "a file per episode" else {"episode_index", "file_index"}
        if isinstance(template, str) and is_safe and fields <= known and needed & fields:
            found[key] = template
        else:
            found[key] = usual
            refused.append(f"{key} of info.json, {str(template)[:80]!r}, is no path below the dataset for one episode")
    return Templates(data=found["data_path"], videos=found["video_path"], refused=tuple(refused))


@dataclass(frozen=True, kw_only=True)
class _Listing:
    episodes: Mapping[int, EpisodeFiles]
    rejects: tuple[Reject, ...]
    inferred: Mapping[str, str]


def _list_files(
    root: StoragePath, info: Mapping[str, Any], layout: Layout, templates: Templates, there: set[StoragePath]
) -> _Listing:
    if layout == "a file per episode":
        return _list_single(root, info, templates, there)
    return _list_shared(root, info, templates, there)


def _list_single(root: StoragePath, info: Mapping[str, Any], templates: Templates, there: set[StoragePath]) -> _Listing:
    """Episodes of v2.0 and v2.1: one Parquet file, and one MP4 per camera, each."""
    lines = _read_lines(root / "meta/episodes.jsonl")
    counts = Counter(int(row["episode_index"]) for row in lines)
    rows = {int(row["episode_index"]): row for row in lines}
    by_number: dict[int, list[StoragePath]] = defaultdict(list)
    by_camera: dict[tuple[int, str], list[StoragePath]] = defaultdict(list)
    for path in sorted(there, key=str):
        if (match := _EPISODE_FILE.fullmatch(path.name)) is None:
            continue
        if path.name.endswith(".parquet"):
            by_number[int(match[1])].append(path)
        else:
            by_camera[int(match[1]), path.parent.name].append(path)
    cameras = [key for key, spec in (info.get("features") or {}).items() if spec.get("dtype") == "video"]
    cameras += sorted({camera for _, camera in by_camera} - set(cameras))
    found: dict[int, EpisodeFiles] = {}
    rejects: list[Reject] = []
    astray: set[str] = set()
    for number in sorted({*rows, *by_number}):
        chunk = _chunk_of(info, number)
        values: dict[str, int | str] = {"episode_index": number, "episode_chunk": chunk, "chunk_index": chunk}
        values["file_index"] = number
        data, others = _choose(root, templates.data, values, by_number[number], there)
        if others is None:
            astray.add("data_path")
        for other in others or ():
            detail = f"{key_of(other, root)}: a second table of episode {number}"
            rejects.append(make_reject(root, info, number, "duplicate_episode", detail))
        if counts[number] > 1:
            detail = f"meta/episodes.jsonl lists episode {number} {counts[number]} times"
            rejects += [make_reject(root, info, number, "duplicate_episode", detail)] * counts[number]
            continue
        if data is None and others:
            continue
        if rows and number not in rows:
            detail = f"meta/episodes.jsonl does not list episode {number}, whose table is there"
            rejects.append(make_reject(root, info, number, "unlisted", detail))
            continue
        videos = {}
        for camera in cameras:
            files = by_camera[number, camera]
            video, copies = _choose(root, templates.videos, {**values, "video_key": camera}, files, there)
            if video is not None:
                videos[camera] = VideoSpan(path=video)
            if copies is None:
                astray.add("video_path")
        row = rows.get(number, {})
        length = row.get("length")
        found[number] = EpisodeFiles(
            number=number, data=data, length=length, tasks=tuple(row.get("tasks") or ()), videos=videos
        )
    return _Listing(episodes=found, rejects=tuple(rejects), inferred=_explain_astray(astray))


def _choose(
    root: StoragePath,
    template: str,
    values: Mapping[str, int | str],
    named: Sequence[StoragePath],
    there: set[StoragePath],
) -> tuple[StoragePath | None, list[StoragePath] | None]:
    """The file of an episode, and copies that are not it.

    The template's path counts where it is there. Where it is not, the one file that is named after the episode does:
    the copies are then None. Of several, none is chosen.
    """
    path = root / fill_template(template, values)
    if path in there:
        return path, [other for other in named if other != path]
    if len(named) == 1:
        return named[0], None
    return None, list(named)


def _explain_astray(astray: set[str]) -> dict[str, str]:
    return {
        key: f"LeRobot: {key} of info.json leads to no file for some episodes; files were taken by their names"
        for key in sorted(astray)
    }


def _list_shared(root: StoragePath, info: Mapping[str, Any], templates: Templates, there: set[StoragePath]) -> _Listing:
    """Episodes of v3.0: many in a file, their files and times in meta/episodes."""
    tables: list[StoragePath] = sorted((root / "meta/episodes").rglob("*.parquet"), key=str)
    rows = [row for table in tables for row in _read_rows(table)]
    keys = [key for key, spec in (info.get("features") or {}).items() if spec.get("dtype") == "video"]
    found: dict[int, EpisodeFiles] = {}
    rejects: list[Reject] = []
    by_number: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        by_number[int(row["episode_index"])].append(row)
    for number, same in by_number.items():
        # Copies that say the same leave no doubt about the episode; others do.
        n_copies = len(same) - 1 if all(row == same[0] for row in same) else len(same)
        detail = f"meta/episodes lists episode {number} {len(same)} times"
        rejects += [make_reject(root, info, number, "duplicate_episode", detail)] * n_copies
        if n_copies == len(same):
            continue
        row = same[0]
        data = _shared_path(root, info, templates.data, row, "data", "")
        found[number] = EpisodeFiles(
            number=number,
            data=data if data in there else None,
            length=row.get("length"),
            tasks=tuple(row.get("tasks") or ()),
            from_row=row.get("dataset_from_index"),
            to_row=row.get("dataset_to_index"),
            videos={key: span for key in keys if (span := _span(root, info, templates.videos, row, key, there))},
        )
    return _Listing(episodes=_with_file_spans(found), rejects=tuple(rejects), inferred={})


def _with_file_spans(episodes: Mapping[int, EpisodeFiles]) -> dict[int, EpisodeFiles]:
    """Says in every span what stretch of its file belongs to any episode."""
    stretches: dict[StoragePath, tuple[float, float | None]] = {}
    for episode in episodes.values():
        for span in episode.videos.values():
            start, end = stretches.get(span.path, (span.from_s, span.to_s))
            last = None if end is None or span.to_s is None else max(end, span.to_s)
            stretches[span.path] = min(start, span.from_s), last
    whole = {}
    for number, episode in episodes.items():
        videos = {}
        for key, span in episode.videos.items():
            start, end = stretches[span.path]
            videos[key] = replace(span, file_from_s=start, file_to_s=end)
        whole[number] = replace(episode, videos=videos)
    return whole


def _shared_path(
    root: StoragePath, info: Mapping[str, Any], template: str, row: Mapping[str, Any], prefix: str, key: str
) -> StoragePath | None:
    number = int(row["episode_index"])
    chunk, file = row.get(f"{prefix}/chunk_index"), row.get(f"{prefix}/file_index")
    values: dict[str, int | str] = {"episode_index": number, "episode_chunk": _chunk_of(info, number), "video_key": key}
    if chunk is not None and file is not None:
        values |= {"chunk_index": int(chunk), "file_index": int(file)}
    try:
        return root / fill_template(template, values)
    except KeyError:
        return None


def _chunk_of(info: Mapping[str, Any], number: int) -> int:
    return number // (int(info.get("chunks_size") or 0) or _CHUNK_SIZE)


def _span(
    root: StoragePath, info: Mapping[str, Any], template: str, row: Mapping[str, Any], key: str, there: set[StoragePath]
) -> VideoSpan | None:
    path = _shared_path(root, info, template, row, f"videos/{key}", key)
    if path is None or path not in there:
        return None
    from_s, to_s = row.get(f"videos/{key}/from_timestamp"), row.get(f"videos/{key}/to_timestamp")
    return VideoSpan(path=path, from_s=float(from_s or 0.0), to_s=None if to_s is None else float(to_s))


def _promised(
    root: StoragePath, info: Mapping[str, Any], episodes: Mapping[int, EpisodeFiles], rejects: Sequence[Reject]
) -> list[Reject]:
    """A reject for each episode that `total_episodes` counts and no metadata lists."""
    total = int(info.get("total_episodes") or 0)
    named = {reject.source_key for reject in rejects} | {key_of_episode(number) for number in episodes}
    n_missing = total - len(named)
    detail = f"info.json promises {total} episodes, {len(named)} are listed or there"
    if n_missing > MAX_PROMISED:
        lost = make_reject(root, info, total - 1, "promised_missing", detail)
        return [replace(lost, source_key=f"{n_missing} episodes")]
    missing = [number for number in range(total) if key_of_episode(number) not in named][: max(n_missing, 0)]
    return [make_reject(root, info, number, "promised_missing", detail) for number in missing]


def _read_texts(root: StoragePath, name: str, column: str) -> dict[int, str]:
    """Texts by index from meta/NAME.jsonl or meta/NAME.parquet, where pandas stores the text as the index column."""
    lines = root / f"meta/{name}.jsonl"
    table = root / f"meta/{name}.parquet"
    if lines.exists():
        return {int(row[f"{column}_index"]): str(row[column]) for row in _read_lines(lines)}
    if not table.exists():
        return {}
    rows = _read_table(table).to_pylist()
    return {int(row[f"{column}_index"]): str(row.get(column) or row.get("__index_level_0__") or "") for row in rows}


def _read_rows(path: StoragePath) -> list[dict[str, Any]]:
    """The rows of a table of meta/episodes, without its statistics, which are most of its columns."""
    try:
        with path.open("rb") as file:
            parquet = pq.ParquetFile(file)
            names = [name for name in parquet.schema_arrow.names if not name.startswith("stats/")]
            return parquet.read(columns=names).to_pylist()
    except PARQUET_ERRORS as error:
        raise FailedWork(f"{path}: expected a Parquet table, found {error}") from error


def _read_table(path: StoragePath) -> pa.Table:
    try:
        with path.open("rb") as file:
            return pq.read_table(file)
    except PARQUET_ERRORS as error:
        raise FailedWork(f"{path}: expected a Parquet table, found {error}") from error


def _read_lines(path: StoragePath) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    try:
        return [json.loads(line) for line in path.read_bytes().splitlines() if line.strip()]
    except ValueError as error:
        raise FailedWork(f"{path}: expected a JSON object a line, found {error}") from error
