"""Lists of episodes and texts from outside, joined with a dataset's own episodes by the keys of its source."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipelines.contract.errors import UsageError
from pipelines.contract.instructions import clean_instruction
from pipelines.storage.paths import StoragePath, as_storage_path

Ranges = tuple[tuple[int, int], ...]
# DROID's own folders, LAB/success/DATE/TIME, which paths of every copy hold somewhere: RLDS (`file_path`), raw folders,
# and openpi's keys, which join two paths by `--`. Some copies replace the colons of TIME.
_DROID_FOLDER = re.compile(r"(?:^|/)([A-Za-z0-9]+/(?:success|failure)/\d{4}-\d{2}-\d{2}/[^/#]+?)(?=/|#|--|$)")
# DROID's numbers of episodes, by which its annotations go: LAB+HASH+DATE-TIME.
_DROID_ID = re.compile(r"[A-Za-z0-9]+\+[0-9a-f]+\+\d{4}-\d{2}-\d{2}-\d+h-\d+m-\d+s")
_DROID_PATHS = "episode_id_to_path.json"
_FORMS = (
    "a JSON list of keys or episode numbers, a JSON object by key (its values ranges of steps, or anything), or a text "
    "file with a key a line"
)
_TEXT_KEYS = ("language_instruction1", "language_instruction2", "language_instruction3", "language_instruction")


@dataclass(frozen=True, kw_only=True)
class EpisodeList:
    """Episodes by their joined keys (see `join_key`).

    ranges: of each listed episode the steps that are meant, half open and by the source's own numbers; None for all of
    them. n_rows: rows of the file. n_unknown: those that name no folder, since DROID's own table lacks their number.
    sha256: of the file.
    """

    name: str
    ranges: Mapping[str, Ranges | None]
    n_rows: int
    sha256: str
    n_unknown: int = 0

    @property
    def has_ranges(self) -> bool:
        return any(ranges is not None for ranges in self.ranges.values())

    def __contains__(self, key: str) -> bool:
        return join_key(key) in self.ranges


@dataclass(frozen=True, kw_only=True)
class EpisodeTexts:
    """Instructions by joined keys; n_unknown and sha256 as of `EpisodeList`."""

    name: str
    texts: Mapping[str, tuple[str, ...]]
    sha256: str
    n_unknown: int = 0


def join_key(key: str | int) -> str:
    """The form of a key in which lists and datasets are compared.

    A number, also as text, is that of a LeRobot episode, a path of DROID its folder LAB/OUTCOME/DATE/TIME; anything
    else is itself.

    >>> join_key(12), join_key("/data/r2d2/ILIAD/success/2023-04-21/Fri_Apr_21_10:42:08_2023/trajectory.h5")
    ('episode_000012', 'ILIAD/success/2023-04-21/Fri_Apr_21_10_42_08_2023')
    """
    # JSON objects have no other keys than texts.
    if isinstance(key, int) or re.fullmatch(r"\s*[0-9]+\s*", key):
        return f"episode_{int(key):06d}"
    folder = _DROID_FOLDER.search(key)
    return folder[1].replace(":", "_") if folder else key.strip()


def read_episode_list(where: str | StoragePath) -> EpisodeList:
    """Reads a list of episodes. Raises UsageError where it is none, is empty, or lists one episode in two ways."""
    path = as_storage_path(where)
    data = _read(path, "a list of episodes")
    rows = _parse_rows(path, data)
    paths = _DroidPaths(path)
    ranges: dict[str, Ranges | None] = {}
    for key, value in rows:
        joined = paths.join(key, value)
        if joined is None:
            continue
        meant = _parse_ranges(f"{path}: {key}", value)
        if ranges.setdefault(joined, meant) != meant:
            raise UsageError(f"{path}: expected an episode once, found {key!r} twice, with other steps. Correct it")
    if not ranges:
        raise UsageError(f"{path}: expected {_FORMS}; found {len(rows)} rows, none of which names an episode")
    without = [key for key, meant in ranges.items() if meant is None]
    if without and len(without) < len(ranges):
        raise UsageError(
            f"{path}: expected ranges of steps for every key, as for others, found none for {without[0]!r}"
        )
    return EpisodeList(name=path.name, ranges=ranges, n_rows=len(rows), n_unknown=paths.n_unknown, sha256=_digest(data))


def read_episode_texts(where: str | StoragePath) -> EpisodeTexts:
    """Reads instructions by key: a JSON object whose values are a text, a list of them, or DROID's annotations.

    Raises UsageError where the file is none, or holds no instruction.
    """
    path = as_storage_path(where)
    data = _read(path, "instructions by key")
    content = _load_json(path, data)
    if not isinstance(content, dict):
        raise UsageError(f"{path}: expected a JSON object, key to text or texts, found a {type(content).__name__}")
    paths = _DroidPaths(path)
    texts: dict[str, tuple[str, ...]] = {}
    for key, value in content.items():
        joined, found = paths.join(key, None), _texts_of(f"{path}: {key}", value)
        if joined is not None and found and texts.setdefault(joined, found) != found:
            raise UsageError(f"{path}: expected an episode once, found {key!r} twice, with other texts. Correct it")
    if not texts:
        raise UsageError(
            f"{path}: expected a JSON object, key to text, list of texts or {_TEXT_KEYS[0]}; found {len(content)} keys "
            f"without an instruction, and {paths.n_unknown} whose folder is not known"
        )
    return EpisodeTexts(name=path.name, texts=texts, n_unknown=paths.n_unknown, sha256=_digest(data))


def count_unmatched(listed: Iterable[str], keys: Iterable[str]) -> int:
    """How many listed (joined) keys are none of the keys of a dataset."""
    return len(set(listed) - {join_key(key) for key in keys})


@dataclass(kw_only=False)
class _DroidPaths:
    """DROID's table of the folder of each number, which lies beside the list that needs it."""

    beside: StoragePath
    n_unknown: int = 0
    _paths: dict[str, str] | None = field(default=None)

    def join(self, key: str | int, value: Any) -> str | None:
        """The joined key of a row; None, counted, where DROID's table lacks the number."""
        if isinstance(key, int) or not _DROID_ID.fullmatch(key.strip()):
            return join_key(key)
        # The table itself may be the list.
        path = value if isinstance(value, str) and _DROID_FOLDER.search(value) else self._load().get(key.strip())
        if path is None:
            self.n_unknown += 1
            return None
        return join_key(path)

    def _load(self) -> dict[str, str]:
        if self._paths is None:
            path = self.beside.parent / _DROID_PATHS
            if not path.exists():
                raise UsageError(
                    f"{self.beside}: is keyed by DROID's numbers (LAB+HASH+TIME), and datasets by folders: expected "
                    f"{_DROID_PATHS} beside it, found none. Fetch it from where the list is from (KarlP/droid)"
                )
            content = _load_json(path, path.read_bytes())
            if not isinstance(content, dict):
                raise UsageError(f"{path}: expected a JSON object, number to folder, found {type(content).__name__}")
            self._paths = {str(key): str(value) for key, value in content.items()}
        return self._paths


def _read(path: StoragePath, what: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: expected {what}, found: {error.strerror or error}") from error


def _parse_rows(path: StoragePath, data: bytes) -> list[tuple[str | int, Any]]:
    if not path.name.endswith(".json"):
        try:
            lines = data.decode("utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            raise UsageError(f"{path}: expected {_FORMS}; found bytes that are no UTF-8") from error
        return [(line, None) for text in lines if (line := text.strip())]
    content = _load_json(path, data)
    if isinstance(content, dict):
        return list(content.items())
    if isinstance(content, list) and all(isinstance(key, (str, int)) and not isinstance(key, bool) for key in content):
        return [(key, None) for key in content]
    raise UsageError(f"{path}: expected {_FORMS}; found a JSON {type(content).__name__} of something else")


def _load_json(path: StoragePath, data: bytes) -> Any:
    try:
        return json.loads(data, object_pairs_hook=_without_twins)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: expected JSON, found {error}") from error


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON, of which Python takes the last of several values of one key. Raises ValueError for others."""
    content: dict[str, Any] = {}
    for key, value in pairs:
        if content.setdefault(key, value) != value:
            raise ValueError(f"the key {key!r} twice, with other values")
    return content


def _parse_ranges(where: str, value: Any) -> Ranges | None:
    """Ranges of steps where a value is a list of pairs; None for a value that is not about steps.

    Raises UsageError for lists of numbers that are no ranges, and for false, which does not say what is meant."""
    if value is False:
        raise UsageError(f"{where}: expected a key only of an episode that is meant, found false; remove the others")
    if not isinstance(value, list) or value and all(isinstance(item, (str, dict)) for item in value):
        return None
    ranges = []
    for pair in value:
        is_pair = isinstance(pair, list) and len(pair) == 2 and all(type(number) is int for number in pair)
        if not is_pair or not 0 <= pair[0] <= pair[1]:
            raise UsageError(f"{where}: expected ranges [start, end) of steps, found {pair}")
        ranges.append((pair[0], pair[1]))
    return tuple(ranges)


def _texts_of(where: str, value: Any) -> tuple[str, ...]:
    if isinstance(value, Mapping):
        value = [value.get(key) or "" for key in _TEXT_KEYS]
    listed = [value] if isinstance(value, str) else value
    if not isinstance(listed, Sequence) or not all(isinstance(text, str) for text in listed):
        raise UsageError(f"{where}: expected a text, a list of texts or {_TEXT_KEYS[0]}, found {type(value).__name__}")
    return tuple(dict.fromkeys(text for text in map(clean_instruction, listed) if text))


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
