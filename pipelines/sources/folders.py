"""Episode folders and files below an input, on a disk or in an object store."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from pipelines.contract.errors import UsageError
from pipelines.storage.paths import RemotePath, StoragePath, as_storage_path

IsEpisode = Callable[[str, Sequence[str]], bool]


def source_root(source: str) -> StoragePath:
    """Returns the input as a place with a whole path, so that references lead back from anywhere."""
    place = as_storage_path(source)
    return place if isinstance(place, RemotePath) else place.absolute()


def key_of(place: StoragePath, root: StoragePath) -> str:
    """Returns the path of `place` below `root`, with slashes, as the key of an episode.

    >>> key_of(Path("/logs/a/b"), Path("/logs"))
    'a/b'
    """
    return str(place)[len(str(root)) :].lstrip("/").replace(os.sep, "/") or place.name


def find_folders(root: StoragePath, is_episode: IsEpisode) -> list[StoragePath]:
    """Returns, sorted, every folder at or below `root` for which `is_episode(path, names in it)` holds.

    On a disk nothing below an episode's own folder is looked at. Raises UsageError when `root` is no folder.
    """
    if isinstance(root, RemotePath):
        return _find_remote_folders(root, is_episode)
    if not root.is_dir():
        raise UsageError(f"{root}: expected a folder, found {'a file' if root.exists() else 'nothing'}")
    found: list[StoragePath] = []
    for folder, folders, files in os.walk(root):
        if is_episode(folder, folders + files):
            found.append(Path(folder))
            folders.clear()
    return sorted(found, key=str)


def find_files(root: StoragePath, pattern: str) -> list[StoragePath]:
    """Returns, sorted, the files at or below `root` whose names match. Raises UsageError when `root` is no folder."""
    if not root.is_dir():
        raise UsageError(f"{root}: expected a folder, found {'a file' if root.exists() else 'nothing'}")
    return sorted(root.rglob(pattern), key=str)


def _find_remote_folders(root: RemotePath, is_episode: IsEpisode) -> list[StoragePath]:
    """Object stores list objects, not folders: folders are what their names begin with."""
    names: dict[str, set[str]] = {}
    for place in root.rglob("*"):
        folder, name = place.url.rsplit("/", 1)
        while name not in names.setdefault(folder, set()):
            names[folder].add(name)
            if len(folder) <= len(root.url):
                break
            folder, name = folder.rsplit("/", 1)
    found: list[StoragePath] = []
    for folder in sorted(names):
        inside_another = any(folder.startswith(f"{other}/") for other in found[-1:])
        if not inside_another and is_episode(folder, sorted(names[folder])):
            found.append(RemotePath(folder))
    return found
