"""Which episodes a LeRobot dataset has, in which files, and what is promised, doubled or not listed."""

import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow.parquet as pq

from pipelines.contract.errors import FailedWork
from pipelines.contract.native import MAX_PROMISED, Reject
from pipelines.sources.folders import key_of
from pipelines.sources.lerobot_files.records import (
    PARQUET_ERRORS,
    EpisodeFiles,
    VideoSpan,
    key_of_episode,
    read_lines,
    reject_episode,
)
from pipelines.sources.lerobot_files.templates import Info, Templates, fill_template
from pipelines.storage.paths import StoragePath

_EPISODE_FILE = re.compile(r"episode_(\d+)\.(?:parquet|mp4)")
_CHUNK_SIZE = 1000


@dataclass(frozen=True, kw_only=True)
class EpisodeListing:
    """The episodes of a dataset by number, the rejects among what is listed or stored, and what was inferred."""

    episodes: Mapping[int, EpisodeFiles]
    rejects: tuple[Reject, ...]
    inferred: Mapping[str, str]


def list_single(root: StoragePath, info: Info, templates: Templates, there: set[StoragePath]) -> EpisodeListing:
    """Episodes of v2.0 and v2.1: one Parquet file, and one MP4 per camera, each."""
    lines = read_lines(root / "meta/episodes.jsonl")
    counts = Counter(int(row["episode_index"]) for row in lines)
    rows = {int(row["episode_index"]): row for row in lines}
    tables, films = _by_number(there)
    cameras = [key for key, spec in (info.get("features") or {}).items() if spec.get("dtype") == "video"]
    cameras += sorted({camera for _, camera in films} - set(cameras))
    found: dict[int, EpisodeFiles] = {}
    rejects: list[Reject] = []
    astray: set[str] = set()
    # Both, so that an episode that only the metadata or only a file knows is a reject and not dropped in silence.
    for number in sorted({*rows, *tables}):
        values = _values_of(info, number)
        data, others = _choose(root, templates.data, values, tables[number], there)
        astray.update({"data_path"} if others is None else ())
        for other in others or ():
            detail = f"{key_of(other, root)}: a second table of episode {number}"
            rejects.append(reject_episode(root, info, number, "duplicate_episode", detail))
        if counts[number] > 1:
            detail = f"meta/episodes.jsonl lists episode {number} {counts[number]} times"
            rejects += [reject_episode(root, info, number, "duplicate_episode", detail)] * counts[number]
        elif rows and number not in rows and data is not None:
            detail = f"meta/episodes.jsonl does not list episode {number}, whose table is there"
            rejects.append(reject_episode(root, info, number, "unlisted", detail))
        elif data is not None or not others:
            videos: dict[str, VideoSpan] = {}
            for camera in cameras:
                path, copies = _choose(
                    root, templates.videos, {**values, "video_key": camera}, films[number, camera], there
                )
                videos |= {camera: VideoSpan(path=path)} if path is not None else {}
                astray.update({"video_path"} if copies is None else ())
            row = rows.get(number, {})
            tasks = tuple(row.get("tasks") or ())
            found[number] = EpisodeFiles(number=number, data=data, length=row.get("length"), tasks=tasks, videos=videos)
    return EpisodeListing(episodes=found, rejects=tuple(rejects), inferred=_explain_astray(astray))


def list_shared(root: StoragePath, info: Info, templates: Templates, there: set[StoragePath]) -> EpisodeListing:
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
        rejects += [reject_episode(root, info, number, "duplicate_episode", detail)] * n_copies
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
    disputed = _disputed(found, float(info.get("fps") or 1))
    rejects += [reject_episode(root, info, number, "unequal_clocks", why) for number, why in disputed.items()]
    found = {number: episode for number, episode in found.items() if number not in disputed}
    return EpisodeListing(episodes=_with_file_spans(found), rejects=tuple(rejects), inferred={})


def list_promised(
    root: StoragePath, info: Info, episodes: Mapping[int, EpisodeFiles], rejects: Sequence[Reject]
) -> list[Reject]:
    """A reject for each episode that `total_episodes` counts and no metadata lists."""
    total = int(info.get("total_episodes") or 0)
    named = {reject.source_key for reject in rejects} | {key_of_episode(number) for number in episodes}
    n_missing = total - len(named)
    detail = f"info.json promises {total} episodes, {len(named)} are listed or there"
    # A number in info.json must not make millions of rejects.
    if n_missing > MAX_PROMISED:
        lost = reject_episode(root, info, total - 1, "promised_missing", detail)
        return [replace(lost, source_key=f"{n_missing} episodes")]
    missing = [number for number in range(total) if key_of_episode(number) not in named][: max(n_missing, 0)]
    return [reject_episode(root, info, number, "promised_missing", detail) for number in missing]


def _by_number(
    there: set[StoragePath],
) -> tuple[Mapping[int, list[StoragePath]], Mapping[tuple[int, str], list[StoragePath]]]:
    """Tables by the number, and videos by the number and folder, that they are named after."""
    tables: dict[int, list[StoragePath]] = defaultdict(list)
    films: dict[tuple[int, str], list[StoragePath]] = defaultdict(list)
    for path in sorted(there, key=str):
        match = _EPISODE_FILE.fullmatch(path.name)
        if match and path.name.endswith(".parquet"):
            tables[int(match[1])].append(path)
        elif match:
            films[int(match[1]), path.parent.name].append(path)
    return tables, films


def _values_of(info: Info, number: int) -> dict[str, int | str]:
    """What the fields of a template stand for, for an episode with files of its own."""
    chunk = _chunk_of(info, number)
    return {"episode_index": number, "file_index": number, "episode_chunk": chunk, "chunk_index": chunk}


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


def _disputed(episodes: Mapping[int, EpisodeFiles], fps: float) -> dict[int, str]:
    """Episodes to whose frames another one has the same right, and why: one of both shows the other's pictures.

    Their stretches of one file overlap by half a frame or more, as where `from_timestamp` is missing or was not moved
    on. Stretches without an end reach up to the next one's start.
    """
    by_file: dict[StoragePath, list[tuple[float, float, int]]] = defaultdict(list)
    for episode in episodes.values():
        for span in episode.videos.values():
            by_file[span.path].append((span.from_s, span.from_s if span.to_s is None else span.to_s, episode.number))
    disputed: dict[int, str] = {}
    for path, spans in by_file.items():
        spans.sort()
        for (start, end, number), (later, _, other) in itertools.pairwise(spans):
            if later - start >= 0.5 / fps and end - later < 0.5 / fps:
                continue
            for one, two in ((number, other), (other, number)):
                detail = f"{path}: from {later:.3f} s on, meta/episodes gives frames to episode {one} and to {two}"
                disputed.setdefault(one, f"{detail}; expected stretches that do not overlap")
    return disputed


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
    root: StoragePath, info: Info, template: str, row: Mapping[str, Any], prefix: str, key: str
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


def _chunk_of(info: Info, number: int) -> int:
    return number // (int(info.get("chunks_size") or 0) or _CHUNK_SIZE)


def _span(
    root: StoragePath, info: Info, template: str, row: Mapping[str, Any], key: str, there: set[StoragePath]
) -> VideoSpan | None:
    path = _shared_path(root, info, template, row, f"videos/{key}", key)
    if path is None or path not in there:
        return None
    from_s, to_s = row.get(f"videos/{key}/from_timestamp"), row.get(f"videos/{key}/to_timestamp")
    return VideoSpan(path=path, from_s=float(from_s or 0.0), to_s=None if to_s is None else float(to_s))


def _read_rows(path: StoragePath) -> list[dict[str, Any]]:
    """The rows of a table of meta/episodes, without its statistics, which are most of its columns."""
    try:
        with path.open("rb") as file:
            parquet = pq.ParquetFile(file)
            names = [name for name in parquet.schema_arrow.names if not name.startswith("stats/")]
            return parquet.read(columns=names).to_pylist()
    except PARQUET_ERRORS as error:
        raise FailedWork(f"{path}: expected a Parquet table, found {error}") from error
