"""How the files of a LeRobot dataset are laid out, and the path templates of info.json, checked before use."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Literal

from pipelines.storage.paths import StoragePath

Layout = Literal["a file per episode", "files of many episodes"]
Info = Mapping[str, Any]
_DATA: dict[Layout, str] = {
    "a file per episode": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
    "files of many episodes": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
}
_VIDEOS: dict[Layout, str] = {
    "a file per episode": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
    "files of many episodes": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
}
_FIELD = re.compile(r"\{(\w+)(?::0?(\d*)d?)?\}")
_KNOWN = {"episode_chunk", "episode_index", "chunk_index", "file_index", "video_key"}


@dataclass(frozen=True, kw_only=True)
class Templates:
    """The path templates of info.json, checked, and what was wrong with those that were not taken."""

    data: str
    videos: str
    refused: tuple[str, ...] = ()

    @property
    def folders(self) -> tuple[str, ...]:
        """Folders below the root that hold tables and videos."""
        first = (text.split("/")[0] for text in (self.data, self.videos) if "{" not in text.split("/")[0])
        return tuple(dict.fromkeys((*first, "data", "videos")))


def layout_of(root: StoragePath, info: Info) -> Layout:
    """By the metadata that is there, then by the path template; the version is a label that exporters copy."""
    if (root / "meta/episodes.jsonl").exists():
        return "a file per episode"
    if any(True for _ in (root / "meta/episodes").rglob("*.parquet")):
        return "files of many episodes"
    template = str(info.get("data_path") or "")
    if "{file_index" in template or "{episode_index" in template:
        return "files of many episodes" if "{file_index" in template else "a file per episode"
    return "files of many episodes" if str(info["codebase_version"]).startswith("v3") else "a file per episode"


def read_templates(info: Info, layout: Layout) -> Templates:
    """The templates of info.json where they are paths below the dataset with known fields, else the usual ones."""
    found, refused = {}, []
    for key, usual in (("data_path", _DATA[layout]), ("video_path", _VIDEOS[layout])):
        template = info.get(key)
        if template is None or template == usual:
            found[key] = usual
            continue
        fields = {match[1] for match in _FIELD.finditer(str(template))}
        path = PurePosixPath(_FIELD.sub("x", str(template)))
        is_safe = not path.is_absolute() and ".." not in path.parts and not set("{}\0\\") & set(str(path))
        needed = {"episode_index"} if layout == "a file per episode" else {"episode_index", "file_index"}
        if isinstance(template, str) and is_safe and fields <= _KNOWN and needed & fields:
            found[key] = template
        else:
            found[key] = usual
            refused.append(f"{key} of info.json, {str(template)[:80]!r}, is no path below the dataset for one episode")
    return Templates(data=found["data_path"], videos=found["video_path"], refused=tuple(refused))


def fill_template(template: str, values: Mapping[str, int | str]) -> str:
    """Fills a path template such as `data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet`.

    Not `str.format`, which foreign text can make read any attribute or allocate any width. Raises KeyError for a
    field that is not in `values`.

    >>> fill_template("chunk-{chunk_index:03d}/{video_key}.mp4", {"chunk_index": 7, "video_key": "top"})
    'chunk-007/top.mp4'
    """

    def fill(match: re.Match[str]) -> str:
        value = values[match[1]]
        width = min(int(match[2] or 0), 20)
        return f"{value:0{width}d}" if isinstance(value, int) else value

    return _FIELD.sub(fill, template)
