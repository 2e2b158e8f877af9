"""Episode folders below an input, found without walking into them."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from pipelines.errors import UsageError


def find_folders(root: Path, is_episode: Callable[[str, Sequence[str]], bool]) -> list[Path]:
    """Returns, sorted, every folder at or below `root` for which `is_episode(path, names in it)` holds.

    Nothing below an episode's own folder is looked at. Raises UsageError when `root` is no folder.
    """
    if not root.is_dir():
        raise UsageError(f"{root}: expected a folder, found {'a file' if root.exists() else 'nothing'}")
    found = []
    for folder, folders, files in os.walk(root):
        if is_episode(folder, folders + files):
            found.append(Path(folder))
            folders.clear()
    return sorted(found)
