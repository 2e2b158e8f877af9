"""Folders and files on local disks or in object stores (gs://, s3://), behind the few operations that storage needs.

A local place is a `pathlib.Path`; any other is a `RemotePath`, which goes through Beam's file systems and has the
same methods. What is written to an object store appears when it is complete, as a rename does on a disk.
"""

import fnmatch
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from pipelines.errors import FailedWork, UsageError
from pipelines.patience import with_patience


@dataclass(frozen=True)
class RemoteStat:
    """What is known of an object without reading it."""

    st_size: int
    st_mtime: float


@dataclass(frozen=True, order=True)
class RemotePath:
    """A folder or an object by its URL, without a slash at the end; folders need not be made."""

    url: str

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, name: str) -> "RemotePath":
        return RemotePath(f"{self.url}/{name}".rstrip("/"))

    @property
    def name(self) -> str:
        return self.url.rpartition("/")[2]

    @property
    def parent(self) -> "RemotePath":
        return RemotePath(self.url.rpartition("/")[0])

    def exists(self) -> bool:
        """Whether there is such an object, or anything below it."""
        return bool(_match(self.url)) or self.is_dir()

    def is_dir(self) -> bool:
        """Whether there is anything below it."""
        return any(True for _ in self.iterdir())

    def stat(self) -> RemoteStat:
        """The object's size and time. Raises FileNotFoundError."""
        found = self.matching("")
        if not found:
            raise FileNotFoundError(f"{self}: no such object")
        return found[self]

    def matching(self, pattern: str) -> dict["RemotePath", RemoteStat]:
        """The objects below that match a pattern of Beam (`*` within a name, `**` across), sorted; "" is its own name.

        The store lists every name that begins like the pattern, whatever comes after its first star.
        """
        found = _match(f"{self.url}/{pattern}".rstrip("/"))
        return {
            RemotePath(item.path): RemoteStat(st_size=item.size_in_bytes, st_mtime=item.last_updated_in_seconds or 0.0)
            for item in sorted(found, key=lambda item: item.path)
        }

    def open(self, mode: str = "rb") -> IO[bytes]:
        """Opens the object to be read, with seeking. Raises FileNotFoundError."""
        if mode != "rb":
            raise ValueError(f"mode: expected 'rb', found {mode!r}; write with `pipelines.files.atomic_file`")
        if not _match(self.url):
            raise FileNotFoundError(f"{self}: no such object")
        return self.open_known()

    def open_known(self) -> IO[bytes]:
        """Opens an object that was listed, as `open` does, without asking for it first."""
        from apache_beam.io.filesystem import CompressionTypes

        kind = CompressionTypes.UNCOMPRESSED
        return with_patience(lambda: _file_systems().open(self.url, compression_type=kind), self.url)

    def read_bytes(self) -> bytes:
        return with_patience(self._read, self.url)

    def _read(self) -> bytes:
        with self.open() as file:
            return file.read()

    def read_text(self) -> str:
        return self.read_bytes().decode()

    def iterdir(self) -> Iterator["RemotePath"]:
        """The objects and folders right below, sorted."""
        start = f"{self.url}/"
        names = {found.path[len(start) :].partition("/")[0] for found in _match(f"{start}**")}
        return iter(sorted(self / name for name in names if name))

    def glob(self, pattern: str) -> Iterator["RemotePath"]:
        """What matches the pattern below, one name per part of the pattern, sorted."""
        first, _, rest = pattern.partition("/")
        for place in self.iterdir():
            if fnmatch.fnmatchcase(place.name, first):
                yield from place.glob(rest) if rest else (place,)

    def rglob(self, pattern: str) -> Iterator["RemotePath"]:
        """The objects at any depth whose name matches, sorted."""
        return iter([place for place in self.matching("**") if fnmatch.fnmatchcase(place.name, pattern)])

    def mkdir(self, parents: bool = False, exist_ok: bool = False) -> None:
        """Does nothing: object stores have no folders."""

    def unlink(self, missing_ok: bool = False) -> None:
        """Removes the object. Raises FileNotFoundError where there is none, unless that is fine."""
        if _match(self.url):
            _file_systems().delete([self.url])
        elif not missing_ok:
            raise FileNotFoundError(f"{self}: no such object")

    def put(self, content: IO[bytes]) -> None:
        """Writes the object from what `content` holds. Raises FailedWork when the store holds something else then."""
        from apache_beam.io.filesystem import CompressionTypes

        kind = "application/octet-stream"
        size = 0
        with _file_systems().create(self.url, kind, compression_type=CompressionTypes.UNCOMPRESSED) as target:
            while chunk := content.read(1 << 20):
                size += len(chunk)
                target.write(chunk)
        if (found := self.stat().st_size) != size:
            raise FailedWork(f"{self}: expected {size} bytes after writing, found {found}. Run the same command again.")


Place = Path | RemotePath


def as_place(where: "str | Place") -> Place:
    """A local path, or a URL of a scheme that Beam knows. Raises UsageError for another.

    >>> as_place("gs://bucket/data/") / "bridge"
    RemotePath(url='gs://bucket/data/bridge')
    >>> as_place("data/bridge").name
    'bridge'
    """
    if not isinstance(where, str):
        return where
    if "://" not in where:
        return Path(where)
    scheme = where.partition("://")[0]
    if scheme == "file":
        return Path(where.removeprefix("file://"))
    return RemotePath(where.rstrip("/"))


def _match(pattern: str) -> list[Any]:
    """The objects that match a pattern of Beam's file systems; folders that some tools mark by an object do not."""
    from apache_beam.io.filesystem import BeamIOError

    try:
        found = with_patience(lambda: _file_systems().match([pattern])[0].metadata_list, pattern)
        return [item for item in found if not item.path.endswith("/")]
    except BeamIOError as error:
        raise FailedWork(f"{pattern}: expected to list it, found {error}") from error
    except ValueError as error:
        raise UsageError(f"{pattern}: expected a store that Beam reads: {error}") from error


def _file_systems() -> Any:
    from apache_beam.io.filesystems import FileSystems

    return FileSystems
