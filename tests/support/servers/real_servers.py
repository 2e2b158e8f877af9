"""Real servers of both stores (fake-gcs-server, MinIO) for tests; `.ci/run` installs them where Go is."""

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pyarrow import fs

from tests.support.checkout import ROOT

REPOSITORY = ROOT


@contextmanager
def serving(scheme: str, root: Path) -> Iterator[int]:
    """Serves `root`/bucket as the bucket `bucket` of `scheme` (gs, s3); yields the port. Skips where no server is."""
    port = free_port()
    if scheme == "gs":
        program = find_program("fake-gcs-server", "github.com/fsouza/fake-gcs-server")
        options = ["-scheme", "http", "-host", "127.0.0.1", "-backend", "memory", "-data", str(root)]
        with running([program, *options, "-port", str(port)], port):
            yield port
        return
    program = find_program("minio", "github.com/minio/minio")
    with (
        tempfile.TemporaryDirectory() as data,
        running([program, "server", "--quiet", "--address", f"127.0.0.1:{port}", data], port),
    ):
        keys = {"access_key": "minioadmin", "secret_key": "minioadmin"}
        where = {"scheme": "http", "endpoint_override": f"127.0.0.1:{port}"}
        system = fs.S3FileSystem(**where, **keys, allow_bucket_creation=True)
        system.create_dir("bucket")
        fs.copy_files(str(root / "bucket"), "bucket", fs.LocalFileSystem(), system)
        yield port


def find_program(name: str, source: str) -> str:
    """A server's program; the test is skipped, and says so, where it is not installed."""
    folders = [str(REPOSITORY / ".cache" / "go" / "bin"), *os.environ["PATH"].split(os.pathsep)]
    program = shutil.which(name, path=os.pathsep.join(folders))
    if program is None:
        pytest.skip(f"needs {name}: with Go, GOBIN=$PWD/.cache/go/bin go install {source}, as .ci/run does")
    return program


@contextmanager
def running(command: list[str], port: int) -> Iterator[None]:
    """Runs a server until the block ends; waits until it takes connections."""
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, **quiet) as process:
        try:
            deadline = time.monotonic() + 60
            while socket.socket().connect_ex(("127.0.0.1", port)):
                assert process.poll() is None and time.monotonic() < deadline, f"{command[0]} did not start"
                time.sleep(0.1)
            yield
        finally:
            process.terminate()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
