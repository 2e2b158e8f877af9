"""Cameras beside a replay buffer: `videos/EPISODE/CAMERA.mp4`, as Diffusion Policy's recorder leaves them."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipelines.contract.native import Rejected
from pipelines.sources.alignment import pair_frames
from pipelines.sources.camera_rows import CameraRows
from pipelines.sources.video import read_clock
from pipelines.storage.mirror import Files, Listing
from pipelines.storage.paths import RemotePath

_FOLDER = "videos"


def list_videos(store: Path, number: int) -> dict[str, Path]:
    """The videos of one episode by the name of their camera, `camera_0` for `0.mp4`; none where there is no folder.

    Diffusion Policy's own conversion (`real_data_conversion.py`) gives them these names.
    """
    folder = store.parent / _FOLDER / str(number)
    paths = sorted(folder.glob("*.mp4")) if folder.is_dir() else []
    return {f"camera_{path.stem}" if path.stem.isdigit() else path.stem: path for path in paths}


def remote_videos(store: RemotePath, number: int, listing: Listing) -> Files:
    """The same videos in an object store."""
    found = listing.below(store.parent / _FOLDER / str(number))
    return {path: stat for path, stat in found.items() if path.name.endswith(".mp4")}


def pair_video(path: Path, times_s: NDArray[np.float64] | None, hz: float | None, n_rows: int) -> CameraRows:
    """Pairs the rows of an episode with the frames of one camera: both begin with the episode.

    times_s: of the rows, from any start; where there are none, rows come at `hz`. Raises Rejected where neither is
    known, or the times do not rise, so that nothing says which frame is a row's.
    """
    if times_s is None and not hz:
        raise Rejected("wrong_times", f"{path}: expected data/timestamp or an entry's rate, to pair frames by")
    rows_s = np.arange(n_rows) / (hz or 1.0) if times_s is None else times_s - times_s[0]
    if not (np.diff(rows_s) > 0).all():
        raise Rejected("wrong_times", f"{path}: data/timestamp: expected times that rise, to pair them with frames")
    clock = read_clock(path)
    pairing = pair_frames(rows_s, clock.times_s, 1 / clock.rate_hz if clock.rate_hz else float(rows_s[-1]) or 1.0)
    found = np.flatnonzero(pairing.frames >= 0)
    at_end = not len(found) or bool((pairing.frames[: found[-1] + 1] >= 0).all())
    return CameraRows(
        frames=pairing.frames,
        clock=clock,
        why="truncated_video" if at_end else "missing_frames",
        error_s=pairing.error_s,
    )
