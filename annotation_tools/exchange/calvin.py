"""CALVIN: `lang_annotations/auto_lang_ann.npy` and `ep_start_end_ids.npy`, in frames counted through all episodes.

Both ends of a range count. CALVIN names no episode, only ranges of frames: an export lists in embodimix_episodes.json
which episode each range is; for other files `--names` gives it, by `first-last`. Sentences are stored, embeddings are
not: `emb` has width 0. Kind goes into `task`; the format cannot hold arms, success and
confidence.
"""

import io
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from annotation_tools.exchange.clips import Clip, Collector, EpisodeNames, Imported
from annotation_tools.exchange.numbering import write_numbers
from pipelines.contract.episode import Segment, SegmentKind
from pipelines.contract.errors import FailedWork
from pipelines.segments.tables import KINDS
from pipelines.sources.restricted_pickle import load_pickle
from pipelines.storage.files import write_atomically


def write(directory: Path, clips: Sequence[Clip]) -> list[Path]:
    """Writes the sentences and the ranges of the episodes, in frames counted through these episodes."""
    ends = np.cumsum([clip.n_steps for clip in clips])
    starts = ends - [clip.n_steps for clip in clips]
    spoken = [(segment, int(start)) for clip, start in zip(clips, starts, strict=True) for segment in clip.segments]
    content = {
        "language": {
            "ann": [segment.text for segment, _ in spoken],
            "task": [segment.kind for segment, _ in spoken],
            "emb": np.zeros((len(spoken), 1, 0), np.float32),
        },
        "info": {"episodes": [], "indx": [(start + s.start, start + s.end - 1) for s, start in spoken]},
    }
    sentences, ranges = directory / "lang_annotations" / "auto_lang_ann.npy", directory / "ep_start_end_ids.npy"
    write_atomically(sentences, _npy(np.array(content, dtype=object)))
    write_atomically(ranges, _npy(np.stack([starts, ends - 1], axis=1)))
    named = {f"{start}-{end - 1}": clip for clip, start, end in zip(clips, starts, ends, strict=True)}
    return [sentences, ranges, write_numbers(directory, named)]


def read(path: Path, names: EpisodeNames) -> Imported:
    """Reads sentences by the ranges of the episodes.

    Raises FailedWork where a sentence lies in no episode, a range is of another length than its episode, or a file
    would run code when it is read.
    """
    file = path / "lang_annotations" / "auto_lang_ann.npy"
    content = _load(file)
    try:
        ranges = np.load(path / "ep_start_end_ids.npy")
    except (OSError, ValueError) as error:
        raise FailedWork(f"{path}: expected ep_start_end_ids.npy, found {error}") from error
    try:
        language, spans = content["language"], content["info"]["indx"]
        rows = list(zip(language["ann"], language["task"], spans, strict=True))
    except (KeyError, TypeError, ValueError) as error:
        raise FailedWork(f"{file}: expected language.ann, language.task and info.indx, found {error!r}") from error
    found_in: dict[int, list[Segment]] = {}
    for text, task, (first, last) in rows:
        inside = np.flatnonzero((ranges[:, 0] <= first) & (last <= ranges[:, 1]))
        if not len(inside):
            raise FailedWork(f"{file}: frames {first}-{last}: expected a range inside one episode, found none")
        begin = int(ranges[inside[0], 0])
        kind: SegmentKind = str(task) if str(task) in KINDS else "subtask"  # type: ignore[assignment]
        found_in.setdefault(int(inside[0]), []).append(
            Segment(start=int(first) - begin, end=int(last) - begin + 1, text=str(text), kind=kind, source="source")
        )
    return _collect(file, ranges, found_in, names)


def _collect(
    file: Path, ranges: NDArray[np.int64], found_in: Mapping[int, list[Segment]], names: EpisodeNames
) -> Imported:
    found = Collector(where=str(file))
    for number, segments in found_in.items():
        first, last = (int(frame) for frame in ranges[number])
        if (match := names.match(f"{first}-{last}")) is None:
            found.absent.append(f"{first}-{last}")
            continue
        match.check_rows(last - first + 1, f"{file}: frames {first}-{last}")
        found.add(match, match.place(segments))
    return found.finish()


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=array.dtype == object)
    return buffer.getvalue()


def _load(file: Path) -> Any:
    """The dictionary that the file's one object holds; numpy's own reader would run whatever its pickle says."""
    try:
        with open(file, "rb") as stream:
            if np.lib.format.read_magic(stream) == (1, 0):
                np.lib.format.read_array_header_1_0(stream)
            else:
                np.lib.format.read_array_header_2_0(stream)
            (content,) = load_pickle(stream.read(), objects=True)
    except (OSError, ValueError, TypeError, pickle.UnpicklingError) as error:
        raise FailedWork(f"{file}: expected a CALVIN annotation file, found: {error}") from error
    return content
