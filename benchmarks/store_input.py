"""Converting from an object store that answers late, against converting the same files from a disk.

    python -m benchmarks.store_input [--latency_ms 0 50] [--rounds 3] [--json FILE]

The store is one of Beam's file systems over a folder of this disk, which answers every call after the given delay; what
a real store's client costs a core comes on top: with them, `--clients` measures that against servers on this machine
(fake-gcs-server, MinIO, where `.ci/run` put them). Sources: RLDS with 120 episodes to a file, and in-house logs of
some 40 objects each. Takes two minutes.
"""

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from apache_beam.io.filesystem import BeamIOError, FileMetadata, FileSystem

from benchmarks.rlds_source import make_source, write_log

N_RLDS, N_LOGS, LOG_S = 120, 40, 20
N_OBJECTS, OBJECT_BYTES = 500, 50_000


class LateStore(FileSystem):
    """Objects under `late:///path`, which are the files of this disk; nothing is written. n_asked: calls so far."""

    latency_s = 0.0
    n_asked = 0

    @classmethod
    def scheme(cls) -> str:
        return "late"

    @classmethod
    def _wait(cls) -> None:
        cls.n_asked += 1
        time.sleep(cls.latency_s)

    def join(self, basepath: str, *paths: str) -> str:
        return "/".join([basepath.rstrip("/"), *paths])

    def split(self, path: str) -> tuple[str, str]:
        head, _, tail = path.rpartition("/")
        return head, tail

    def has_dirs(self) -> bool:
        return False

    def _list(self, dir_or_prefix: str) -> Iterator[FileMetadata]:
        self._wait()
        folder = _path(dir_or_prefix.rpartition("/")[0])
        for path in sorted(folder.rglob("*")):
            if path.is_file() and f"late://{path}".startswith(dir_or_prefix):
                yield FileMetadata(f"late://{path}", path.stat().st_size, path.stat().st_mtime)

    def open(self, path, mime_type=None, compression_type=None):  # type: ignore[no-untyped-def]
        self._wait()
        return open(_path(path), "rb")

    def exists(self, path: str) -> bool:
        return _path(path).is_file()

    def metadata(self, path: str) -> FileMetadata:
        self._wait()
        if not _path(path).is_file():
            raise BeamIOError(f"no {path}")
        return FileMetadata(path, _path(path).stat().st_size, _path(path).stat().st_mtime)

    def size(self, path: str) -> int:
        return self.metadata(path).size_in_bytes

    def last_updated(self, path: str) -> float:
        return self.metadata(path).last_updated_in_seconds

    def mkdirs(self, path: str) -> None:
        raise NotImplementedError

    def create(self, path, mime_type=None, compression_type=None):  # type: ignore[no-untyped-def]
        raise NotImplementedError

    def copy(self, source_file_names, destination_file_names):  # type: ignore[no-untyped-def]
        raise NotImplementedError

    def rename(self, source_file_names, destination_file_names):  # type: ignore[no-untyped-def]
        raise NotImplementedError

    def delete(self, paths: list[str]) -> None:
        raise NotImplementedError


def main() -> int:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latency_ms", type=float, nargs="+", default=[0, 50])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clients", action="store_true", help="measure the real stores' clients too")
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        results: dict[str, object] = {"conversion": conversion_table(Path(folder), arguments)}
    if arguments.clients:
        results["clients"] = {scheme: client_costs(scheme) for scheme in ("gs", "s3")}
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")
    return 0


def conversion_table(folder: Path, arguments: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Seconds from a disk and from the store, in turns; the medians."""
    for number in range(N_LOGS):
        write_log(folder / f"logs/ur5e/lift/{number:03d}.zarr", number, seconds=LOG_S)
    sources = {"rlds": ("bridge_orig", make_source(folder / "rlds", N_RLDS)), "zarr": ("inhouse_log", folder / "logs")}
    print("source  store answers after   disk s   store s   ratio   calls")
    table = {}
    for name, (adapter, source) in sources.items():
        for latency_ms in arguments.latency_ms:
            LateStore.latency_s = latency_ms / 1000
            disk, store, calls = [], [], 0
            for _ in range(arguments.rounds + 1):
                disk.append(_seconds(str(source), adapter, folder / "out"))
                before = LateStore.n_asked
                store.append(_seconds(f"late://{source}", adapter, folder / "out"))
                calls = LateStore.n_asked - before
            found = {"disk_s": float(np.median(disk[1:])), "store_s": float(np.median(store[1:])), "calls": calls}
            found["ratio"] = found["store_s"] / found["disk_s"]
            print(f"{name:7} {latency_ms:16.0f} ms {found['disk_s']:8.2f} {found['store_s']:9.2f} ", end="")
            print(f"{found['ratio']:7.2f} {calls:7d}")
            table[f"{name}, {latency_ms:g} ms"] = found
    return table


def client_costs(scheme: str) -> dict[str, float]:
    """CPU milliseconds of this process for one object of 50 KB: copied as conversion does, and read through Beam's
    file system, which makes a client for every call."""
    from apache_beam.internal.gcp import auth
    from apache_beam.io.filesystems import FileSystems

    from pipelines.storage.object_stores import download_object, upload_object

    auth._Credentials._credentials_init = True  # No search for Google's credentials, which lasts twenty seconds.
    with tempfile.TemporaryDirectory() as folder, _server(scheme, Path(folder)):
        urls = [f"{scheme}://bucket/{number}" for number in range(N_OBJECTS)]
        with tempfile.TemporaryFile() as content:
            content.write(os.urandom(OBJECT_BYTES))
            for url in urls:
                upload_object(url, content)

        def read(url: str) -> None:
            with FileSystems.open(url) as file:
                file.read()

        with open(os.devnull, "wb") as nowhere:
            copied = _cpu_ms(lambda url: download_object(url, nowhere), urls)
        through = _cpu_ms(read, urls[: N_OBJECTS // 10])
    print(f"{scheme}: {copied:.2f} ms of a core for an object of 50 KB; Beam's file system {through:.2f} ms")
    return {"copied_ms": copied, "file_system_ms": through}


def _cpu_ms(work, urls: list[str]) -> float:  # type: ignore[no-untyped-def]
    work(urls[0])
    start = time.process_time()
    for url in urls:
        work(url)
    return 1000 * (time.process_time() - start) / len(urls)


@contextmanager
def _server(scheme: str, folder: Path) -> Iterator[None]:
    """A server on this machine with an empty bucket, to which the clients' environment points."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    where, programs = f"127.0.0.1:{port}", os.pathsep.join([str(Path(".cache/go/bin").absolute()), os.environ["PATH"]])
    (folder / "bucket").mkdir()
    if scheme == "gs":
        command = ["fake-gcs-server", "-scheme", "http", "-host", "127.0.0.1", "-port", str(port), "-backend", "memory"]
        os.environ["STORAGE_EMULATOR_HOST"] = f"http://{where}"
        (folder / "bucket/empty").touch()
        command += ["-data", str(folder)]
    else:
        command = ["minio", "server", "--quiet", "--address", where, str(folder)]
        os.environ |= {"AWS_ENDPOINT_URL": f"http://{where}", "AWS_DEFAULT_REGION": "us-east-1"}
        os.environ |= {"AWS_ACCESS_KEY_ID": "minioadmin", "AWS_SECRET_ACCESS_KEY": "minioadmin"}
    program = shutil.which(command[0], path=programs)
    if program is None:
        raise SystemExit(f"--clients: expected {command[0]} in .cache/go/bin or PATH, as .ci/run installs it")
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen([program, *command[1:]], **quiet) as process:
        try:
            while socket.socket().connect_ex(("127.0.0.1", port)):
                time.sleep(0.1)
            yield
        finally:
            process.kill()


def _seconds(source: str, adapter: str, output: Path) -> float:
    from pipelines.conversion.launch import ConversionRequest, convert
    from pipelines.mapping.adapters import get_adapter

    shutil.rmtree(output, ignore_errors=True)
    start = time.monotonic()
    conversion = ConversionRequest(
        source=source, output_root=str(output), name="x", version="1.0.0", adapter=get_adapter(adapter), n_workers=2
    )
    counts = convert(conversion)
    assert counts["episodes_in"] == counts["episodes_out"]
    return time.monotonic() - start


def _path(url: str) -> Path:
    return Path(url.removeprefix("late://"))


if __name__ == "__main__":
    sys.exit(main())
