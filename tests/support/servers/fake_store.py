"""A small server that answers as S3 and Google Cloud Storage do, for reads, and can be slow, busy or broken."""

import json
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlparse


class FakeStore(ThreadingHTTPServer):
    """Serves the folders of `root` as buckets. The next `failures` requests of objects' bytes get `failure_status`."""

    daemon_threads = True
    request_queue_size = 512

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.root = root
        self.latency_s = 0.0
        self.failures, self.failure_status = 0, 503
        self.n_reads = self.most_at_once = 0
        self.gather = 0  # No range is read before so many were asked for at once.
        self.lock = threading.Condition()
        self._at_once = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):  # a reader that stops early is no mistake
            super().handle_error(request, client_address)  # type: ignore[arg-type]

    @contextmanager
    def together(self) -> Iterator[None]:
        """Counts who reads at once, and waits for as many as `gather` says."""
        with self.lock:
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
            self.lock.notify_all()
            self.lock.wait_for(lambda: self.most_at_once >= self.gather, 60)
        try:
            yield
        finally:
            with self.lock:
                self._at_once -= 1

    def takes_failure(self) -> bool:
        with self.lock:
            self.n_reads += 1
            fails = self.failures > 0
            self.failures -= fails
            return fails


@contextmanager
def serving(root: Path) -> Iterator[FakeStore]:
    """Runs a store while the block lasts."""
    server = FakeStore(root)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FakeStore

    def log_message(self, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        time.sleep(self.server.latency_s)
        url = urlparse(self.path)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        gcs = "/storage/v1/b/"
        if gcs in url.path:
            bucket, _, rest = url.path.split(gcs)[1].partition("/o")
            key = unquote(rest.removeprefix("/"))
            if not key:
                self._json(self._gcs_list(bucket, query))
            elif query.get("alt") == "media":
                self._content(bucket, key)
            else:
                self._gcs_metadata(bucket, key)
            return
        bucket, _, key = unquote(url.path).removeprefix("/").partition("/")
        if "list-type" in query:
            self._reply(200, self._s3_list(bucket, query).encode(), "application/xml")
        else:
            self._content(bucket, key)

    def _files(self, bucket: str, query: dict[str, str]) -> tuple[list[Path], list[Path]]:
        """The files and folders right under a prefix that ends in a slash."""
        folder = self.server.root / bucket / query.get("prefix", "")
        found = sorted(folder.iterdir()) if folder.is_dir() and query.get("prefix", "/").endswith("/") else []
        return [path for path in found if path.is_file()], [path for path in found if path.is_dir()]

    def _gcs_list(self, bucket: str, query: dict[str, str]) -> dict[str, object]:
        files, folders = self._files(bucket, query)
        prefixes = [f"{self._key(bucket, folder)}/" for folder in folders]
        if query.get("delimiter") == "/" or not folders:
            return {"items": [self._item(bucket, file) for file in files], "prefixes": prefixes}
        deep = sorted(p for p in (self.server.root / bucket / query["prefix"]).rglob("*") if p.is_file())
        return {"items": [self._item(bucket, file) for file in deep]}

    def _gcs_metadata(self, bucket: str, key: str) -> None:
        path = self.server.root / bucket / key
        if path.is_file():
            self._json(self._item(bucket, path))
        else:
            self._json({"error": {"code": 404, "message": "Not Found"}}, 404)

    def _item(self, bucket: str, path: Path) -> dict[str, object]:
        changed = datetime.fromtimestamp(path.stat().st_mtime, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        return {
            "kind": "storage#object",
            "bucket": bucket,
            "name": self._key(bucket, path),
            "generation": "1",
            "size": str(path.stat().st_size),
            "updated": changed,
            "timeCreated": changed,
        }

    def _s3_list(self, bucket: str, query: dict[str, str]) -> str:
        files, folders = self._files(bucket, query)
        items = [
            f"<Contents><Key>{self._key(bucket, f)}</Key><Size>{f.stat().st_size}</Size>"
            f"<LastModified>{datetime.fromtimestamp(int(f.stat().st_mtime), UTC):%Y-%m-%dT%H:%M:%S.000Z}</LastModified>"
            "</Contents>"
            for f in files
        ]
        items += [f"<CommonPrefixes><Prefix>{self._key(bucket, f)}/</Prefix></CommonPrefixes>" for f in folders]
        return (
            '<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"<IsTruncated>false</IsTruncated><KeyCount>{len(items)}</KeyCount>{''.join(items)}</ListBucketResult>"
        )

    def _key(self, bucket: str, path: Path) -> str:
        return str(path.relative_to(self.server.root / bucket))

    def _content(self, bucket: str, key: str) -> None:
        if self.headers.get("Range"):
            with self.server.together():
                return self._answer_content(bucket, key)
        return self._answer_content(bucket, key)

    def _answer_content(self, bucket: str, key: str) -> None:
        path = self.server.root / bucket / key
        if not path.is_file():
            self._reply(404, b"", "text/plain")
            return
        asked = self.headers.get("Range")
        if asked and self.server.takes_failure():
            self._reply(self.server.failure_status, b"busy", "text/plain")
            return
        content, size = path.read_bytes(), path.stat().st_size
        extra = {
            "Last-Modified": self.date_time_string(path.stat().st_mtime),
            "ETag": '"1"',
            "Accept-Ranges": "bytes",
            "x-goog-generation": "1",
            "x-goog-stored-content-length": str(size),
        }
        if not asked:
            self._reply(200, content, "application/octet-stream", extra)
            return
        first, _, last = asked.removeprefix("bytes=").partition("-")
        end = min(int(last or size - 1), size - 1)
        extra["Content-Range"] = f"bytes {first}-{end}/{size}"
        self._reply(206, content[int(first) : end + 1], "application/octet-stream", extra)

    def _json(self, content: object, status: int = 200) -> None:
        self._reply(status, json.dumps(content).encode(), "application/json")

    def _reply(self, status: int, content: bytes, kind: str, extra: dict[str, str] | None = None) -> None:
        self.send_response(status)
        headers = {"Content-Type": kind, "Content-Length": str(len(content))} | (extra or {})
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
