"""Whether an object store can be reached, and with which credentials, found out in seconds instead of minutes.

The stores' libraries retry for minutes before they say that there is no network, and look for credentials in silence.
"""

import os
import socket
import sys
import time
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

from pipelines.contract.errors import FailedWork

CONNECT_S = 4.0
TRIES = 3
_PROXIES = ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")
_LOGIN = {
    "gs": "`gcloud auth application-default login`, or GOOGLE_APPLICATION_CREDENTIALS, names some",
    "s3": "`aws configure`, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, names some",
}


@lru_cache(maxsize=64)
def check_reachable(bucket: str, endpoint: str) -> None:
    """Raises FailedWork that names bucket and host where no connection comes about in three tries.

    bucket: its URL. endpoint: that of the store's client, which knows regions, emulators and stores of one's own.
    Behind a proxy nothing is tried: it decides.
    """
    if any(os.environ.get(name) for name in _PROXIES):
        return
    parts = urlsplit(endpoint)
    address = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    for number in range(TRIES):
        try:
            socket.create_connection(address, timeout=CONNECT_S).close()
            return
        except OSError as error:
            reason = error
        time.sleep(0.5 * (number + 1))
    raise FailedWork(
        f"{bucket}: expected to reach the store at {address[0]}:{address[1]}, found: {reason}. "
        "Look at the network of this machine, or name a proxy in HTTPS_PROXY"
    )


@lru_cache(maxsize=1)
def has_google_credentials() -> bool:
    """Whether Google's libraries find credentials; says on stderr, once, where they do not."""
    import google.auth
    import google.auth.exceptions

    # Outside of Google's cloud its metadata server does not exist; the library would wait for it three times.
    os.environ.setdefault("GCE_METADATA_TIMEOUT", "1")
    try:
        google.auth.default(scopes=["https://www.googleapis.com/auth/devstorage.read_write"])
    except google.auth.exceptions.GoogleAuthError:
        advice = _LOGIN["gs"]
        print(f"gs://: no Google credentials found; only public buckets can be read ({advice})", file=sys.stderr)
        return False
    return True


def with_login_advice(url: str, message: Any) -> str:
    """What a store that refuses these credentials said, and how to give others."""
    scheme = url.partition("://")[0]
    advice = f". {_LOGIN[scheme]}" if scheme in _LOGIN else ""
    return f"{url}: expected an object that these credentials may use: {message}{advice}"
