"""Folders and files on local disks or in object stores (gs://, s3://), behind the few operations that storage needs.

A local path is a `pathlib.Path`; any other is a `RemotePath`, which goes through Beam and has the same methods. What
is written to an object store appears when it is complete, as a rename does on a disk.
"""

import fnmatch
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TypeVar

from pipelines.contract.errors import FailedWork
from pipelines.storage.object_stores import (
    Object,
    delete_object,
    errors_named,
    has_objects,
    list_objects,
    open_object,
    upload_object,
)
from pipelines.storage.retry import with_retries

Answer = TypeVar("Answer")


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
        return bool(self.matching("")) or self.is_dir()

    def is_dir(self) -> bool:
        """Whether there is anything below it."""
        return self._asked(self.url, lambda: has_objects(self.url))

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
        return {RemotePath(f.url): RemoteStat(f.n_bytes, f.modified_s) for f in self._list(f"/{pattern}".rstrip("/"))}

    def first(self, n: int) -> list["RemotePath"]:
        """The first n objects at any depth, in the order of their names."""
        return [RemotePath(found.url) for found in self._list("/**", n)]

    def _list(self, pattern: str, most: int | None = None) -> list[Object]:
        url = f"{self.url}{pattern}"
        return self._asked(url, lambda: list_objects(url, most))

    def _asked(self, url: str, ask: Callable[[], Answer]) -> Answer:
        """Raises FailedWork when the store refuses, or does not answer."""
        try:
            return with_retries(ask, url)
        except OSError as error:
            raise FailedWork(f"{url}: expected to list it, found {error}") from error

    def open(self, mode: str = "rb") -> IO[bytes]:
        """Opens the object to be read, with seeking. Raises FileNotFoundError."""
        if mode != "rb":
            raise ValueError(f"mode: expected 'rb', found {mode!r}; write with `pipelines.storage.files.atomic_file`")
        size = self.stat().st_size
        return with_retries(lambda: open_object(self.url, size), self.url)

    def read_bytes(self) -> bytes:
        return with_retries(self._read, self.url)

    def _read(self) -> bytes:
        with errors_named(self.url), self.open() as file:
            return file.read()

    def read_text(self) -> str:
        return self.read_bytes().decode()

    def iterdir(self) -> Iterator["RemotePath"]:
        """The objects and folders right below, sorted."""
        start = f"{self.url}/"
        names = {found.url[len(start) :].partition("/")[0] for found in self._list("/**")}
        return iter(sorted(self / name for name in names if name))

    def glob(self, pattern: str) -> Iterator["RemotePath"]:
        """What matches the pattern below, one name per part of the pattern, sorted."""
        first, _, rest = pattern.partition("/")
        for path in self.iterdir():
            if fnmatch.fnmatchcase(path.name, first):
                yield from path.glob(rest) if rest else (path,)

    def rglob(self, pattern: str) -> Iterator["RemotePath"]:
        """The objects at any depth whose name matches, sorted."""
        return iter([path for path in self.matching("**") if fnmatch.fnmatchcase(path.name, pattern)])

    def mkdir(self, parents: bool = False, exist_ok: bool = False) -> None:
        """Does nothing: object stores have no folders."""

    def unlink(self, missing_ok: bool = False) -> None:
        """Removes the object. Raises FileNotFoundError where there is none, unless that is fine."""
        if self.matching(""):
            delete_object(self.url)
        elif not missing_ok:
            raise FileNotFoundError(f"{self}: no such object")

    def put(self, content: IO[bytes]) -> None:
        """Writes the object from what `content` holds. Raises FailedWork when the store holds something else then."""
        size = content.seek(0, os.SEEK_END)
        with_retries(lambda: upload_object(self.url, content), self.url)
        if (found := self.stat().st_size) != size:
            raise FailedWork(f"{self}: expected {size} bytes after writing, found {found}. Run the same command again.")


StoragePath = Path | RemotePath


def as_storage_path(where: "str | StoragePath") -> StoragePath:
    """A local path, or a URL of a scheme that Beam knows. Raises UsageError for another.

    >>> as_storage_path("gs://bucket/data/") / "bridge"
    RemotePath(url='gs://bucket/data/bridge')
    >>> as_storage_path("data/bridge").name
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
