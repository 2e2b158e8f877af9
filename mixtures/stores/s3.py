"""Signed requests for byte ranges of S3 objects (AWS Signature Version 4), with the credentials that are found.

Keys of the environment and of the shared credentials file are used here; other accounts (roles of machines, sign-on)
are known to pyarrow's client alone.
"""

import configparser
import hashlib
import hmac
import os
import re
import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from urllib.parse import quote, urlparse

from mixtures.stores.connection import Server
from mixtures.stores.ranges import RangeRequest
from pipelines.contract.errors import UsageError

SIGNED_FOR_S = 120
# The name becomes part of the host that the key is sent to; older buckets have capitals and _.
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9]")
_NO_CONTENT = hashlib.sha256(b"").hexdigest()


@dataclass(frozen=True, kw_only=True)
class Credentials:
    """An access key; `token` is empty for lasting keys."""

    key: str
    secret: str
    token: str = ""


def find_credentials() -> Credentials | None:
    """The keys of the environment, or else of the profile in the shared credentials file; None for neither."""
    key, secret = os.environ.get("AWS_ACCESS_KEY_ID"), os.environ.get("AWS_SECRET_ACCESS_KEY")
    if key and secret:
        return Credentials(key=key, secret=secret, token=os.environ.get("AWS_SESSION_TOKEN", ""))
    file = configparser.ConfigParser()
    file.read(os.environ.get("AWS_SHARED_CREDENTIALS_FILE") or Path.home() / ".aws" / "credentials")
    profile = os.environ.get("AWS_PROFILE", "default")
    if not file.has_option(profile, "aws_access_key_id") or not file.has_option(profile, "aws_secret_access_key"):
        return None
    found = file[profile]
    token = found.get("aws_session_token", "")
    return Credentials(key=found["aws_access_key_id"], secret=found["aws_secret_access_key"], token=token)


def range_request(path: str, offset: int, length: int) -> RangeRequest:
    """The request for `length` bytes at `offset` of s3://bucket/key. Raises OSError without credentials."""
    credentials = find_credentials()
    if credentials is None:
        raise PermissionError("no S3 access key in the environment or the shared credentials file")
    now = int(time.time()) // SIGNED_FOR_S * SIGNED_FOR_S  # a signature holds for a quarter of an hour
    server, head = _signed(path, now, credentials, os.environ.get("AWS_ENDPOINT_URL"))
    return RangeRequest(server=server, head=head + f"Range: bytes={offset}-{offset + length - 1}\r\n\r\n".encode())


@lru_cache(maxsize=4096)
def _signed(path: str, now: int, credentials: Credentials, endpoint: str | None) -> tuple[Server, bytes]:
    """The server and the head of a request up to its range, which needs no signature."""
    bucket, _, key = path.removeprefix("s3://").partition("/")
    if not _BUCKET.fullmatch(bucket):
        raise UsageError(f"{path}: expected a bucket of 3 to 63 of a-z 0-9 . -, found {bucket!r}")
    target = "/" + quote(key, safe="/-_.~")
    if endpoint:
        parts = urlparse(endpoint if "://" in endpoint else f"http://{endpoint}")
        host, is_secure = parts.netloc, parts.scheme == "https"
        target, region = f"/{bucket}{target}", _named_region() or "us-east-1"
    else:
        region, is_secure = _named_region() or _region_of(bucket), True
        host = f"{bucket}.s3.{region}.amazonaws.com"
        if "." in bucket:  # the store's certificate does not cover such names
            host, target = f"s3.{region}.amazonaws.com", f"/{bucket}{target}"
    moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
    headers = {"host": host, "x-amz-content-sha256": _NO_CONTENT, "x-amz-date": moment}
    if credentials.token:
        headers["x-amz-security-token"] = credentials.token
    headers["authorization"] = authorization("GET", target, headers, region, moment, credentials)
    name, _, port = host.partition(":")
    server = Server(host=name, port=int(port or (443 if is_secure else 80)), is_secure=is_secure)
    lines = "".join(f"{header}: {value}\r\n" for header, value in headers.items())
    return server, f"GET {target} HTTP/1.1\r\n{lines}".encode()


def authorization(
    method: str, target: str, headers: dict[str, str], region: str, moment: str, credentials: Credentials
) -> str:
    """The Authorization header of a request without query and content. headers: by lower-case name, all are signed."""
    names = ";".join(sorted(headers))
    listed = "".join(f"{name}:{headers[name]}\n" for name in sorted(headers))
    canonical = "\n".join((method, target, "", listed, names, _NO_CONTENT))
    scope = f"{moment[:8]}/{region}/s3/aws4_request"
    text = "\n".join(("AWS4-HMAC-SHA256", moment, scope, hashlib.sha256(canonical.encode()).hexdigest()))
    key = f"AWS4{credentials.secret}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.digest(key, text.encode(), "sha256").hex()
    return f"AWS4-HMAC-SHA256 Credential={credentials.key}/{scope}, SignedHeaders={names}, Signature={signature}"


def _named_region() -> str | None:
    return os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")


@lru_cache(maxsize=256)
def _region_of(bucket: str) -> str:
    from pyarrow import fs

    return fs.resolve_s3_region(bucket)
