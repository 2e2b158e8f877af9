"""Frames of videos by number: those of decoding from the start, sorted by time, however they are reached."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from pipelines.contract.errors import FailedWork
from pipelines.contract.images import CorruptImage
from pipelines.contract.native import Rejected
from pipelines.sources.video import VideoFrames, read_clock

N = 60


def write(path: Path, codec: str, options: dict[str, str], times_s: list[float], base: int = 15360) -> Path:
    """A video whose frame i is grey 20 + 3 * i, at these times."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=30, options=options)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, base)
        for i, time_s in enumerate(times_s):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 20 + 3 * i, np.uint8), format="rgb24")
            frame.pts, frame.time_base = round(time_s * base), Fraction(1, base)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def numbers(frames: list[np.ndarray]) -> list[int]:
    return [round((float(frame.mean()) - 20) / 3) for frame in frames]


def decoded(path: Path) -> list[tuple[float, np.ndarray]]:
    """Times and pictures as PyAV decodes them from the start, without any seeking: the truth that numbers refer to."""
    with av.open(str(path)) as container:
        found = [
            (float(frame.pts * frame.time_base), frame.to_ndarray(format="rgb24"))
            for frame in container.decode(video=0)
        ]
    return sorted(found, key=lambda item: item[0])


EVEN = [i / 30 for i in range(N)]
UNEVEN = [i / 30 + (0.011 if i % 7 == 3 else 0.0) + (0.2 if i > 40 else 0.0) for i in range(N)]
X264, X265 = {"crf": "16"}, {"crf": "18", "x265-params": "log-level=none"}


@pytest.mark.parametrize(
    ("name", "codec", "options", "times_s"),
    [
        ("a.mp4", "libx264", X264 | {"g": "250", "bf": "3"}, EVEN),
        ("a.mp4", "libx264", X264 | {"g": "12", "bf": "2"}, [1.0 + time for time in EVEN]),
        ("a.mp4", "libx264", X264 | {"g": "12", "bf": "2", "x264-params": "open-gop=1"}, UNEVEN),
        ("a.ts", "libx264", X264 | {"g": "12", "bf": "2"}, EVEN),
        ("a.flv", "libx264", X264 | {"g": "12", "bf": "2"}, EVEN),
        ("a.mkv", "libx264", X264 | {"g": "12", "bf": "2"}, UNEVEN),
        ("a.mp4", "libx265", X265 | {"g": "9"}, EVEN),
        ("a.mp4", "libsvtav1", {"g": "20", "crf": "25", "preset": "12", "svtav1-params": "enable-tf=0"}, EVEN),
        (
            "a.webm",
            "libvpx-vp9",
            {"g": "15", "crf": "20", "b:v": "0", "auto-alt-ref": "1", "lag-in-frames": "16"},
            EVEN,
        ),
        ("a.mp4", "mpeg4", {"g": "12", "qmin": "1", "qmax": "1"}, EVEN),
        ("a.avi", "mjpeg", {"q:v": "2", "strict": "unofficial"}, EVEN),
    ],
)
def test_every_number_is_the_frame_of_its_time_from_any_start(
    tmp_path: Path, name: str, codec: str, options: dict[str, str], times_s: list[float]
) -> None:
    base = 30 if name.endswith("avi") else 15360
    path = write(tmp_path / name, codec, options, times_s, base)
    truth = decoded(path)
    clock = read_clock(path)
    assert clock.times_s.tolist() == pytest.approx([time for time, _ in truth], abs=1e-6)
    for order in (np.arange(N), np.arange(37, N), np.array([50, 51, 3, 4, 41, 58, 0]), np.array([59])):
        frames = [np.asarray(frame) for frame in VideoFrames(path, order, clock)]
        assert all(np.array_equal(frame, truth[i][1]) for frame, i in zip(frames, order, strict=True))
        assert numbers(frames) == order.tolist()


def test_frames_that_an_edit_list_cuts_off_are_not_counted(tmp_path: Path) -> None:
    """A cut without encoding again keeps the frames since the key frame before, which players do not show."""
    whole = write(tmp_path / "whole.mp4", "libx264", X264 | {"g": "20", "bf": "0"}, EVEN)
    path = tmp_path / "cut.mp4"
    with av.open(str(whole)) as source, av.open(str(path), "w") as cut:
        stream = cut.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size and packet.pts is not None:
                packet.pts -= 15360 // 30 * 10
                packet.dts -= 15360 // 30 * 10
                packet.stream = stream
                cut.mux(packet)
    truth = decoded(path)
    assert len(read_clock(path).times_s) == len(truth)
    frames = list(VideoFrames(path, np.arange(len(truth)), read_clock(path)))
    assert all(np.array_equal(frame, picture) for frame, (_, picture) in zip(frames, truth, strict=True))


def test_a_repeated_number_shows_its_frame_again(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", "libx264", X264, EVEN)
    assert numbers(list(VideoFrames(path, np.array([5, 5, 6]), read_clock(path)))) == [5, 5, 6]
    assert numbers(VideoFrames(path, np.arange(N), read_clock(path))[10:13]) == [10, 11, 12]


def test_a_file_that_was_written_again_has_a_new_clock(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", "libx264", X264, EVEN)
    assert len(read_clock(path).times_s) == N
    write(path, "libx264", X264, EVEN[:20])
    assert len(read_clock(path).times_s) == 20


def test_the_rate_is_the_usual_pause_and_not_the_mean(tmp_path: Path) -> None:
    there = [time for i, time in enumerate(EVEN) if i not in (20, 21, 22, 23, 24, 25)]
    assert read_clock(write(tmp_path / "a.mp4", "libx264", X264, there)).rate_hz == pytest.approx(30, rel=1e-3)


@pytest.mark.parametrize("content", [b"", b"\0" * 500, b"RIFF"])
def test_what_is_no_video_is_rejected(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(content)
    with pytest.raises(Rejected, match="truncated_video"):
        read_clock(path)


def test_a_folder_in_place_of_a_video_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Rejected, match="unsafe_file"):
        read_clock(tmp_path)
    with pytest.raises(Rejected, match="truncated_video"):
        read_clock(tmp_path / "nothing.mp4")


def test_a_codec_that_is_not_there_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.mp4", "libx264", X264, EVEN[:5])
    data = path.read_bytes()
    assert data.count(b"avc1") >= 1
    path.write_bytes(data.replace(b"avc1", b"zzz1"))
    with pytest.raises(FailedWork, match="expected a codec that PyAV decodes") as error:
        read_clock(path)
    assert not isinstance(error.value, Rejected)


def test_a_frame_that_is_lost_in_decoding_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", "libx264", X264 | {"g": "1", "bf": "0"}, EVEN[:10])
    clock = read_clock(path)
    data = bytearray(path.read_bytes())
    start = data.index(b"mdat") + 8
    data[start : start + (len(data) - start) // 2] = bytes((len(data) - start) // 2)
    path.write_bytes(data)
    with pytest.raises(CorruptImage, match="a.mp4"):
        list(VideoFrames(path, np.arange(10), clock))
