"""Reading many ranges at once: order, slices of answers, failures of every kind, and the requests themselves."""

import io
import json
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mixtures.stores import connection, gcs, s3
from mixtures.stores.connection import Server
from mixtures.stores.ranges import RangeReader, RangeRequest
from pipelines.contract.errors import FailedWork, UsageError
from pipelines.storage import retry


class ScriptedServer:
    """Answers each request with the next act of its script, and with the asked range of 0, 1, 2 .. behind its end.

    Acts: a status; "close" (before an answer), "half" (closes inside one), "late" (no answer), "slices" (byte by byte),
    "shut" (a whole answer, then closes), "all" (the first hundred bytes of the object, whatever was asked for); "short"
    (one byte less, and says so), "cut" (one byte less than it says), "moved" (another range), "unnamed" (does not say
    which range), "huge" (says that a terabyte comes), "end" (the object ends after two bytes).
    """

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.script: deque[int | str] = deque()
        self.heads: list[str] = []
        self.n_connections = 0
        self.context = context
        self.socket = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port = self.socket.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def request(self, path: str, offset: int, length: int) -> RangeRequest:
        head = f"GET /{path} HTTP/1.1\r\nRange: bytes={offset}-{offset + length - 1}\r\n\r\n".encode()
        server = Server(host="localhost", port=self.port, is_secure=self.context is not None)
        return RangeRequest(server=server, head=head)

    def _accept(self) -> None:
        while True:
            try:
                link, _ = self.socket.accept()
            except OSError:
                return
            self.n_connections += 1
            threading.Thread(target=self._serve, args=(link,), daemon=True).start()

    def _serve(self, link: socket.socket) -> None:
        try:
            if self.context is not None:
                link = self.context.wrap_socket(link, server_side=True)
            with link:
                while self._answer(link):
                    pass
        except OSError:
            return  # the client went away

    def _answer(self, link: socket.socket) -> bool:
        head = b""
        while b"\r\n\r\n" not in head:
            part = link.recv(4096)
            if not part:
                return False
            head += part
        self.heads.append(head.decode())
        act = self.script.popleft() if self.script else 206
        first, last = (int(n) for n in head.decode().split("bytes=")[1].split("\r\n")[0].split("-"))
        body = bytes(i % 256 for i in range(first, last + 1))
        held = f"bytes {first}-{last}/1000000"
        if act == "short":
            body, held = body[:-1], f"bytes {first}-{last - 1}/1000000"
        elif act == "cut":
            body = body[:-1]
        elif act == "moved":
            held = f"bytes {first + 1}-{last + 1}/1000000"
        elif act == "end":
            body, held = body[:2], f"bytes {first}-{first + 1}/{first + 2}"
        head_lines = f"content-length: {len(body)}\r\nContent-Range: {held}\r\n\r\n"
        if act == "unnamed":
            head_lines = f"content-length: {len(body)}\r\n\r\n"
        elif act == "huge":
            head_lines = f"content-length: {1 << 40}\r\nContent-Range: {held}\r\n\r\n"
        answer = f"HTTP/1.1 206 Partial\r\n{head_lines}".encode() + body
        if isinstance(act, int) and act != 206:
            answer = f"HTTP/1.1 {act} No\r\nContent-Length: 4\r\n\r\nbusy".encode()
        if act == "all":
            answer = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n" + bytes(range(100))
        if act == "late":
            time.sleep(1)
        if act == "slices":
            for i in range(len(answer)):
                link.sendall(answer[i : i + 1])
        elif act != "close":
            link.sendall(answer[: len(answer) // 2] if act in ("half", "late") else answer)
        return act not in ("close", "half", "late", "shut")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedServer]:
    monkeypatch.setattr(retry, "STORE_FIRST_PAUSE_S", 0.01)
    made = ScriptedServer()
    yield made
    made.socket.close()


def read(server: ScriptedServer, *ranges: tuple[str, int, int], in_flight: int = 8) -> list[bytes]:
    reader = RangeReader(server.request, in_flight)
    try:
        fetch = reader.fetch(ranges)
        return [fetch.get(i) for i in range(len(ranges))]
    finally:
        reader.close()


def test_closing_an_idle_reader_takes_no_wait(server: ScriptedServer) -> None:
    reader = RangeReader(server.request, 2)
    reader.fetch([("a", 0, 3)]).get(0)
    began = time.monotonic()
    reader.close()
    assert time.monotonic() - began < 5


def test_every_range_comes_back_in_its_place(server: ScriptedServer) -> None:
    ranges = [("a", start, 3 + start % 5) for start in range(200)]
    expected = [bytes(i % 256 for i in range(start, start + length)) for _, start, length in ranges]
    assert read(server, *ranges) == expected
    assert server.n_connections <= 8 and len(server.heads) == 200


def test_a_store_that_does_not_answer_is_asked_again(server: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "STORE_ANSWER_S", 0.3)
    server.script.append("late")
    assert read(server, ("a", 0, 4)) == [b"\0\1\2\3"]
    assert len(server.heads) >= 2


@pytest.mark.parametrize("act", [503, 429, "close", "half", "slices", "shut"])
def test_a_failing_store_is_asked_again(server: ScriptedServer, act: int | str) -> None:
    server.script.extend([act] * 3)
    assert read(server, ("a", 0, 4), ("a", 4, 4)) == [b"\0\1\2\3", b"\4\5\6\7"]
    assert len(server.heads) == {"slices": 2, "shut": 2}.get(str(act), 5)


@pytest.mark.parametrize("act", ["short", "cut", "moved", "unnamed", "huge"])
def test_an_answer_that_is_not_the_range_asked_for_is_asked_for_again(server: ScriptedServer, act: str) -> None:
    server.script.extend([act] * 2)
    assert read(server, ("a", 0, 4)) == [b"\0\1\2\3"]
    assert len(server.heads) == 3


def test_an_answer_that_stays_wrong_names_what_came(server: ScriptedServer) -> None:
    server.script.extend(["moved"] * 5)
    with pytest.raises(FailedWork, match="asked for bytes 4-7, answered bytes 5-8 of 1000000"):
        read(server, ("bucket/x", 4, 4))


def test_a_range_past_the_end_of_the_object_is_shorter(server: ScriptedServer) -> None:
    server.script.append("end")
    assert read(server, ("a", 0, 4)) == [b"\0\1"]
    assert len(server.heads) == 1


@pytest.mark.parametrize("bucket", ["a:443", "evil.com#", "b\r\nHost: x", ""])
def test_a_bucket_cannot_name_another_host(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "k")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    with pytest.raises(UsageError, match="expected a bucket"):
        s3.range_request(f"s3://{bucket}/key", 0, 4)


def test_a_store_that_fails_for_good_is_named(server: ScriptedServer) -> None:
    server.script.extend([500] * 5)
    with pytest.raises(FailedWork, match="bucket/x: the store failed 5 times, last with: answer 500: busy"):
        read(server, ("bucket/x", 0, 4))


@pytest.mark.parametrize(("status", "found"), [(404, "no such object"), (403, "answer 403. The store answered: busy")])
def test_what_may_not_be_read_is_not_asked_for_again(server: ScriptedServer, status: int, found: str) -> None:
    server.script.append(status)
    with pytest.raises(FailedWork, match=f"bucket/x: expected an object that may be read, found: {found}"):
        read(server, ("bucket/x", 0, 4))
    assert len(server.heads) == 1


def test_a_range_past_the_end_is_empty(server: ScriptedServer) -> None:
    server.script.append(416)
    assert read(server, ("a", 0, 4)) == [b""]


def test_a_server_that_sends_the_whole_object_is_cut_to_the_range(server: ScriptedServer) -> None:
    server.script.append("all")
    assert read(server, ("a", 30, 4)) == [bytes(range(30, 34))]


def test_an_expired_token_is_renewed_once(server: ScriptedServer) -> None:
    renewed = []
    server.script.append(401)
    reader = RangeReader(server.request, 1, lambda: renewed.append(1))
    assert reader.fetch([("a", 0, 2)]).get(0) == b"\0\1"
    server.script.extend([401, 401])
    with pytest.raises(FailedWork, match="answer 401"):
        reader.fetch([("a", 0, 2)]).get(0)
    assert len(renewed) == 2
    reader.close()


def test_a_connection_that_grew_stale_costs_no_attempt(server: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "STORE_ATTEMPTS", 1)
    reader = RangeReader(server.request, 1)
    assert reader.fetch([("a", 0, 2)]).get(0) == b"\0\1"
    server.script.append("close")
    assert reader.fetch([("a", 0, 2)]).get(0) == b"\0\1"
    reader.close()


def test_closing_ends_what_waits(server: ScriptedServer) -> None:
    reader = RangeReader(server.request, 1)
    server.script.append("late")
    fetch = reader.fetch([("a", 0, 2)])
    reader.close()
    with pytest.raises(FailedWork, match="a: the reader was closed before the object came"):
        fetch.get(0)
    with pytest.raises(FailedWork, match="has ended"):
        reader.fetch([("a", 0, 2)])


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize(
    ("error", "message"),
    [(UsageError("a: unknown scheme"), "a: unknown scheme"), (ValueError(), "a: the reader was closed")],
)
def test_a_request_that_cannot_be_made_fails_what_waits(error: Exception, message: str) -> None:
    def broken(path: str, offset: int, length: int) -> RangeRequest:
        raise error

    reader = RangeReader(broken, 1)
    with pytest.raises(FailedWork, match=message):
        reader.fetch([("a", 0, 2)]).get(0)
    reader.close()


def test_a_server_that_goes_away_with_many_connections_open(server: ScriptedServer) -> None:
    reader = RangeReader(server.request, 300)
    fetch = reader.fetch([("a", i, 2) for i in range(300)])
    assert fetch.get(0) == b"\0\1"
    server.script.extend(["close"] * 300)
    fetch = reader.fetch([("a", i, 2) for i in range(600)])
    assert [fetch.get(i) for i in range(3)] == [b"\0\1", b"\1\2", b"\2\3"]
    reader.close()


def test_nobody_at_home_fails_by_name(server: ScriptedServer) -> None:
    server.socket.shutdown(socket.SHUT_RDWR)
    server.socket.close()
    with pytest.raises(FailedWork, match="a: the store failed 5 times, last with: .*cannot connect to localhost"):
        read(server, ("a", 0, 2))


def test_ranges_come_through_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl to make a certificate")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    make = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    names = ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*make.split(), *names], check=True, capture_output=True)
    monkeypatch.setattr(connection, "_tls", lambda: ssl.create_default_context(cafile=str(certificate)))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    secure = ScriptedServer(context)
    secure.script.extend([206, "half", 503])
    found = read(secure, *[("a", start, 70_000) for start in range(6)], in_flight=2)
    assert found == [bytes(i % 256 for i in range(start, start + 70_000)) for start in range(6)]
    secure.socket.close()


def test_a_signature_is_that_of_the_published_example() -> None:
    """GET /test.txt of examplebucket, out of Amazon's description of signature version 4."""
    credentials = s3.Credentials(key="AKIAIOSFODNN7EXAMPLE", secret="wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
    headers = {
        "host": "examplebucket.s3.amazonaws.com",
        "range": "bytes=0-9",
        "x-amz-content-sha256": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "x-amz-date": "20130524T000000Z",
    }
    signed = s3.authorization("GET", "/test.txt", headers, "us-east-1", "20130524T000000Z", credentials)
    assert signed.endswith("Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41")


def test_tokens_come_from_the_machines_account_and_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CLOUD_STORAGE_EMULATOR_ENDPOINT", raising=False)
    monkeypatch.setitem(sys.modules, "google.auth", None)
    asked = []

    def answer(request: Any, timeout: float) -> io.BytesIO:
        asked.append(request.get_header("Metadata-flavor"))
        return io.BytesIO(json.dumps({"access_token": f"token{len(asked)}", "expires_in": 3600}).encode())

    monkeypatch.setattr(gcs.urllib.request, "urlopen", answer)
    gcs.renew_credentials()
    first, second = (gcs.range_request("gs://robots/x", start, 5) for start in (0, 10))
    assert first.server == Server(host="storage.googleapis.com", port=443, is_secure=True)
    assert b"\r\nAuthorization: Bearer token1\r\n" in first.head and b"token1" in second.head
    gcs.renew_credentials()
    assert b"token2" in gcs.range_request("gs://robots/x", 0, 5).head and asked == ["Google"] * 2
    gcs.renew_credentials()


def test_requests_name_bucket_key_and_range(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_REGION", "eu-west-3")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    with pytest.raises(OSError, match="no S3 access key"):
        s3.range_request("s3://robots/a b/x", 10, 5)
    (tmp_path / "credentials").write_text("[default]\naws_access_key_id = me\naws_secret_access_key = hush\n")
    request = s3.range_request("s3://robots/a b/x", 10, 5)
    assert request.server == Server(host="robots.s3.eu-west-3.amazonaws.com", port=443, is_secure=True)
    assert request.head.startswith(b"GET /a%20b/x HTTP/1.1\r\nhost: robots.s3.eu-west-3.amazonaws.com\r\n")
    assert b"Credential=me/" in request.head and request.head.endswith(b"Range: bytes=10-14\r\n\r\n")
    monkeypatch.setenv("CLOUD_STORAGE_EMULATOR_ENDPOINT", "http://localhost:4443")
    request = gcs.range_request("gs://robots/a b/x", 10, 5)
    assert request.server == Server(host="localhost", port=4443, is_secure=False)
    assert request.head.startswith(b"GET /storage/v1/b/robots/o/a%20b%2Fx?alt=media HTTP/1.1\r\nHost: localhost:4443")
