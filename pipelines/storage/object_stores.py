"""What storage asks of object stores, through Beam: list, open, copy, delete, with errors that say what to do.

Beam's file systems make a new client for every call, which costs more than the call: with S3 a fifth of a second of a
core. So GCS and S3 are asked through Beam's own clients of them, made once; other schemes through the file systems.
"""

import copy
import itertools
import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

from pipelines.contract.errors import UsageError
from pipelines.storage.reach import check_reachable, has_google_credentials, with_login_advice

_EXTRAS = {"gs": "embodimix[dataflow]", "s3": "embodimix[s3]"}
_MIME = "application/octet-stream"
_COPY_BYTES = 1 << 20
_SMALLEST_BUFFER, _LARGEST_BUFFER = 1 << 16, 1 << 24
# What the libraries say, for want of a number, where nothing but other credentials helps.
_REFUSED = re.compile(r"credential|forbidden|denied|permission|signature", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True, order=True)
class Object:
    """A stored object. modified_s: seconds since 1970, 0 where the store does not say."""

    url: str
    n_bytes: int
    modified_s: float


def list_objects(pattern: str, most: int | None = None) -> list[Object]:
    """The objects that match a pattern of Beam, sorted by URL; a URL without stars is an object's own name.

    most: ends the listing after so many, which stores give in the order of their names. Objects by which some tools
    mark folders are left out. Raises OSError when the store does not answer or refuses.
    """
    prefix = re.match(r"[^[*?]*", pattern)[0]  # type: ignore[index]
    with errors_named(pattern):
        client = _client(pattern)
        if client is None:
            found = _file_systems().match([pattern])[0].metadata_list
            found = found[:most]
            every = [Object(url=f.path, n_bytes=f.size_in_bytes, modified_s=f.last_updated_in_seconds) for f in found]
        elif prefix == pattern:
            # The name itself comes before all that begin with it.
            first = next(iter(client.list_files(pattern, with_metadata=True)), None)
            every = [_object(*first)] if first and first[0] == pattern else []
        else:
            wanted = re.compile(_file_systems().get_filesystem(pattern).translate_pattern(pattern))
            listed = itertools.islice(client.list_files(prefix, with_metadata=True), most)
            every = [_object(*item) for item in listed if wanted.match(item[0])]
    return sorted(item for item in every if not item.url.endswith("/"))


def has_objects(folder: str) -> bool:
    """Whether there is any object below a folder's URL. Raises OSError."""
    with errors_named(folder):
        client = _client(folder)
        if client is None:
            return bool(_file_systems().match([f"{folder}/**"])[0].metadata_list)
        return next(iter(client.list_files(f"{folder}/")), None) is not None


def open_object(url: str, n_bytes: int = _LARGEST_BUFFER) -> IO[bytes]:
    """Opens an object that is there, for reads in any order. n_bytes: how much is likely to be read at once."""
    from apache_beam.io.filesystem import CompressionTypes

    with errors_named(url):
        client = _client(url)
        if client is None:
            opened: IO[bytes] = _file_systems().open(url, compression_type=CompressionTypes.UNCOMPRESSED)
            return opened
        opened = client.open(url, "rb", read_buffer_size=min(max(n_bytes, _SMALLEST_BUFFER), _LARGEST_BUFFER))
        return opened


def download_object(url: str, target: IO[bytes]) -> None:
    """Writes all bytes of an object that is there into `target`, in one request; the stores' checksums are checked."""
    with errors_named(url):
        client = _client(url)
        if client is None:
            with open_object(url) as source:
                shutil.copyfileobj(source, target, _COPY_BYTES)
        elif url.startswith("gs://"):
            bucket, name = _bucket_and_name(url)
            try:
                client.client.bucket(bucket).blob(name).download_to_file(target, raw_download=True)
            except ValueError as error:  # What an answer that ends within its head is to the library.
                raise ConnectionError(f"{url}: {error}") from error
        else:
            bucket, name = _bucket_and_name(url)
            body = client.client.client.get_object(Bucket=bucket, Key=name)["Body"]
            shutil.copyfileobj(body, target, _COPY_BYTES)


def upload_object(url: str, content: IO[bytes]) -> None:
    """Writes an object from all that a file holds; it appears when it is complete."""
    from apache_beam.io.filesystem import CompressionTypes

    content.seek(0)
    with errors_named(url):
        client = _client(url)
        if client is None:
            kind = CompressionTypes.UNCOMPRESSED
            with _file_systems().create(url, _MIME, compression_type=kind) as target:
                shutil.copyfileobj(content, target, _COPY_BYTES)
        elif url.startswith("gs://"):
            bucket, name = _bucket_and_name(url)
            client.client.bucket(bucket).blob(name).upload_from_file(content, content_type=_MIME)
        else:
            bucket, name = _bucket_and_name(url)
            client.client.client.upload_fileobj(_LeftOpen(content), bucket, name)


def delete_object(url: str) -> None:
    """Removes an object that is there."""
    with errors_named(url):
        client = _client(url)
        if client is None:
            _file_systems().delete([url])
        else:
            client.delete(url)


@contextmanager
def errors_named(url: str) -> Iterator[None]:
    """Turns what the stores' libraries raise into OSErrors: FileNotFoundError, PermissionError, or ConnectionError for
    what may be temporary. Raises UsageError for a scheme that Beam has no file system or no library for.
    """
    try:
        yield
    except ImportError as error:
        raise UsageError(_lacking(url, error)) from error
    except Exception as error:
        kind, library = type(error), type(error).__module__.partition(".")[0]
        if kind is ValueError and "Unable to get filesystem" in str(error):
            raise UsageError(f"{url}: expected a store that Beam reads. {_lacking(url, error)}") from error
        if kind is AssertionError and "boto3" in str(error):
            raise UsageError(_lacking(url, error)) from error
        is_of_beam = library == "apache_beam" and not isinstance(error, OSError)
        if not is_of_beam and library not in ("google", "botocore", "boto3", "requests", "urllib3"):
            raise
        code, message = _status_of(error), getattr(error, "message", "") or str(error)
        if code == 404:
            raise FileNotFoundError(f"{url}: no such object") from error
        if code in (401, 403) or (code is None and _REFUSED.search(str(message))):
            raise PermissionError(with_login_advice(url, message)) from error
        if code is None or code == 429 or code >= 500:
            raise ConnectionError(f"{url}: {message}") from error
        raise OSError(f"{url}: {message}") from error


def _status_of(error: Exception) -> int | None:
    """The number of the store's answer, where it came to one."""
    response = getattr(error, "response", None)
    metadata = response.get("ResponseMetadata", {}) if isinstance(response, dict) else {}
    code = getattr(error, "code", None) or metadata.get("HTTPStatusCode")
    return int(code) if isinstance(code, int) else None


def _lacking(url: str, error: BaseException) -> str:
    scheme = url.partition("://")[0]
    extra = f"{scheme}:// needs more packages. Run: pip install '{_EXTRAS[scheme]}'" if scheme in _EXTRAS else ""
    return f"{extra} ({error})" if extra else str(error)


def _bucket_and_name(url: str) -> tuple[str, str]:
    bucket, _, name = url.partition("://")[2].partition("/")
    return bucket, name


class _LeftOpen:
    """A file that its reader cannot close."""

    def __init__(self, file: IO[bytes]) -> None:
        self.read, self.seek, self.tell = file.read, file.seek, file.tell

    def close(self) -> None:
        """Does nothing."""


def _object(url: str, facts: tuple[int, float]) -> Object:
    return Object(url=url, n_bytes=facts[0], modified_s=facts[1])


def _file_systems() -> Any:
    from apache_beam.io.filesystems import FileSystems
    from apache_beam.options.pipeline_options import PipelineOptions

    # S3's does not work before there are options; launchers and workers set theirs.
    if FileSystems._pipeline_options is None:
        FileSystems.set_options(PipelineOptions([]))
    return FileSystems


_shared: dict[str, tuple[Any, Any]] = {}
_making = threading.Lock()
_of_thread = threading.local()


def _client(url: str) -> Any:
    """This thread's client of a store, by the options in force; None for schemes without one."""
    scheme = url.partition("://")[0]
    if scheme not in _EXTRAS:
        return None
    options = _file_systems()._pipeline_options
    known = vars(_of_thread)
    if scheme not in known or known[scheme][0] is not options:
        client = _make_gcs(options) if scheme == "gs" else _make_s3(options)
        check_reachable(f"{scheme}://{_bucket_and_name(url)[0]}", _endpoint(client))
        known[scheme] = options, client
    return known[scheme][1]


def _endpoint(client: Any) -> str:
    """The URL that a client of Beam asks."""
    library = client.client
    endpoint: str = (
        library._connection.API_BASE_URL if hasattr(library, "_connection") else library.client.meta.endpoint_url
    )
    return endpoint


def _make_gcs(options: Any) -> Any:
    from apache_beam.io.gcp.gcsio import GcsIO, create_storage_client

    # Beam looks for credentials that do not exist for twenty seconds, with a traceback a try.
    client = create_storage_client(options, use_credentials=has_google_credentials())
    return GcsIO(storage_client=client, pipeline_options=options)


def _make_s3(options: Any) -> Any:
    """Threads share boto3's client, which is dear, but not Beam's wrapper, which remembers the object being read."""
    from apache_beam.io.aws.clients.s3.boto3_client import Client
    from apache_beam.io.aws.s3io import S3IO

    with _making:
        if "s3" not in _shared or _shared["s3"][0] is not options:
            _shared["s3"] = options, Client(options=options)
    return S3IO(client=copy.copy(_shared["s3"][1]))
