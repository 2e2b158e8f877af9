"""LeRobot datasets v2.0 to v3.1: Parquet tables, and pictures in MP4 files or in columns."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.contract.embodiments import fit_parts
from pipelines.contract.episode import Image, Reference
from pipelines.contract.errors import UsageError
from pipelines.contract.facts import SourceFacts
from pipelines.contract.flags import parse_flag
from pipelines.contract.instructions import clean_instruction
from pipelines.contract.native import EpisodeLocation, Found, NativeEpisode, Reject, Rejected
from pipelines.contract.reject_reasons import RejectReason
from pipelines.mapping.adapters import Adapter
from pipelines.sources.camera_rows import CameraRows, keep_paired
from pipelines.sources.folders import key_of, source_root
from pipelines.sources.lerobot_files.arrow import runs_of
from pipelines.sources.lerobot_files.facts import describe_dataset
from pipelines.sources.lerobot_files.meta import Meta, find_root, flatten_names, load_meta, malformed_metadata_named
from pipelines.sources.lerobot_files.records import (
    EpisodeFiles,
    key_of_episode,
    reject_episode,
    split_of,
)
from pipelines.sources.lerobot_files.tables import (
    INSTRUCTION,
    ColumnFrames,
    TableRows,
    read_row_texts,
    read_rows,
)
from pipelines.sources.lerobot_files.videos import (
    RowTimes,
    describe_video_cameras,
    is_depth,
    pair_rows,
    read_times,
)
from pipelines.sources.video import VideoFrames
from pipelines.storage.mirror import Files, Listing, local_path
from pipelines.storage.paths import RemotePath, StoragePath, as_storage_path
from pipelines.storage.retry import transient_cause

# Each dataset has its own entry.
USUAL_ADAPTER = ""


def find(source: str, adapter: Adapter) -> Found:
    """Lists every episode that the metadata names and the tables hold; what is only in one of them is a reject.

    Where many episodes share a file, these go to shards together.
    """
    root = find_root(source_root(source))
    load_meta.cache_clear()
    meta = load_meta(root)
    if meta.layout == "a file per episode":
        located, rejects = _locate_single(root, meta)
    else:
        located, rejects = _locate_shared(root, meta)
    return Found(episodes=tuple(located), rejects=(*meta.rejects, *rejects))


def files_of(located: EpisodeLocation, listing: Listing, pictures: bool) -> Files:
    """The episode's table and its videos, whose times the measuring pass compares with the rows'."""
    root, number = as_storage_path(located.reference.uri), located.place[0]
    episode = load_meta(root).episodes[number]
    paths = [episode.data, *(span.path for span in episode.videos.values())]
    return {path: stat for own in paths if isinstance(own, RemotePath) for path, stat in listing.own(own).items()}


def read(located: EpisodeLocation, adapter: Adapter) -> NativeEpisode:
    """Reads one episode; arrays go by column, frames by camera key.

    Rows without a frame near enough in time are left out and listed. A camera that info.json lists and no file holds
    is left out. Raises Rejected where the rows are not the episode's, or clocks do not belong together.
    """
    root, number, *bounds = as_storage_path(located.reference.uri), *located.place
    meta = load_meta(root)
    episode = meta.episodes[number]
    rows = read_rows(episode, *(bounds or (None, None)))
    if episode.n_promised is not None and episode.n_promised != rows.n:
        raise Rejected("unequal_lengths", f"{episode.data}: expected {episode.n_promised} rows, found {rows.n}")
    if not rows.n:
        raise Rejected("no_steps", f"{episode.data}: expected rows of episode {number}, found none")
    times = read_times(rows.arrays, rows.n, meta.fps)
    if not np.isfinite(times.seconds).all():
        raise Rejected("wrong_times", f"{episode.data}: timestamp: expected finite numbers, found others")
    cameras = _pair_cameras(meta, episode, rows, times, adapter)
    videos = [camera for camera in cameras.values() if camera is not None]
    kept, dropped = keep_paired(videos, rows.n, str(episode.data))
    arrays = {name: array[kept] for name, array in rows.arrays.items()}
    arrays |= meta.modality.arrays_by_name(arrays, str(episode.data))
    dim_names = {key: flatten_names(spec.get("names")) for key, spec in meta.features.items()}
    language = read_tasks(meta, episode, arrays) or _read_sentences(rows)
    step_text = read_row_texts(meta, rows, times.seconds)
    return NativeEpisode(
        reference=located.reference,
        n_steps=len(kept),
        arrays=arrays,
        frames=_open_frames(cameras, meta, episode, rows, kept),
        dim_names=dim_names | meta.modality.names_by_part(dim_names),
        robot=str(meta.info.get("robot_type")),
        control_hz=meta.fps,
        language=language,
        task=language[0] if language else "",
        step_text=None if step_text is None else tuple(step_text[i] for i in kept),
        timestamp_s=times.seconds[kept],
        reward=arrays["next.reward"].reshape(-1).astype(np.float32) if "next.reward" in arrays else None,
        success=_read_success(rows),
        missing_cameras=_missing_cameras(meta, episode),
        cameras_found=describe_video_cameras(meta, episode, rows.pictures, _names_in(root)),
        dropped=dropped,
        notes={"time_error_s": max(camera.error_s for camera in videos)} if videos else {},
        inferred=_inferred(meta, episode, rows, times, videos)
        | ({"units": adapter.units_known} if adapter.units_known else {}),
    )


def describe(source: str, found: Found) -> SourceFacts:
    """Returns what the dataset's metadata states, for `embodimix inspect`."""
    return describe_dataset(source)


def explain_misfit(source: str) -> str:
    """Says which dims of a dataset the default layout has no room for, as the reason to choose an adapter."""
    root = find_root(source_root(source))
    load_meta.cache_clear()
    with malformed_metadata_named(root):
        return _explain_misfit(root, load_meta(root))


def _explain_misfit(root: StoragePath, meta: Meta) -> str:
    robot = meta.info.get("robot_type")
    state = next((key for key in ("observation.state", "state", "observation/state") if key in meta.features), None)
    if state is None:
        listed = ", ".join(f"{key} {list(spec.get('shape') or ())}" for key, spec in meta.features.items())
        return f"robot_type {robot}, whose features are {listed or 'not listed in info.json'}"
    shape = meta.features[state].get("shape")
    width = int(np.prod(shape)) if shape else "unstated"
    parts = {name.removeprefix("state."): part for name, part in meta.modality.parts.items() if name[:6] == "state."}
    dims = {name: [f"{name}[{i}]" for i in range(part.stop - part.start)] for name, part in parts.items()}
    sides = {"left_arm": "arm0", "left_hand": "gripper0", "right_arm": "arm1", "right_hand": "gripper1"}
    try:
        fit_parts(str(robot), {part: dims[name] for name, part in sides.items() if name in dims})
        misfit = ""
    except UsageError as error:
        misfit = f"; {error}"
    others = [name for name in dims if name not in sides]
    rest = f"; no slots at all for {', '.join(others)}" if others else ""
    return f"robot_type {robot}, {state} of {width} dims{misfit}{rest}"


def read_tasks(meta: Meta, episode: EpisodeFiles, arrays: Mapping[str, NDArray]) -> tuple[str, ...]:
    """Returns the instructions: the texts of `task_index`, then others that are listed and are no mere flags.

    A list of the metadata that lacks every text of `task_index` contradicts it and is left out: LeRobot's own loader
    reads the text by the number.
    """
    indices: Any = np.unique(arrays["task_index"]).astype(int) if "task_index" in arrays else []
    named = [meta.tasks[int(i)] for i in indices if int(i) in meta.tasks]
    listed = [] if _contradicts(episode.tasks, named) else [text for text in episode.tasks if " " in text.strip()]
    cleaned = (clean_instruction(text) for text in [*named, *listed])
    return tuple(dict.fromkeys(text for text in cleaned if text))


def _read_sentences(rows: TableRows) -> tuple[str, ...]:
    """The instructions of the rows' own column, where no task is listed."""
    cleaned = (clean_instruction(text or "") for text in rows.columns.get(INSTRUCTION, ()))
    return tuple(dict.fromkeys(text for text in cleaned if text))


def _contradicts(listed: Sequence[str], named: Sequence[str]) -> bool:
    return bool(listed and named) and not set(listed) & set(named)


def _locate_single(root: StoragePath, meta: Meta) -> tuple[list[EpisodeLocation], list[Reject]]:
    located, rejects = [], []
    for number, episode in meta.episodes.items():
        if episode.data is None:
            detail = "expected a Parquet file with its rows, found none"
            rejects.append(reject_episode(root, meta.info, number, "missing_file", detail))
            continue
        located.append(EpisodeLocation(reference=_refer(root, meta, number), place=(number,)))
    return located, rejects


def _locate_shared(root: StoragePath, meta: Meta) -> tuple[list[EpisodeLocation], list[Reject]]:
    """Finds the rows of each episode by the tables' own `episode_index`; the metadata's row numbers are compared."""
    listed = {episode.data for episode in meta.episodes.values() if episode.data is not None}
    paths = sorted({*listed, *(root / "data").rglob("*.parquet")}, key=str)
    runs = {path: _runs_of(path) for path in paths}
    located, rejects = [], []
    for number, episode in meta.episodes.items():
        bounds = _bounds_of(episode, runs, meta)
        if isinstance(bounds, str):
            reason: RejectReason = "missing_file" if episode.data is None else "promised_missing"
            rejects.append(reject_episode(root, meta.info, number, reason, bounds))
            continue
        place = (number, *bounds)
        located.append(EpisodeLocation(reference=_refer(root, meta, number), place=place, group=str(episode.data)))
    taken = {reject.source_key for reject in meta.rejects}
    for path, found in runs.items():
        for number in sorted(found or {}):
            own = meta.episodes.get(number)
            if own is not None and own.data == path:
                continue
            where = key_of(path, root)
            if own is not None:
                detail = f"{where}: a second table with rows of episode {number}"
                rejects.append(reject_episode(root, meta.info, number, "duplicate_episode", detail))
            elif key_of_episode(number) not in taken:
                detail = f"{where}: holds rows of episode {number}, which meta/episodes does not list"
                rejects.append(reject_episode(root, meta.info, number, "unlisted", detail))
    return located, rejects


def _runs_of(path: StoragePath) -> dict[int, tuple[int, int]] | None:
    """First row and row behind the last of each episode of a table; None where it cannot be read or does not say."""
    try:
        runs = runs_of(path)
    except Rejected as error:
        # A disk that fails temporarily is tried again by the caller; as a reject the episodes would be lost.
        if passing := transient_cause(error):
            raise passing from error
        return None
    bounds: dict[int, tuple[int, int]] = {}
    for number, start, stop in runs:
        # The span of all runs: rows of one episode need not lie together, and the reader filters others out.
        bounds[number] = (min(start, bounds.get(number, (start, stop))[0]), stop)
    return bounds or None


def _bounds_of(
    episode: EpisodeFiles, runs: Mapping[StoragePath, Mapping[int, tuple[int, int]] | None], meta: Meta
) -> tuple[int, int] | str:
    """The rows among which an episode's lie, or why there are none."""
    if episode.data is None:
        return "expected a Parquet file with its rows, found none"
    found = runs[episode.data]
    if found is not None:
        if episode.number not in found:
            return f"{episode.data}: expected rows of episode {episode.number}, found none"
        return found[episode.number]
    # The table has no episode column, or cannot be read, which its reader then reports.
    if episode.from_row is None or episode.to_row is None:
        return f"{episode.data}: expected a column episode_index, or rows in meta/episodes, found neither"
    same = (other.from_row for other in meta.episodes.values() if other.data == episode.data)
    # Row numbers of the metadata count through the whole dataset; a file begins at the lowest of its episodes.
    first = min(row for row in same if row is not None)
    return episode.from_row - first, episode.to_row - first


def _refer(root: StoragePath, meta: Meta, number: int) -> Reference:
    return Reference(uri=str(root), key=key_of_episode(number), split=split_of(meta.info, number))


def _pair_cameras(
    meta: Meta, episode: EpisodeFiles, rows: TableRows, times: RowTimes, adapter: Adapter
) -> dict[str, CameraRows | None]:
    """The cameras that the adapter uses: videos with the frame of each row, and columns of pictures as None.

    Others are not opened: a camera that the entry does not use must not reject an episode. An entry may take a camera
    by the name that modality.json gives it.
    """
    there = [key for key in (*episode.videos, *rows.pictures) if not is_depth(meta.features.get(key, {}), key)]
    aliases = {alias: key for alias, key in meta.modality.cameras.items() if key in there}
    used = {aliases.get(name, name) for name in adapter.used_cameras([*there, *aliases])}
    return {
        key: pair_rows(episode.videos[key], times, meta.fps) if key in episode.videos else None
        for key in there
        if key in used
    }


def _open_frames(
    cameras: Mapping[str, CameraRows | None],
    meta: Meta,
    episode: EpisodeFiles,
    rows: TableRows,
    kept: NDArray[np.int64],
) -> dict[str, Sequence[Image]]:
    frames: dict[str, Sequence[Image]] = {}
    for key, camera in cameras.items():
        if camera is None:
            frames[key] = ColumnFrames(rows.path, key, rows.numbers[kept])
        else:
            frames[key] = VideoFrames(local_path(episode.videos[key].path), camera.frames[kept], camera.clock)
    return frames | {alias: frames[key] for alias, key in meta.modality.cameras.items() if key in frames}


def _missing_cameras(meta: Meta, episode: EpisodeFiles) -> tuple[str, ...]:
    listed = (key for key, spec in meta.features.items() if spec.get("dtype") == "video" and not is_depth(spec, key))
    return tuple(key for key in listed if key not in episode.videos)


def _read_success(rows: TableRows) -> int:
    """What the last row says of the episode; -1 where no column does."""
    for values in (rows.arrays.get("next.success"), rows.columns.get("next.success")):
        if values is not None:
            return parse_flag(values[-1])
    return -1


def _inferred(
    meta: Meta, episode: EpisodeFiles, rows: TableRows, times: RowTimes, videos: Sequence[CameraRows]
) -> dict[str, str]:
    inferred = dict(meta.inferred)
    numbers = rows.arrays.get("task_index", np.zeros(0)).reshape(-1)
    if _contradicts(episode.tasks, [meta.tasks[int(i)] for i in np.unique(numbers) if int(i) in meta.tasks]):
        inferred["tasks"] = "LeRobot: the tasks listed for an episode are not those of its task_index, which counts"
    for camera in videos:
        inferred |= camera.inferred
    index = rows.arrays.get("index")
    if index is not None and episode.from_row is not None and int(index.reshape(-1)[0]) != episode.from_row:
        inferred["rows"] = "LeRobot: row numbers of meta/episodes are not the tables'; rows were taken by episode_index"
    if not times.stated:
        inferred["times"] = "LeRobot: no column timestamp; rows were taken to come at the dataset's fps"
    elif not times.rise:
        inferred["times"] = "LeRobot: time stamps that repeat or go back were kept as they are"
    return inferred


def _names_in(root: StoragePath) -> tuple[str, ...]:
    """Names of the folders beside meta/, for messages; an object store has none."""
    return () if isinstance(root, RemotePath) else tuple(sorted(path.name for path in root.iterdir()))
