"""Object stores (gs://, s3://) through one layer: listings, whole files, byte ranges, with retries and time limits.

Credentials are found as the stores' own tools find them. For a server elsewhere, set AWS_ENDPOINT_URL or
CLOUD_STORAGE_EMULATOR_ENDPOINT (the latter without credentials).
"""

import os
from datetime import timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse

from mixtures.stores import gcs, s3
from mixtures.stores.ranges import RangeReader, RangeRequest
from pipelines.contract.errors import UsageError
from pipelines.storage import retry
from pipelines.storage.retry import with_store_retries

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

SCHEMES = ("gs", "s3")
IN_FLIGHT = 400


def is_remote(path: str) -> bool:
    """Says whether a path is a URI rather than a local file."""
    return "://" in path


def range_reader() -> RangeReader:
    """Reads many ranges of objects of either store at once; not of those that `needs_client` names."""
    return RangeReader(_range_request, IN_FLIGHT, gcs.renew_credentials)


def needs_client(path: str) -> bool:
    """Says whether only the store's own client has credentials; it costs some four times as much a read."""
    return path.startswith("s3://") and s3.find_credentials() is None


def _range_request(path: str, offset: int, length: int) -> RangeRequest:
    kind = gcs if path.startswith("gs://") else s3
    return kind.range_request(path, offset, length)


def open_object(path: str) -> Any:
    """An open object with `read_at(length, offset)`, which many threads may call at once."""
    system, key = locate(path)
    if path.startswith("gs://"):
        bucket, _, name = key.partition("/")
        return gcs.GcsObject(bucket=bucket, key=name, answer_s=retry.STORE_ANSWER_S)
    return with_store_retries(lambda: system.open_input_file(key), path)


def read_object(path: str) -> bytes:
    """The whole content of an object."""
    system, key = locate(path)

    def read() -> bytes:
        with system.open_input_stream(key) as stream:
            return stream.read()

    return with_store_retries(read, path)


def list_objects(path: str) -> dict[str, tuple[int, int]]:
    """The objects right under a folder: name -> (bytes, time of change in ns); empty for no such folder."""
    from pyarrow.fs import FileSelector, FileType

    system, key = locate(path)
    selector = FileSelector(key, allow_not_found=True)
    found = with_store_retries(lambda: system.get_file_info(selector), path)
    return {info.base_name: (info.size, info.mtime_ns or 0) for info in found if info.type == FileType.File}


def locate(path: str) -> tuple["FileSystem", str]:
    """The file system of a URI and the key inside it. Raises UsageError for a scheme that is not known."""
    parts = urlparse(path)
    if parts.scheme not in SCHEMES:
        known = ", ".join(f"{scheme}://" for scheme in SCHEMES)
        raise UsageError(f"{path}: expected a local path or one of {known}, found {parts.scheme}://")
    return _file_system(parts.scheme, os.getpid()), f"{parts.netloc}{parts.path}".rstrip("/")


@lru_cache(maxsize=8)
def _file_system(scheme: str, process: int) -> "FileSystem":
    """One client per process: connections do not survive a fork."""
    import pyarrow
    from pyarrow import fs

    pyarrow.set_io_thread_count(max(IN_FLIGHT, pyarrow.io_thread_count()))  # also the S3 client's connections
    if scheme == "s3":
        options = _endpoint("AWS_ENDPOINT_URL")
        return fs.S3FileSystem(
            **options,
            request_timeout=retry.STORE_ANSWER_S,
            connect_timeout=retry.STORE_ANSWER_S,
            retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=3),
        )
    options = _endpoint("CLOUD_STORAGE_EMULATOR_ENDPOINT")
    limit = timedelta(seconds=retry.STORE_ANSWER_S)
    return fs.GcsFileSystem(**options, anonymous=bool(options), retry_time_limit=limit)


def _endpoint(variable: str) -> dict[str, str]:
    url = os.environ.get(variable)
    if not url:
        return {}
    parts = urlparse(url if "://" in url else f"http://{url}")
    return {"scheme": parts.scheme, "endpoint_override": parts.netloc}
