"""One episode as its source stores it, before it gets slots; what every source reader returns."""

import math
import pickle
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.contract.episode import DroppedSteps, Image, Reference
from pipelines.contract.errors import FailedWork
from pipelines.contract.images import MAX_PIXELS
from pipelines.contract.reject_reasons import RejectReason

# More than any stream of numbers of one episode, or any chunk of pictures, takes; a file that says more lies.
MAX_ARRAY_BYTES = 1 << 28
MAX_CHUNK_BYTES = 1 << 30
# More episodes than that which a source promises and does not hold are one reject: a number of ten digits costs nothing
# to write, and a row for each would fill the memory.
MAX_PROMISED = 100_000


# What numpy and the file libraries raise on hostile bytes; such an episode is rejected by name, others are converted.
# zlib, struct and pickle have errors of their own that are none of the built-in kinds; Pillow raises SyntaxError on a
# broken PNG; zarr and h5py check some of what they read by assert.
UNREADABLE = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    BufferError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    pickle.PickleError,
    struct.error,
    zlib.error,
)


class Rejected(FailedWork):
    """An episode that cannot enter the dataset; `reason` is what it counts under, `detail` a sentence."""

    def __init__(self, reason: RejectReason, detail: str) -> None:
        super().__init__(printable(f"{reason}: {detail}"))
        self.reason = reason
        self.detail = printable(detail)


def printable(text: str) -> str:
    r"""Returns the text with lone surrogates spelled out: names of files that are not UTF-8 hold them, JSON may.

    No parquet file, terminal or hash takes them, so that one such name would end a whole run.

    >>> printable(b"caf\xe9".decode("utf-8", "surrogateescape"))
    'caf\\udce9'
    """
    return text.encode("utf-8", "backslashreplace").decode()


def check_array_size(where: str, shape: Sequence[int], itemsize: int) -> None:
    """Raises Rejected for an array of numbers, about to be read, that no episode has."""
    if (size := math.prod(shape) * itemsize) > MAX_ARRAY_BYTES:
        raise Rejected("absurd_size", f"{where}: expected one episode's numbers, found {list(shape)}: {size:.2g} bytes")


def check_frames_size(where: str, shape: Sequence[int], chunk_bytes: int = 0) -> None:
    """Raises Rejected for frames [t, y, x, 3] that no camera takes, or that cannot be read a few at a time."""
    if math.prod(shape[1:3]) > MAX_PIXELS or chunk_bytes > MAX_CHUNK_BYTES:
        found = f"{list(shape)}, {chunk_bytes} bytes a chunk"
        raise Rejected("absurd_size", f"{where}: expected camera frames, found {found}")


@dataclass(frozen=True, kw_only=True)
class EpisodeLocation:
    """Where the plan found one episode: its reference, and what its reader needs to go straight to it.

    place: reader-specific numbers, for example the byte offset and length of a record. group: episodes of one group
    go to shards together, since they are read from one file; empty for episodes that stand alone.
    """

    reference: Reference
    place: tuple[int, ...] = ()
    group: str = ""


@dataclass(frozen=True, kw_only=True)
class Reject:
    """A row of `rejects.parquet`: a whole episode, or steps `start` up to `end` of one, left out for `reason`."""

    source_uri: str
    source_key: str
    split: str
    level: str
    start: int
    end: int
    reason: str
    detail: str

    def __post_init__(self) -> None:
        for name in ("source_uri", "source_key", "split", "detail"):
            object.__setattr__(self, name, printable(getattr(self, name)))


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a reader's scan of an input found: episodes in any order, and what it could not use.

    tasks: the instructions (or, without any, names of tasks) that the scan saw stated, where it costs nothing to see.
    """

    episodes: tuple[EpisodeLocation, ...]
    rejects: tuple[Reject, ...] = ()
    tasks: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class NativeEpisode:
    """One episode in the source's own words.

    arrays: per native key [t, k] (a scalar per step is [t, 1]); the names adapters select from.
    dim_names: names of the k columns of a key, where the source states them.
    frames: per native camera name, one frame per step, read when asked for. robot, control_hz: where the log says.
    timestamp_s: float64 [t] from the first step, or None for even spacing at the control rate.
    is_idle: bool [t] where the source marks steps that are no motion. success: 1, 0, or -1 unknown.
    step_text: the source's own instruction of each step, "" where it has none; None where it has none per step.
    inferred: what the source does not state and the reader concluded or repaired, short name -> one sentence.
    flags: episode-level numbers, for adapters that keep some episodes only. paths: DROID's names of the episode.
    missing_cameras: native names the log promises and does not hold. cameras_found: the cameras that are there, with
    their types, as a reader words them for the message that none of the adapter's is.
    notes: numbers about alignment and quality.
    """

    reference: Reference
    n_steps: int
    arrays: Mapping[str, NDArray[Any]]
    frames: Mapping[str, Sequence[Image]]
    dim_names: Mapping[str, Sequence[str]] = field(default_factory=dict)
    robot: str | None = None
    control_hz: float | None = None
    timestamp_s: NDArray[np.float64] | None = None
    task: str = ""
    language: tuple[str, ...] = ()
    step_text: tuple[str, ...] | None = None
    success: int = -1
    is_terminal: bool = True
    reward: NDArray[np.float32] | None = None
    discount: NDArray[np.float32] | None = None
    is_idle: NDArray[np.bool_] | None = None
    flags: Mapping[str, float] = field(default_factory=dict)
    paths: Mapping[str, str] = field(default_factory=dict)
    missing_cameras: tuple[str, ...] = ()
    cameras_found: str = ""
    dropped: tuple[DroppedSteps, ...] = ()
    notes: Mapping[str, float] = field(default_factory=dict)
    inferred: Mapping[str, str] = field(default_factory=dict)
