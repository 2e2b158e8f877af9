"""Byte ranges of Google Cloud Storage objects over kept connections, one to a thread.

pyarrow's client begins to download the whole object when it opens one, and keeps that connection; this one asks for
nothing but the ranges.
"""

import http.client
import json
import os
import threading
import time
import urllib.request
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import quote, urlparse

from mixtures.stores.connection import MOST_SPARE_BYTES, Server, parse_content_range
from mixtures.stores.ranges import RangeRequest

HOST = "https://storage.googleapis.com"
TOKEN_URL = "http://metadata.google.internal/computeMetadata/v1/instance/service-accounts/default/token"
TOKEN_MARGIN_S = 300.0
RETRIED = (408, 429, 500, 502, 503, 504)

_connections = threading.local()


def range_request(path: str, offset: int, length: int) -> RangeRequest:
    """The request for `length` bytes at `offset` of gs://bucket/key. Raises OSError without credentials."""
    server, head = _begin(path, os.environ.get("CLOUD_STORAGE_EMULATOR_ENDPOINT") or HOST)
    lines = [f"{name}: {value}\r\n" for name, value in _authorization().items()]
    lines.append(f"Range: bytes={offset}-{offset + length - 1}\r\n\r\n")
    return RangeRequest(server=server, head=head + "".join(lines).encode())


def renew_credentials() -> None:
    """Makes the next request fetch a new access token."""
    _tokens.forget()


@lru_cache(maxsize=4096)
def _begin(path: str, url: str) -> tuple[Server, bytes]:
    """The server and the first lines of a request for an object."""
    bucket, _, key = path.removeprefix("gs://").partition("/")
    parts = urlparse(url if "://" in url else f"http://{url}")
    is_secure = parts.scheme == "https"
    server = Server(host=parts.hostname or "", port=parts.port or (443 if is_secure else 80), is_secure=is_secure)
    return server, f"GET {_object_path(bucket, key)}?alt=media HTTP/1.1\r\nHost: {parts.netloc}\r\n".encode()


def _object_path(bucket: str, key: str) -> str:
    return f"/storage/v1/b/{quote(bucket, safe='')}/o/{quote(key, safe='')}"


@dataclass(frozen=True, kw_only=True)
class GcsObject:
    """An object by bucket and key; nothing is open. answer_s: how long an answer may take."""

    bucket: str
    key: str
    answer_s: float

    def read_at(self, length: int, offset: int) -> bytes:
        """Reads `length` bytes at `offset`, fewer at the end. Raises FileNotFoundError, or OSError (retry)."""
        wanted = {"Range": f"bytes={offset}-{offset + length - 1}"}
        response, content = self._request(wanted, "?alt=media", length)
        if response.status == 200:  # A server that ignores the range and sends the whole object.
            return content[offset : offset + length]
        named = f"\r\ncontent-range: {response.headers.get('Content-Range', '')}".encode()
        found = parse_content_range(named)
        if fault := "no Content-Range" if found is None else found.fault(offset, length, len(content)):
            raise OSError(f"answer 206: {fault}")
        return content

    def size(self) -> int:
        """The object's bytes."""
        _, content = self._request({}, "?fields=size", 0)
        return int(json.loads(content)["size"])

    def _request(self, headers: dict[str, str], query: str, n_bytes: int) -> tuple[http.client.HTTPResponse, bytes]:
        path = _object_path(self.bucket, self.key) + query
        connection = _connection(self.answer_s)
        try:
            connection.request("GET", path, headers=headers | _authorization())
            response = connection.getresponse()
            content = response.read(n_bytes + MOST_SPARE_BYTES)
            if not response.isclosed():
                connection.close()
                raise OSError(f"an answer of more than {n_bytes + MOST_SPARE_BYTES} bytes")
        except (http.client.HTTPException, OSError) as error:
            connection.close()
            raise OSError(f"{type(error).__name__}: {error}") from error
        if response.status == 404:
            raise FileNotFoundError(f"gs://{self.bucket}/{self.key}")
        if response.status not in (200, 206):
            kind = OSError if response.status in RETRIED else PermissionError
            raise kind(f"answer {response.status} {response.reason}: {content[:200].decode(errors='replace')}")
        return response, content


def _connection(answer_s: float) -> http.client.HTTPConnection:
    """This thread's connection to the store; it opens on first use and reopens after an error."""
    url = os.environ.get("CLOUD_STORAGE_EMULATOR_ENDPOINT") or HOST
    key = (url, os.getpid())
    if getattr(_connections, "key", None) != key:
        parts = urlparse(url if "://" in url else f"http://{url}")
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        _connections.connection, _connections.key = kind(parts.netloc, timeout=answer_s), key
    return _connections.connection


def _authorization() -> dict[str, str]:
    if os.environ.get("CLOUD_STORAGE_EMULATOR_ENDPOINT"):
        return {}
    return {"Authorization": f"Bearer {_tokens.get()}"}


class _Tokens:
    """The access token of this machine's or person's account, fetched again before it ends."""

    def __init__(self) -> None:
        self._token, self._ends = "", 0.0
        self._lock = threading.Lock()

    def forget(self) -> None:
        self._ends = 0.0

    def get(self) -> str:
        with self._lock:
            if time.time() > self._ends - TOKEN_MARGIN_S:
                self._token, self._ends = _fetch_token()
            return self._token


def _fetch_token() -> tuple[str, float]:
    """A token and when it ends: by google-auth where it is installed, or else from the machine's metadata server."""
    try:
        import google.auth
        import google.auth.exceptions
        import google.auth.transport.requests
    except ImportError:
        request = urllib.request.Request(TOKEN_URL, headers={"Metadata-Flavor": "Google"})
        with urllib.request.urlopen(request, timeout=10) as response:
            content = json.load(response)
        return content["access_token"], time.time() + content["expires_in"]
    try:
        credentials, _ = google.auth.default(scopes=["https://www.googleapis.com/auth/devstorage.read_only"])
        credentials.refresh(google.auth.transport.requests.Request())
    except google.auth.exceptions.GoogleAuthError as error:
        raise PermissionError(f"no Google credentials: {error}") from error
    return str(credentials.token), credentials.expiry.timestamp() if credentials.expiry else time.time() + 600


_tokens = _Tokens()
