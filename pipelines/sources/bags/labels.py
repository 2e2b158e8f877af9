"""Flags and texts of whole episodes: from a topic, from CSV or JSON files beside the bags, or from folders' names."""

import csv
import functools
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.contract.native import Rejected
from pipelines.mapping.bag_form import LabelSource
from pipelines.sources.bags.logs.log import Log
from pipelines.sources.bags.topics import read_values
from pipelines.sources.folders import read_regular
from pipelines.storage.paths import RemotePath, StoragePath, as_storage_path

_MAX_TABLE_BYTES = 1 << 26
_ANY = "*"


@dataclass(frozen=True)
class _Row:
    """One row of a table, and the folder that the table lies in."""

    folder: StoragePath
    values: Mapping[str, str]


def read_label(source: LabelSource, log: Log, uri: str, key: str, start_ns: int, stop_ns: int, distro: str) -> str:
    """Returns what is stated of an episode, as a text; "" where nothing is.

    uri, key: of its reference. Raises Rejected where two rows of the files name it, or none of the files can be read.
    """
    if source.topic:
        values = [value for _, value in read_values(log, source.topic, start_ns, stop_ns, distro) if value]
        return values[-1] if values else ""
    if source.files:
        return _of_files(source, uri, key)
    return of_folders(source.folder or {}, key)


def of_folders(stated: Mapping[str, str], key: str) -> str:
    """What the nearest of an episode's folders says; `*` stands for any name, and for the name itself as a value.

    >>> of_folders({"success": "1", "failure": "0"}, "failure/lift/a.mcap")
    '0'
    >>> of_folders({"*": "*"}, "failure/put_it_down/a.mcap")
    'put it down'
    """
    folders = key.partition("#")[0].split("/")[:-1]
    for folder in reversed(folders):
        if folder in stated:
            return stated[folder]
    if _ANY not in stated or not folders:
        return ""
    return folders[-1].replace("_", " ") if stated[_ANY] == _ANY else stated[_ANY]


def _of_files(source: LabelSource, uri: str, key: str) -> str:
    path, _, number = key.partition("#")
    name = path.rpartition("/")[2]
    stem = name.rpartition(".")[0] or name
    names = {key, *(form + (f"#{number}" if number else "") for form in (path, path.rpartition(".")[0], name, stem))}
    rows = _table(_root_of(uri, path), source.files, source.key)
    if not any(source.column in row.values for several in rows.values() for row in several):
        there = ", ".join(sorted({column for several in rows.values() for row in several for column in row.values}))
        raise Rejected(
            "unreadable_metadata", f"{source.files}: expected a column {source.column!r}, found {there[:200]}"
        )
    own = [(stated, row) for stated in names & rows.keys() for row in rows[stated]]
    found = {row.values.get(source.column, "") for stated, row in own if not _is_of_another(stated, row, uri, name)}
    if len(found) > 1:
        listed = ", ".join(sorted(map(repr, found)))
        raise Rejected("wrong_identity", f"{key}: {source.files}: expected one {source.column}, found {listed}")
    return next(iter(found), "")


def _is_of_another(stated: str, row: "_Row", uri: str, name: str) -> bool:
    """Whether a row that states a bare name means the bag of that name beside its own file, and not this one."""
    if "/" in stated or str(row.folder) == uri.rpartition("/")[0]:
        return False
    return (row.folder / name).exists()


def _root_of(uri: str, path: str) -> str:
    """The input that a reference was found below."""
    root = uri.removesuffix(path).rstrip("/") if uri.endswith(path) else uri.rpartition("/")[0]
    return root or "/"


@functools.lru_cache(maxsize=8)
def _table(root: str, pattern: str, key: str) -> Mapping[str, list[_Row]]:
    """Rows of all files by the episode that they name."""
    if ".." in pattern.split("/") or pattern.startswith("/"):
        raise Rejected("unreadable_metadata", f"{pattern}: expected a glob of files below the input")
    folder = as_storage_path(root)
    paths: list[StoragePath] = sorted(folder.glob(pattern), key=str)
    if not paths:
        raise Rejected("missing_file", f"{root}: expected {pattern}, found none")
    rows: dict[str, list[_Row]] = {}
    for path in paths:
        for row in _rows_of(path):
            if key not in row:
                raise Rejected(
                    "unreadable_metadata", f"{path}: expected a column {key!r}, found {', '.join(map(str, row))[:200]}"
                )
            rows.setdefault(row[key], []).append(_Row(path.parent, row))
    return rows


def _rows_of(path: StoragePath) -> Iterator[Mapping[str, str]]:
    try:
        data = path.read_bytes() if isinstance(path, RemotePath) else read_regular(Path(path), _MAX_TABLE_BYTES)
        text = data.decode("utf-8-sig")
        if path.name.endswith(".csv"):
            yield from ({str(k): str(v or "") for k, v in row.items()} for row in csv.DictReader(io.StringIO(text)))
        elif path.name.endswith(".jsonl"):
            yield from (_plain(json.loads(line)) for line in text.splitlines() if line.strip())
        else:
            content = json.loads(text)
            yield from (_plain(row) for row in (content if isinstance(content, list) else [content]))
    except (OSError, ValueError, RecursionError, csv.Error, AttributeError) as error:
        raise Rejected("unreadable_metadata", f"{path}: expected rows of CSV or JSON, found {error}") from error


def _plain(row: Any) -> dict[str, str]:
    return {str(key): "" if value is None else str(value) for key, value in row.items()}
