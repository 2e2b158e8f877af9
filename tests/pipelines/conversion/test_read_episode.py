"""One bad episode never ends a run: whatever a file library raises rejects the episode by name."""

import errno
import pickle
import struct
import sys
import zlib
from typing import Any

import pytest

from pipelines.contract.episode import Reference
from pipelines.contract.errors import FailedWork, UsageError
from pipelines.contract.images import BLACK_JPEG, CorruptImage
from pipelines.contract.native import EpisodeLocation, Rejected
from pipelines.contract.slots import CAMERAS
from pipelines.conversion.plan import Job
from pipelines.conversion.read_episode import read_episode, reader_of
from pipelines.conversion.write import GuardedFrames
from pipelines.mapping.adapters import get_adapter
from pipelines.sources import rlds
from tests.support.inputs.native_files import picture

JOB = Job(directory="out", name="x", version="1.0.0", adapter=get_adapter("bridge_orig"))
LOCATED = EpisodeLocation(reference=Reference(uri="logs/a", key="a"))
ERRORS = (
    AssertionError("assert n > 0"),
    BufferError("exported"),
    EOFError("ended"),
    MemoryError(),
    OSError(errno.EISDIR, "Is a directory"),
    OverflowError("too large"),
    RecursionError("maximum depth"),
    SyntaxError("broken PNG file"),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
    pickle.UnpicklingError("invalid load key"),
    struct.error("unpack requires 4 bytes"),
    zlib.error("incorrect header check"),
)


def raise_in_reader(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def read(*_: Any) -> None:
        raise error

    monkeypatch.setattr(rlds, "read", read)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_what_a_library_raises_rejects_the_episode(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    raise_in_reader(monkeypatch, error)
    with pytest.raises(Rejected, match=f"unreadable: logs/a: {type(error).__name__}"):
        read_episode(JOB, LOCATED, CAMERAS)


class Frames(list[bytes]):
    """Pictures of which the last raises an error."""

    def __init__(self, error: Exception) -> None:
        super().__init__([BLACK_JPEG] * 3)
        self._error = error

    def __getitem__(self, index: Any) -> Any:
        if index == 2:
            raise self._error
        return super().__getitem__(index)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_what_a_library_raises_on_a_picture_rejects_the_episode(error: Exception) -> None:
    frames = GuardedFrames(Frames(error), "logs/a: base_0_rgb", trusted=False)
    with pytest.raises(Rejected, match=f"unreadable_frame: logs/a: base_0_rgb: picture 2: {type(error).__name__}"):
        list(frames)


def test_a_disk_that_fails_for_a_moment_on_a_picture_is_tried_again() -> None:
    frames = GuardedFrames(Frames(OSError(errno.EIO, "Input/output error")), "logs/a", trusted=False)
    with pytest.raises(OSError, match="Input/output error"):
        list(frames)


def test_pictures_are_all_there_and_slices_are_guarded() -> None:
    frames = GuardedFrames([BLACK_JPEG] * 3, "logs/a", trusted=False)
    assert list(frames) == [BLACK_JPEG] * 3 and list(frames[1:]) == [BLACK_JPEG] * 2
    whole = picture(1, 224)
    cut = GuardedFrames([whole[: len(whole) * 3 // 4] + b"\xff\xd9"], "logs/a", trusted=False)
    with pytest.raises(CorruptImage):
        list(cut[0:])
    assert len(list(GuardedFrames([b"\xff\xd8\xff\xd9"], "logs/a", trusted=True))) == 1


def test_a_disk_that_fails_for_a_moment_is_no_fault_of_the_episode(monkeypatch: pytest.MonkeyPatch) -> None:
    raise_in_reader(monkeypatch, OSError(errno.EIO, "Input/output error"))
    with pytest.raises(OSError, match="Input/output error"):
        read_episode(JOB, LOCATED, CAMERAS)


def test_a_codec_that_is_not_installed_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    raise_in_reader(monkeypatch, FailedWork("jpegxl: install imagecodecs"))
    with pytest.raises(FailedWork, match="install imagecodecs") as caught:
        read_episode(JOB, LOCATED, CAMERAS)
    assert not isinstance(caught.value, Rejected)


def test_a_format_whose_library_is_missing_says_which_extra_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("pipelines.sources.bag")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "lz4", None)
    monkeypatch.setitem(sys.modules, "lz4.frame", None)
    with pytest.raises(UsageError, match=r"format bag: expected the package lz4.*embodimix\[pipelines,bag\]"):
        reader_of("bag")
