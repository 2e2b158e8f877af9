"""Reading from an object store that answers late: samples a second of compressed pictures, decoding left out.

    python -m benchmarks.store [--latency_ms 20 30 50] [--seconds 5] [--json FILE]

A server on this machine answers every read after the given delay, as S3 and as Google Cloud Storage. A sample is three
pictures of 24 KB at random offsets of 100 shards, read as the stream reads them: batches of 64, as many ahead as it
takes. `pyarrow s3` is its client with a thread to each read in flight. Server and reader share the machine's cores.
Takes a minute.
"""

import argparse
import json
import multiprocessing
import os
import re
import select
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

BATCH, CAMERAS, PICTURE_BYTES, SHARD_BYTES, SHARDS = 64, 3, 24_000, 2**30, 100
READERS = ("gs", "s3", "pyarrow s3")
_RANGE = re.compile(rb"\r\nrange: ?bytes=(\d+)-(\d+)", re.IGNORECASE)


def main() -> None:
    """Measures every reader at every delay and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latency_ms", type=float, nargs="+", default=[20, 30, 50])
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--worker", choices=READERS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        measured = measure_pyarrow if arguments.worker == "pyarrow s3" else measure_ranges
        print(json.dumps(measured(arguments.worker, arguments.seconds)))
        return
    found = {f"{ms:g}": {name: _run(name, ms, arguments.seconds) for name in READERS} for ms in arguments.latency_ms}
    print("| latency ms | reader | samples/s | processor ms a read | in flight |")
    print("|---|---|---|---|---|")
    for ms, readers in found.items():
        for name, one in readers.items():
            print(f"| {ms} | {name} | {one['rate']:.0f} | {one['cpu_ms']:.3f} | {one['in_flight']:.0f} |")
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1))


def measure_ranges(scheme: str, seconds: float) -> dict[str, float]:
    """The stream's own reader."""
    from mixtures.stores.arrow import IN_FLIGHT
    from mixtures.stream.shard_files import OpenShards, Reads

    files, rng = OpenShards(), np.random.default_rng(0)
    paths = [f"{scheme}://bucket/data/1.0.0/data-train.tfrecord-{i:05d}-of-00100" for i in range(SHARDS)]

    def batch() -> list[Reads]:
        shard = rng.integers(0, SHARDS, BATCH).tolist()
        offset = rng.integers(0, SHARD_BYTES - PICTURE_BYTES, (BATCH, CAMERAS)).tolist()
        ranges = [[(paths[s], o, PICTURE_BYTES) for o in places] for s, places in zip(shard, offset, strict=True)]
        return [files.begin(sum(ranges[i : i + 8], [])) for i in range(0, BATCH, 8)]

    ahead = deque(batch() for _ in range(3 + -(-IN_FLIGHT // (CAMERAS * BATCH))))

    def turn() -> None:
        for reads in ahead.popleft():
            for number in range(8 * CAMERAS):
                assert len(reads.get(number)) == PICTURE_BYTES
        ahead.append(batch())

    found = _timed(turn, seconds)
    files.close()
    return found | {"in_flight": IN_FLIGHT}


def measure_pyarrow(scheme: str, seconds: float) -> dict[str, float]:
    """pyarrow's S3 client, a thread to each read in flight."""
    import pyarrow
    from pyarrow import fs

    in_flight, rng = 256, np.random.default_rng(0)
    pyarrow.set_io_thread_count(in_flight)
    server = os.environ["AWS_ENDPOINT_URL"].removeprefix("http://")
    system = fs.S3FileSystem(endpoint_override=server, scheme="http")
    files = [system.open_input_file(f"bucket/data/{i}") for i in range(SHARDS)]
    with ThreadPoolExecutor(in_flight) as threads:

        def read(_: int) -> int:
            file, offset = files[int(rng.integers(SHARDS))], int(rng.integers(SHARD_BYTES - PICTURE_BYTES))
            return len(file.read_at(PICTURE_BYTES, offset))

        def batch() -> list[Future[int]]:
            return [threads.submit(read, i) for i in range(BATCH * CAMERAS)]

        ahead = deque(batch() for _ in range(5))

        def turn() -> None:
            assert all(task.result() == PICTURE_BYTES for task in ahead.popleft())
            ahead.append(batch())

        return _timed(turn, seconds) | {"in_flight": in_flight}


def _timed(turn: Callable[[], None], seconds: float) -> dict[str, float]:
    for _ in range(12):
        turn()
    count, start, cpu_start = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - start < seconds:
        turn()
        count += BATCH
    rate = count / (time.perf_counter() - start)
    return {"rate": rate, "cpu_ms": 1e3 * (time.process_time() - cpu_start) / count / CAMERAS}


def serve(latency_s: float, ready: Connection) -> None:
    """Answers every request for a range after a delay with bytes of no meaning; one thread, until it is killed."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    listener.setblocking(False)
    ready.send(listener.getsockname()[1])
    poll, links = select.epoll(), dict[int, socket.socket]()
    due = deque[tuple[float, int, bytes]]()
    poll.register(listener, select.EPOLLIN)
    blob = bytes(2 * PICTURE_BYTES)
    while True:
        for descriptor, _ in poll.poll(max(due[0][0] - time.monotonic(), 0) if due else None):
            if descriptor == listener.fileno():
                link, _ = listener.accept()
                link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                link.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 18)
                links[link.fileno()] = link
                poll.register(link, select.EPOLLIN)
                continue
            try:
                head = links[descriptor].recv(1 << 16)
            except ConnectionResetError:  # the reader has ended
                head = b""
            if head:
                due.append((time.monotonic() + latency_s, descriptor, head))
            else:
                poll.unregister(descriptor)
                links.pop(descriptor).close()
        while due and due[0][0] <= time.monotonic():
            _, descriptor, head = due.popleft()
            if descriptor in links:
                links[descriptor].sendall(_answer(head, blob))


def _answer(head: bytes, blob: bytes) -> bytes:
    facts = b'ETag: "1"\r\nLast-Modified: Wed, 21 Oct 2015 07:28:00 GMT\r\n\r\n'
    asked = _RANGE.search(head)
    if asked is None:
        return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n" % SHARD_BYTES + facts
    first, last = int(asked[1]), int(asked[2])
    length = last - first + 1
    place = b"Content-Range: bytes %d-%d/%d\r\n" % (first, last, SHARD_BYTES)
    return b"HTTP/1.1 206 Partial Content\r\nContent-Length: %d\r\n" % length + place + facts + blob[:length]


def _run(reader: str, latency_ms: float, seconds: float) -> dict[str, float]:
    context = multiprocessing.get_context("spawn")
    ready, other_end = context.Pipe()
    server = context.Process(target=serve, args=(latency_ms / 1e3, other_end), daemon=True)
    server.start()
    url = f"http://127.0.0.1:{ready.recv()}"
    keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1"}
    variables = os.environ | keys | {"AWS_ENDPOINT_URL": url, "CLOUD_STORAGE_EMULATOR_ENDPOINT": url}
    command = [sys.executable, "-m", "benchmarks.store", "--worker", reader, "--seconds", str(seconds)]
    try:
        done = subprocess.run(command, env=variables, stdout=subprocess.PIPE, text=True, check=True)
    finally:
        server.kill()
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
