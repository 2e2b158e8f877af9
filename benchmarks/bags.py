"""Reading and converting MCAP: seconds of one core to start, MB/s from there on, and peak memory.

    python -m benchmarks.bags --mb 300 --compression zstd

Writes bags of three cameras at 30 fps, joints at 100 Hz and commands at 30 Hz with the package `mcap`, once with JPEGs
of the target size, once with JPEGs of 640x480: a short one, of which the time of the start is, and one of the stated
size, whose further MB give the rate. Each is read in a process of its own. Beside that, what `mcap` takes to
yield every message, and what unpacking the chunks, decoding the JPEGs, a copy in memory and on the disk, a sha256 and
a crc32 of the file take.
"""

import argparse
import hashlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.contract.images import check_copied, to_jpeg
from pipelines.conversion.launch import ConversionRequest, convert
from pipelines.jobs.local_workers import limit_malloc_arenas
from pipelines.mapping.adapters import Adapter, parse_adapter

CAMERAS = ("base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb")
JOINTS = ("shoulder_pan_joint", "shoulder_lift_joint", "elbow_joint", "wrist_1_joint", "wrist_2_joint", "wrist_3_joint")
CONTROL_HZ, FPS, JOINT_HZ = 30, 30, 100
# More than a chunk holds, and all of them others, so that chunks compress as those of a camera do: hardly.
N_PICTURES = 600
# By width and height, as cameras are named: height, width, and what becomes of the pictures.
SIZES = {"224x224": (224, 224, "passed through"), "640x480": (480, 640, "decoded and encoded")}
EPISODE_S = 60.0
SHORT_MB = 5
UNPACK = "chunks unpacked by `lz4`"


def entry() -> Adapter:
    """The entry of the bag that is written here: an episode for each minute."""
    arm = {"names": list(JOINTS)}
    return parse_adapter(
        "bench",
        {
            "title": "bench",
            "format": "bag",
            "robot": "ur5e_dual",
            "control_mode": "joint_position",
            "units": "metric",
            "control_hz": CONTROL_HZ,
            "cameras": {camera: f"/{camera}" for camera in CAMERAS},
            "state": {"arm0": {"from": "/joint_states", **arm}},
            "action": {"arm0": {"from": "/command", **arm}},
            "bag": {"stamp": "header", "episodes": {"by": "markers", "topic": "/task"}},
        },
    )


def pictures(height: int, width: int) -> list[bytes]:
    """JPEGs with the detail of a camera's: soft shapes under the noise of a sensor."""
    import simplejpeg

    random = np.random.default_rng(0)
    made = []
    for _ in range(N_PICTURES):
        soft = random.uniform(0, 255, (height // 16, width // 16, 3)).repeat(16, 0).repeat(16, 1)
        noisy = np.clip(soft + random.normal(0, 6, soft.shape), 0, 255).astype(np.uint8)
        made.append(simplejpeg.encode_jpeg(np.ascontiguousarray(noisy), quality=90, colorsubsampling="420"))
    return made


def write_bag(path: Path, n_bytes: int, size: tuple[int, int], compression: str) -> float:
    """Writes a bag of about so many bytes. compression: lz4, zstd or none. Returns how many seconds it lasts."""
    from mcap.writer import CompressionType, Writer
    from rosbags.typesys import Stores, get_typestore

    store, shown = get_typestore(Stores.ROS2_HUMBLE), pictures(*size)
    make = _Messages(store)
    types = {"/joint_states": "JointState", "/command": "JointState"} | {f"/{c}": "CompressedImage" for c in CAMERAS}
    with path.open("wb") as file:
        writer = Writer(file, compression=CompressionType[compression.upper()], chunk_size=1 << 22)
        writer.start(profile="ros2", library="benchmark")
        channels = {topic: _register(writer, store, topic, f"sensor_msgs/msg/{type}") for topic, type in types.items()}
        channels["/task"] = _register(writer, store, "/task", "std_msgs/msg/String")
        tick, t_ns = 0, 0
        while file.tell() < n_bytes:
            t_ns = tick * 1_000_000_000 // 300
            if tick % int(EPISODE_S * 300) == 0:
                data = make.text(f"lift cube {tick}")
                writer.add_message(channels["/task"], t_ns, data, t_ns)
            for topic, hz in (("/joint_states", JOINT_HZ), ("/command", CONTROL_HZ)):
                if tick % (300 // hz) == 0:
                    writer.add_message(channels[topic], t_ns, make.joints(t_ns), t_ns)
            if tick % (300 // FPS) == 0:
                for i, camera in enumerate(CAMERAS):
                    data = make.picture(t_ns, shown[(tick + i) % N_PICTURES])
                    writer.add_message(channels[f"/{camera}"], t_ns, data, t_ns)
            tick += 1
        writer.finish()
    return t_ns / 1e9


class _Messages:
    """Messages as CDR."""

    def __init__(self, store: Any) -> None:
        self._store, self._types = store, store.types

    def joints(self, t_ns: int) -> bytes:
        empty = np.zeros(0)
        position = 0.5 * np.sin(t_ns / 1e9 + np.arange(6))
        values = {"name": list(JOINTS), "position": position, "velocity": empty, "effort": empty}
        return self._data("sensor_msgs/msg/JointState", header=self._header(t_ns), **values)

    def picture(self, t_ns: int, jpeg: bytes) -> bytes:
        data = np.frombuffer(jpeg, np.uint8)
        return self._data("sensor_msgs/msg/CompressedImage", header=self._header(t_ns), format="jpeg", data=data)

    def text(self, value: str) -> bytes:
        return self._data("std_msgs/msg/String", data=value)

    def _header(self, t_ns: int) -> Any:
        stamp = self._types["builtin_interfaces/msg/Time"](sec=t_ns // 10**9, nanosec=t_ns % 10**9)
        return self._types["std_msgs/msg/Header"](stamp=stamp, frame_id="")

    def _data(self, type: str, **fields: Any) -> bytes:
        return bytes(self._store.serialize_cdr(self._types[type](**fields), type))


def _register(writer: Any, store: Any, topic: str, type: str) -> int:
    text = store.generate_msgdef(type, ros_version=2)[0]
    channel: int = writer.register_channel(topic, "cdr", writer.register_schema(type, "ros2msg", text.encode()))
    return channel


def read_bag(path: Path) -> int:
    """Reads every episode and picture as a worker does. Returns how many pictures there were."""
    from pipelines.sources import bag

    adapter, n = entry(), 0
    for located in bag.find(str(path), adapter).episodes:
        for shown in zip(*bag.read(located, adapter).frames.values(), strict=True):
            n += len(shown)
    return n


def convert_bag(path: Path, trust_images: bool) -> int:
    """Converts the bag with one worker. Returns how many episodes were kept."""
    with tempfile.TemporaryDirectory() as out:
        request = ConversionRequest(
            source=str(path),
            output_root=out,
            name="bench",
            version="1.0.0",
            adapter=entry(),
            n_workers=1,
            trust_images=trust_images,
        )
        return int(convert(request)["episodes_out"])


def read_plainly(path: Path) -> int:
    """Yields every message with the package `mcap`, as it is. Returns how many there were."""
    from mcap.reader import make_reader

    with path.open("rb") as file:
        return sum(1 for _ in make_reader(file).iter_messages(log_time_order=False))


def unpack_chunks(path: Path) -> int:
    """Unpacks every chunk with the package `lz4`. Returns their number."""
    import lz4.frame
    from mcap.reader import make_reader

    with path.open("rb") as file:
        summary = make_reader(file).get_summary()
        assert summary is not None
        for index in summary.chunk_indexes:
            # The packed bytes are the last of a chunk's record.
            file.seek(index.chunk_start_offset + index.chunk_length - index.compressed_size)
            lz4.frame.decompress(file.read(index.compressed_size))
    return len(summary.chunk_indexes)


def run_codecs(path: Path) -> int:
    """Does with as many bytes of JPEGs as the file has what a conversion does with its pictures: decodes those of the
    target size as a check, and makes JPEGs of that size of others. Returns their number."""
    height, width, _ = SIZES[path.parent.name]
    shown, n_bytes, n = pictures(height, width), 0, 0
    while n_bytes < path.stat().st_size:
        check_copied(shown[n % N_PICTURES])
        to_jpeg(shown[n % N_PICTURES])
        n, n_bytes = n + 1, n_bytes + len(shown[n % N_PICTURES])
    return n


def by_pieces(take: Callable[[bytes], object]) -> Callable[[Path], int]:
    """What hands a file on in pieces of 4 MB."""

    def work(path: Path) -> int:
        with path.open("rb", buffering=0) as file:
            return sum(1 for _ in map(take, iter(lambda: file.read(1 << 22), b"")))

    return work


def copy_file(path: Path) -> int:
    """Copies the file as a shard is written: in pieces, and synced to the disk. Returns the number of the pieces."""
    with tempfile.TemporaryFile(buffering=0) as out:
        n = by_pieces(out.write)(path)
        os.fsync(out.fileno())
    return n


WORK: dict[str, Callable[[Path], int]] = {
    "read as a file, copied once": by_pieces(bytearray),
    "copied to a new file, synced": copy_file,
    "sha256 of the file": by_pieces(hashlib.sha256),
    "crc32 of the file": by_pieces(zlib.crc32),
    UNPACK: unpack_chunks,
    "all messages by `mcap`": read_plainly,
    "codecs alone": run_codecs,
    "read": read_bag,
    "convert": lambda path: convert_bag(path, False),
    "convert, pictures trusted": lambda path: convert_bag(path, True),
}


def measure(path: Path, work: str) -> dict[str, float]:
    """Runs one piece of work in a process of its own: seconds of its processor, and its peak memory in MB."""
    code = [sys.executable, "-m", "benchmarks.bags", "--measure", work, str(path)]
    # Read when Arrow is loaded, which this module does.
    environment = os.environ | {"ARROW_DEFAULT_MEMORY_POOL": "system"}
    done = subprocess.run(code, check=True, capture_output=True, text=True, env=environment)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def report_measured(work: str, path: Path) -> None:
    """Does the work and prints what it took. Processor seconds: other work of the machine does not count."""
    limit_malloc_arenas(1)  # as the command does
    wall, cpu = time.monotonic(), time.process_time()
    done = WORK[work](path)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    found = {"done": done, "wall_s": time.monotonic() - wall, "cpu_s": time.process_time() - cpu}
    print(json.dumps(found | {"peak_mb": usage.ru_maxrss / 1024}))


def _row(short: Path, path: Path, work: str, times: int) -> str:
    # The least of several runs: what else the machine does only adds to it.
    begun, found = (
        min((measure(one, work) for _ in range(times)), key=lambda done: done["cpu_s"]) for one in (short, path)
    )
    few, whole = (one.stat().st_size / 1e6 for one in (short, path))
    rate = (whole - few) / (found["cpu_s"] - begun["cpu_s"])
    start = max(0.0, begun["cpu_s"] - few / rate)
    return f"{start:.1f} | {rate:.0f} | {whole / found['cpu_s']:.0f} | {found['peak_mb']:.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mb", type=int, default=300, help="size of each bag")
    parser.add_argument("--compression", choices=("lz4", "zstd", "none"), default="lz4", help="of the chunks")
    parser.add_argument("--work", nargs="+", choices=WORK, metavar="WORK", help=f"only some of {', '.join(WORK)}")
    parser.add_argument("--size", choices=SIZES, help="only one")
    parser.add_argument("--times", type=int, default=3, help="runs of each, of which the least counts")
    parser.add_argument("--measure", nargs=2, metavar=("WORK", "BAG"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        report_measured(options.measure[0], Path(options.measure[1]))
        return
    print("| pictures | work | start s | MB/s from there on | MB/s in all | peak MB |\n|---|---|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as folder:
        for name in [options.size] if options.size else SIZES:
            height, width, done = SIZES[name]
            root = Path(folder) / name
            root.mkdir()
            short, path = (root / f"{which}.mcap" for which in ("short", "bench"))
            write_bag(short, SHORT_MB * 1_000_000, (height, width), options.compression)
            write_bag(path, options.mb * 1_000_000, (height, width), options.compression)
            for work in options.work or [work for work in WORK if work != UNPACK or options.compression == "lz4"]:
                print(f"| {name}, {done} | {work} | {_row(short, path, work, options.times)} |", flush=True)


if __name__ == "__main__":
    main()
