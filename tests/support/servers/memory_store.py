"""An object store in memory, as one of Beam's file systems under `mem://`: no folders, no renames while writing."""

import io
from collections.abc import Callable, Iterator

from apache_beam.io.filesystem import BeamIOError, FileMetadata, FileSystem


class MemoryStore(FileSystem):
    """Objects by URL; an object appears when its writer closes it. `opened` lists what was read.

    before_open: is called before an object is read, and may wait or fail.
    """

    objects: dict[str, bytes] = {}
    opened: list[str] = []
    before_open: Callable[[str], None] = staticmethod(lambda path: None)

    @classmethod
    def scheme(cls) -> str:
        return "mem"

    def join(self, basepath: str, *paths: str) -> str:
        return "/".join([basepath.rstrip("/"), *paths])

    def split(self, path: str) -> tuple[str, str]:
        head, _, tail = path.rpartition("/")
        return head, tail

    def mkdirs(self, path: str) -> None:
        pass

    def has_dirs(self) -> bool:
        return False

    def _list(self, dir_or_prefix: str) -> Iterator[FileMetadata]:
        for path in sorted(self.objects):
            if path.startswith(dir_or_prefix):
                yield FileMetadata(path, len(self.objects[path]), 1.0)

    def create(self, path, mime_type=None, compression_type=None):  # type: ignore[no-untyped-def]
        objects = self.objects

        class Writer(io.BytesIO):
            def close(self) -> None:
                if not self.closed:
                    objects[path] = self.getvalue()
                super().close()

        return Writer()

    def open(self, path, mime_type=None, compression_type=None):  # type: ignore[no-untyped-def]
        self.opened.append(path)
        self.before_open(path)
        return io.BytesIO(self.objects[path])

    def exists(self, path: str) -> bool:
        return path in self.objects

    def size(self, path: str) -> int:
        return len(self.objects[path])

    def last_updated(self, path: str) -> float:
        return 1.0

    def metadata(self, path: str) -> FileMetadata:
        if path not in self.objects:
            raise BeamIOError(f"no {path}")
        return FileMetadata(path, len(self.objects[path]), 1.0)

    def copy(self, source_file_names, destination_file_names):  # type: ignore[no-untyped-def]
        raise NotImplementedError

    def rename(self, source_file_names, destination_file_names):  # type: ignore[no-untyped-def]
        raise NotImplementedError

    def delete(self, paths: list[str]) -> None:
        for path in paths:
            del self.objects[path]
