"""Pictures of LeRobot episodes: which frame of which video belongs to each row, by time, and what is there at all."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.contract.native import Rejected
from pipelines.contract.reject_reasons import RejectReason
from pipelines.sources.alignment import FRAME_TOLERANCE, Pairing, pair_frames
from pipelines.sources.camera_rows import RATE_TOLERANCE, CameraRows
from pipelines.sources.lerobot_files.meta import Meta
from pipelines.sources.lerobot_files.records import EpisodeFiles, VideoSpan
from pipelines.sources.video import VideoClock, read_clock
from pipelines.storage.mirror import local_path

# A video whose rate is so far from the dataset's is another one, even where every row finds a frame.
_OTHER_RATE = 0.25
_MOST_LOST = 0.1
# A video may hold so much more than its rows before it is asked which of its frames the rows are of.
MAX_SURPLUS_S = 0.5
_DEPTH_FLAGS = ("video.is_depth_map", "is_depth_map")


@dataclass(frozen=True, kw_only=True)
class RowTimes:
    """When the rows of an episode were recorded.

    seconds: float64 [t], as the source states them, from the start of the episode. rise: whether each is later than
    the one before. stated: whether they come from a `timestamp` column.
    """

    seconds: NDArray[np.float64]
    rise: bool
    stated: bool = True


def read_times(arrays: Mapping[str, NDArray[np.float64]], n: int, fps: float) -> RowTimes:
    """The times of an episode's rows: the `timestamp` column as it is; where there is none, rows at the rate."""
    if "timestamp" in arrays:
        seconds = arrays["timestamp"].reshape(-1)
        return RowTimes(seconds=seconds, rise=bool((np.diff(seconds) > 0).all()) and bool(np.isfinite(seconds).all()))
    numbers = arrays["frame_index"].reshape(-1) if "frame_index" in arrays else np.arange(n)
    return RowTimes(seconds=numbers / fps, rise=True, stated=False)


def pair_rows(span: VideoSpan, times: RowTimes, fps: float) -> CameraRows:
    """Pairs the rows of an episode with the frames of one camera's video.

    The video's clock counts as the container states it, from `from_timestamp` on; a frame belongs to a row at most a
    quarter of its period away. Raises Rejected where the video has another rate than the dataset, or where times and
    counts do not say which frame belongs to which row.
    """
    path = local_path(span.path)
    clock = read_clock(path)
    rate = clock.rate_hz
    wrong_rate = Rejected("wrong_rate", f"{path}: expected {fps:g} frames a second (info.json), found {rate:.4g}")
    off = abs(rate / fps - 1) if rate else 0.0
    if off > _OTHER_RATE:
        raise wrong_rate
    period_s = 1 / (rate or fps)
    inferred = {}
    shift_s = _file_shift(span, clock, period_s)
    if shift_s:
        inferred["video_clock"] = (
            f"LeRobot: a video's clock begins {shift_s:.3f} s after the times of meta/episodes; both were read from 0"
        )
    shown_s = clock.times_s - shift_s - span.from_s
    until_s = np.inf if span.to_s is None else span.to_s - span.from_s - period_s / 2
    inside = np.flatnonzero((shown_s > -period_s / 2) & (shown_s < until_s))
    if span.to_s is None:
        inside = np.arange(len(shown_s))
    if not len(inside):
        found = f"{clock.times_s[0]:.3f} to {clock.times_s[-1]:.3f} s"
        raise Rejected("truncated_video", f"{path}: expected frames from {span.from_s:.3f} s on, found {found}")
    if not times.rise:
        pairing = _pair_by_number(path_name=str(path), n_rows=len(times.seconds), n_frames=len(inside))
        inferred["video_numbers"] = "LeRobot: time stamps do not rise; frames were paired with rows by number"
    else:
        pairing = pair_frames(times.seconds, shown_s[inside], period_s)
        # Few frames at uneven times seem to have another rate, and pair all the same.
        if off > RATE_TOLERANCE and pairing.n_lost > _MOST_LOST * len(times.seconds):
            raise wrong_rate
    if pairing.shift_s and abs(pairing.shift_s) > FRAME_TOLERANCE * period_s:
        inferred["row_clock"] = (
            f"LeRobot: the rows' clock begins {-pairing.shift_s:.3f} s after the video's; each was read from its own "
            "start"
        )
    _check_surplus(str(path), times, shown_s[inside], pairing, period_s)
    frames = np.where(pairing.frames >= 0, inside[np.maximum(pairing.frames, 0)], -1)
    why: RejectReason = "truncated_video" if _lost_at_end(frames) else "missing_frames"
    return CameraRows(frames=frames, clock=clock, why=why, error_s=pairing.error_s, inferred=inferred)


def describe_video_cameras(
    meta: Meta, episode: EpisodeFiles, columns: Collection[str], folders: Collection[str]
) -> str:
    """Says which cameras an episode has, of what type, and why one of them cannot be used; for messages.

    columns: of the table that hold pictures. folders: what lies in the dataset's root.
    """
    there = []
    for key, spec in meta.features.items():
        if str(spec.get("dtype")) in ("video", "image") or len(spec.get("shape") or ()) > 2:
            there.append(f"{key} ({_describe_feature(key, spec, episode, columns)})")
    there += [f"{key} (a video that info.json does not list)" for key in episode.videos if key not in meta.features]
    there += [f"{key} (pictures that info.json does not list)" for key in columns if key not in meta.features]
    found = ", ".join(there) or "no camera at all"
    strange = [name for name in ("video", "images", "image") if name in folders and not episode.videos]
    hint = f"; there is a folder {strange[0]}/, which video_path of info.json does not name" if strange else ""
    return found + hint


def is_depth(spec: Mapping[str, Any], key: str = "") -> bool:
    """Says whether a feature holds distances, not colours: as it states itself, else by a word `depth` in its key.

    >>> is_depth({"dtype": "video"}, "observation.images.head_depth")
    True
    """
    info = {**(spec.get("info") or {}), **(spec.get("video_info") or {})}
    stated = [flag for flag in (*map(info.get, _DEPTH_FLAGS), spec.get("is_depth_map")) if flag is not None]
    return any(stated) if stated else "depth" in re.split(r"[^a-z]+", key.lower())


def _describe_feature(key: str, spec: Mapping[str, Any], episode: EpisodeFiles, columns: Collection[str]) -> str:
    kind = str(spec.get("dtype"))
    if is_depth(spec, key):
        return f"{kind}, depth, left out"
    if kind == "video":
        return "video" if key in episode.videos else "video, its MP4 is not there"
    if kind == "image":
        return "image" if key in columns else "image, the table has no such column of pictures"
    return f"{kind} numbers {list(spec.get('shape') or ())}, no encoded picture"


def _file_shift(span: VideoSpan, clock: VideoClock, period_s: float) -> float:
    """How much later the file's clock begins than the metadata's, judged by all episodes of the file together.

    One episode does not say: the frames of its neighbours are as near in time as its own.
    """
    if span.file_to_s is None:
        return 0.0
    n = round((span.file_to_s - span.file_from_s) / period_s)
    promised: NDArray[np.float64] = np.asarray(span.file_from_s + np.arange(max(n, 1)) * period_s, np.float64)
    shift_s = pair_frames(promised, clock.times_s, period_s).shift_s
    return shift_s if abs(shift_s) > FRAME_TOLERANCE * period_s else 0.0


def _pair_by_number(path_name: str, n_rows: int, n_frames: int) -> Pairing:
    if n_rows != n_frames:
        raise Rejected(
            "wrong_times",
            f"{path_name}: timestamp: expected times that rise, to find which of {n_frames} frames belong to "
            f"{n_rows} rows, found others",
        )
    return Pairing(frames=np.arange(n_rows), error_s=0.0)


def _check_surplus(
    path: str, times: RowTimes, frames_s: NDArray[np.float64], pairing: Pairing, period_s: float
) -> None:
    """Refuses a video much longer than rows whose times begin at 0, as they also do where a cut rewrote them."""
    used = pairing.frames[pairing.frames >= 0]
    n_behind = len(frames_s) - 1 - int(used.max(initial=-1))
    begins_at_0 = abs(times.seconds[0]) <= period_s
    if n_behind * period_s > MAX_SURPLUS_S and (begins_at_0 or not times.stated) and len(times.seconds):
        raise Rejected(
            "unequal_clocks",
            f"{path}: expected frames for {len(times.seconds)} rows, found {len(frames_s)}; the rows' times begin at "
            "0, so that they do not say which frames are theirs",
        )


def _lost_at_end(frames: NDArray[np.int64]) -> bool:
    """Whether every row without a frame lies behind all rows that have one."""
    found = np.flatnonzero(frames >= 0)
    return not len(found) or bool((frames[: found[-1] + 1] >= 0).all())
