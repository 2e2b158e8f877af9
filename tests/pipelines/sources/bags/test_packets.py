"""Video packets in bags: frames by their packets, from the key frame before an episode, and depth that is refused."""

from pathlib import Path

import av
import numpy as np
import pytest

from pipelines.contract.native import Rejected
from pipelines.sources import bag
from tests.pipelines.sources.test_bag import entry
from tests.support.inputs.bag_writers import MS, Published, demonstration, rgb, text, write_mcap

FFMPEG = "ffmpeg_image_transport_msgs/msg/FFMPEGPacket"
DEFINITION = """std_msgs/Header header
int32 width
int32 height
string encoding
uint64 pts
uint8 flags
bool is_bigendian
uint8[] data
"""
VIDEO = "foxglove_msgs/msg/CompressedVideo"
VIDEO_DEFINITION = "builtin_interfaces/Time timestamp\nstring frame_id\nuint8[] data\nstring format\n"


def encode(codec: str, levels: list[int], gop: int) -> list[bytes]:
    """One packet for each grey picture, without frames that refer ahead."""
    encoder = av.CodecContext.create(codec, "w")
    encoder.width, encoder.height, encoder.pix_fmt, encoder.gop_size, encoder.max_b_frames = 64, 48, "yuv420p", gop, 0
    encoder.framerate = 10
    encoder.options = {"tune": "zerolatency", "x265-params": "log-level=none:repeat-headers=1:annexb=1"}
    packets = []
    for i, level in enumerate(levels):
        frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), level, np.uint8), format="rgb24")
        frame.pts = i
        packets += encoder.encode(frame)
    return [bytes(packet) for packet in [*packets, *encoder.encode(None)]]


def with_packets(codec: str, stated: str, type: str, gop: int) -> list[Published]:
    levels = [20 * i + 10 for i in range(10)]
    packets = encode(codec, levels, gop)
    assert len(packets) == 10
    messages = [m for m in demonstration() if m.topic != "/camera/image_raw"]
    for i, data in enumerate(packets):
        stamp = {"timestamp": {"sec": 0, "nanosec": 100 * i * MS}} if type == VIDEO else {}
        fields = {"format": stated, "encoding": stated, "data": np.frombuffer(data, np.uint8), **stamp}
        at = 100 * i * MS
        messages.append(Published(topic="/camera/video", type=type, logged_ns=at + 2 * MS, stamp_ns=at, fields=fields))
    return messages


@pytest.mark.parametrize(
    ("codec", "stated", "type"),
    [("libx264", "h264", VIDEO), ("libx264", "libx264", FFMPEG), ("libx265", "hevc;yuv420p;bgr8;bgr8", FFMPEG)],
)
def test_packets_give_the_frames_that_were_encoded(tmp_path: Path, codec: str, stated: str, type: str) -> None:
    definitions = {FFMPEG: DEFINITION, VIDEO: VIDEO_DEFINITION}
    write_mcap(tmp_path / "a.mcap", with_packets(codec, stated, type, gop=4), definitions=definitions)
    adapter = entry(cameras={"base_0_rgb": "/camera/video"})
    (located,) = bag.find(str(tmp_path), adapter).episodes
    frames = bag.read(located, adapter).frames["/camera/video"]
    levels = [int(np.median(np.asarray(frame))) for frame in frames]
    assert np.abs(np.array(levels) - np.repeat([20 * i + 10 for i in range(10)], 2)).max() <= 3
    assert abs(int(np.median(np.asarray(frames[3]))) - 30) <= 3  # Going back begins at the key frame before.


def test_an_episode_that_begins_between_key_frames_has_its_first_frames(tmp_path: Path) -> None:
    messages = [*with_packets("libx264", "h264", FFMPEG, gop=8), text("/go", 450 * MS, "go"), text("/go", 800 * MS, "")]
    write_mcap(tmp_path / "a.mcap", messages, definitions={FFMPEG: DEFINITION})
    adapter = entry(
        cameras={"base_0_rgb": "/camera/video"},
        bag={"stamp": "header", "episodes": {"by": "markers", "topic": "/go"}},
    )
    (located,) = bag.find(str(tmp_path), adapter).episodes
    first = bag.read(located, adapter).frames["/camera/video"][0]
    assert abs(int(np.median(np.asarray(first))) - 90) <= 3  # The picture of 400 ms.


@pytest.mark.parametrize("encoding", ["16UC1", "32FC1"])
def test_depth_is_refused_by_name(tmp_path: Path, encoding: str) -> None:
    messages = [m for m in demonstration() if m.topic != "/camera/image_raw"]
    messages += [rgb("/camera/image_raw", t * MS, np.zeros((8, 8, 4), np.uint8), encoding) for t in range(0, 1000, 100)]
    write_mcap(tmp_path / "a.mcap", messages)
    (located,) = bag.find(str(tmp_path), entry()).episodes
    with pytest.raises(Rejected, match=rf"/camera/image_raw: expected colours, found depth \({encoding}\)"):
        bag.read(located, entry())
