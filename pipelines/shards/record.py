"""One episode as an RLDS record: pictures as JPEG, vectors normalized and physical, and the episode's identity."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from pipelines.contract.droid import OTHER_INSTRUCTIONS, SECOND_EXTERIOR, DroidFeatures, take_turns
from pipelines.contract.episode import Episode, Image, Segment
from pipelines.contract.errors import FailedWork, UsageError, nearest
from pipelines.contract.images import BLACK_JPEG, to_jpeg
from pipelines.shards.example_wire import Encoded, ListBody, Value, encode_example, field_head
from pipelines.shards.schema import image_key
from pipelines.shards.spools import SpooledBytes, Spools
from pipelines.shards.statistics import NormStatistics, normalize

MAX_RECORD_BYTES = 2**31 - 1  # Protobuf reads no larger message, so no TFDS reader could.
# Of each camera in turn: some 256 kB, since each call that releases Python's GIL may have to wait for it.
_TURN_STEPS = 16


class EpisodeTooLarge(FailedWork):
    """An episode whose record no reader of `tf.train.Example` could parse."""


@dataclass(frozen=True, kw_only=True)
class Frames:
    """The JPEGs of one camera, spooled in the form of a bytes list's content.

    lengths: int64 [t], bytes of every JPEG. digest: sha256 of the spooled content.
    """

    content: SpooledBytes
    lengths: NDArray[np.int64]
    digest: bytes

    def body(self) -> ListBody:
        """The content, to be read once, in chunks."""
        return ListBody(self.content.n_bytes, self.content.chunks())


@dataclass(frozen=True, kw_only=True)
class Record:
    """One episode ready to be written: its features by TFDS name, the pictures apart.

    is_droid: whether it has DROID's own features, too.
    """

    episode_id: str
    features: Mapping[str, Value]
    frames: Mapping[str, Frames]
    is_droid: bool = False

    def encode(self) -> Encoded:
        """The `tf.train.Example`, equal bytes for equal episodes. Raises EpisodeTooLarge."""
        bodies = {image_key(camera, self.is_droid): frames.body() for camera, frames in self.frames.items()}
        encoded = encode_example({**self.features, **bodies})
        # Protobuf refuses messages over 2 GiB, so that no TFDS reader could open the dataset.
        if encoded.n_bytes > MAX_RECORD_BYTES:
            raise EpisodeTooLarge(
                f"expected a record of at most {MAX_RECORD_BYTES} bytes, found {encoded.n_bytes}: split the episode"
            )
        return encoded

    def close(self) -> None:
        """Frees the spooled pictures."""
        for frames in self.frames.values():
            frames.content.close()


def make_record(
    episode: Episode,
    *,
    dataset: str,
    cameras: Sequence[str],
    statistics: Mapping[str, NormStatistics],
    converter: str,
    spools: Spools | None = None,
) -> Record:
    """Turns an episode into a record: pictures as JPEG, vectors normalized (quantile map of its norm key) and physical.

    cameras: the camera slots of the whole dataset; one that the episode lacks gets black pictures.
    Raises CorruptImage for a frame that is no picture, UsageError when the statistics lack the norm key.
    """
    if episode.n_steps < 1:
        raise ValueError("episode: expected at least one step, found none")
    if episode.norm_key not in statistics:
        raise UsageError(f"statistics: no norm key {episode.norm_key!r}. {nearest(episode.norm_key, statistics)}")
    black = [BLACK_JPEG] * episode.n_steps
    images = {camera: episode.images.get(camera, black) for camera in cameras}
    if episode.droid:
        images[SECOND_EXTERIOR] = episode.droid.second_exterior
    frames = _spool(images, spools or Spools(None))
    identity = episode_id(episode, {camera: frames[camera].digest for camera in cameras if camera in episode.images})
    features = {
        **_step_features(episode, statistics[episode.norm_key]),
        **_episode_features(episode, identity, dataset, converter),
        **(_droid_features(episode, episode.droid) if episode.droid else {}),
    }
    return Record(episode_id=identity, features=features, frames=frames, is_droid=episode.droid is not None)


def episode_id(episode: Episode, picture_digests: Mapping[str, bytes]) -> str:
    """Names an episode by its content: 32 hex digits of the sha256 over vectors, times, masks, language and pictures.

    picture_digests: per camera the sha256 over its JPEGs, each with tag and length as in a bytes list.
    """
    digest = hashlib.sha256(b"embodimix.episode/v1")
    for array in (episode.state.astype("<f4"), episode.action.astype("<f4"), timestamp_ns(episode).astype("<i8")):
        digest.update(array.tobytes())
    for mask in (episode.state_mask, episode.action_mask):
        digest.update(mask.astype(np.uint8).tobytes())
    digest.update(json.dumps(list(episode.language)).encode())
    # Only pictures that the episode has: black ones for cameras that it lacks depend on the dataset, and its name must
    # not.
    for camera in sorted(picture_digests):
        digest.update(camera.encode() + picture_digests[camera])
    return digest.hexdigest()[:32]


def timestamp_ns(episode: Episode) -> NDArray[np.int64]:
    """The episode's times in whole nanoseconds, int64 [t], which is how they are stored."""
    return np.round(episode.timestamp_s * 1e9).astype(np.int64)


def segments_to_json(segments: Sequence[Segment]) -> str:
    """The segments as one line of JSON; confidence in float32's precision."""
    return json.dumps([{**asdict(s), "confidence": float(np.float32(s.confidence))} for s in segments])


def segments_from_json(text: bytes) -> tuple[Segment, ...]:
    """The inverse of `segments_to_json`."""
    return tuple(Segment(**{**row, "arms": tuple(row["arms"])}) for row in json.loads(text))


def step_instructions(task: str, segments: Sequence[Segment], n_steps: int) -> list[bytes]:
    """The source's own instruction of every step: that of its segment of source `source`, else the task's, else "".

    A task that is one of several step sentences is the instruction of those steps only; a step without a sentence
    then has none, since the task's would be another step's.

    >>> step_instructions("clean up", [Segment(start=0, end=1, text="open it", source="source")], 2)
    [b'open it', b'clean up']
    >>> step_instructions("open it", [Segment(start=0, end=1, text="open it", source="source")], 2)
    [b'open it', b'']
    """
    own = [segment for segment in segments if segment.source == "source"]
    is_of_some_steps = task in {segment.text for segment in own}
    texts = [b"" if is_of_some_steps else task.encode()] * n_steps
    for segment in own:
        texts[segment.start : segment.end] = [segment.text.encode()] * (segment.end - segment.start)
    return texts


def segment_features(segments: Sequence[Segment], n_steps: int) -> dict[str, Value]:
    """Every step's segment: its index, -1 outside all of them, and its text, "" where that is no language."""
    ids = np.full(n_steps, -1, np.int64)
    for i, segment in enumerate(segments):
        ids[segment.start : segment.end] = i
    texts = [segment.label.encode() for segment in segments] + [b""]
    return {"steps/segment_id": ids, "steps/segment_text": [texts[i] for i in ids]}


class _Spool:
    """One camera's JPEGs, as they are encoded."""

    # Spooled, since TFDS readers want one record per episode: an episode of 20,000 steps and three cameras has 1.4 GB.
    def __init__(self, images: Iterable[Image], spools: Spools) -> None:
        self._images = iter(images)
        self._content = SpooledBytes(spools)
        self._digest = hashlib.sha256()
        self._lengths: list[int] = []

    def take_turn(self) -> bool:
        """Encodes the next frames; False where none are left."""
        jpegs = [to_jpeg(image) for image in islice(self._images, _TURN_STEPS)]
        block = b"".join(part for jpeg in jpegs for part in (field_head(len(jpeg)), jpeg))
        self._digest.update(block)
        self._content.append(block)
        self._lengths += map(len, jpegs)
        return bool(jpegs)

    def frames(self) -> Frames:
        lengths = np.array(self._lengths, np.int64)
        return Frames(content=self._content, lengths=lengths, digest=self._digest.digest())


def _spool(images: Mapping[str, Iterable[Image]], spools: Spools) -> dict[str, Frames]:
    """Encodes the frames of every camera, some steps of each in turn: logs hold them side by side."""
    by_camera = {camera: _Spool(frames, spools) for camera, frames in images.items()}
    waiting = list(by_camera.values())
    while waiting:
        waiting = [spool for spool in waiting if spool.take_turn()]
    return {camera: spool.frames() for camera, spool in by_camera.items()}


def _step_features(episode: Episode, statistics: NormStatistics) -> dict[str, Value]:
    t = episode.n_steps
    state = normalize(episode.state, statistics.state.affine(), episode.state_mask)
    action = normalize(episode.action, statistics.action.affine(), episode.action_mask)
    is_last = np.arange(t) == t - 1
    return {
        "steps/observation/state": state.ravel(),
        "steps/observation/state_physical": episode.state.astype(np.float32).ravel(),
        "steps/action": action.ravel(),
        "steps/action_physical": episode.action.astype(np.float32).ravel(),
        "steps/language_instruction": step_instructions(episode.task, episode.segments, t),
        **segment_features(episode.segments, t),
        "steps/timestamp_s": (timestamp_ns(episode) / 1e9).astype(np.float32),
        # Exact, since the float32 seconds of RLDS lose milliseconds after hours.
        "steps/timestamp_ns": timestamp_ns(episode),
        "steps/is_idle": episode.is_idle.astype(np.int64),
        "steps/is_first": (np.arange(t) == 0).astype(np.int64),
        "steps/is_last": is_last.astype(np.int64),
        "steps/is_terminal": (is_last & episode.is_terminal).astype(np.int64),
        "steps/reward": episode.reward.astype(np.float32),
        "steps/discount": episode.discount.astype(np.float32),
    }


def _droid_features(episode: Episode, droid: DroidFeatures) -> dict[str, Value]:
    """What DROID's own loaders read of a record, beside its pictures."""
    vectors: dict[str, Value] = {f"steps/{name}": values.ravel() for name, values in droid.vectors.items()}
    others = take_turns(episode.language, 1 + len(OTHER_INSTRUCTIONS))[1:]
    texts = {
        f"steps/{name}": [text.encode()] * episode.n_steps
        for name, text in zip(OTHER_INSTRUCTIONS, others, strict=True)
    }
    return vectors | texts | {f"episode_metadata/{name}": [path.encode()] for name, path in droid.paths.items()}


def _episode_features(episode: Episode, identity: str, dataset: str, converter: str) -> dict[str, Value]:
    texts = {
        "episode_id": identity,
        "dataset": dataset,
        "source_uri": episode.reference.uri,
        "source_key": episode.reference.key,
        "robot": episode.robot,
        "control_mode": episode.control_mode,
        "layout": episode.layout,
        "task": episode.task,
        "norm_key": episode.norm_key,
        "converter": converter,
        "segments": segments_to_json(episode.segments),
        "parts": json.dumps(episode.parts),
    }
    features: dict[str, Value] = {name: [text.encode()] for name, text in texts.items()}
    features |= {
        "language": [text.encode() for text in episode.language],
        "control_hz": np.array([episode.control_hz], np.float32),
        "success": np.array([episode.success], np.int64),
        "n_steps": np.array([episode.n_steps], np.int64),
        "state_mask": episode.state_mask.astype(np.int64),
        "action_mask": episode.action_mask.astype(np.int64),
        "camera_mask": episode.camera_mask.astype(np.int64),
    }
    return {f"episode_metadata/{name}": value for name, value in features.items()}
