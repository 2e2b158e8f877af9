"""Hostile files: every reader either reads them or says why not."""

import pickle
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.contract.embodiments import get_embodiment
from pipelines.contract.errors import EmbodimixError
from pipelines.contract.images import CorruptImage
from pipelines.contract.native import Rejected
from pipelines.mapping.adapters import get_adapter
from pipelines.mapping.to_slots import to_episode
from pipelines.mapping.validate import find_fault
from pipelines.shards.tfrecord import write_record
from pipelines.sources import aloha, rlds
from pipelines.sources.restricted_pickle import load_pickle
from tests.support.inputs.fuzzing import fuzzing
from tests.support.inputs.native_files import bridge_features, write_rlds

BRIDGE, ALOHA = get_adapter("bridge_orig"), get_adapter("aloha_hdf5")
QUICK = fuzzing(60)
damage = st.tuples(st.floats(0, 1), st.integers(0, 7), st.one_of(st.none(), st.floats(0, 1)))


def damaged(data: bytes, how: tuple[float, int, float | None]) -> bytes:
    """Flips one bit, and cuts the end off if `how` says where."""
    place, bit, cut = how
    out = bytearray(data)
    out[min(int(place * len(out)), len(out) - 1)] ^= 1 << bit
    return bytes(out if cut is None else out[: int(cut * len(out))])


@pytest.fixture(scope="module")
def record_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_rlds(tmp_path_factory.mktemp("fuzz") / "in", {"train": [bridge_features(0), bridge_features(1)]})
    return folder / "tiny-train.tfrecord-00000-of-00001"


@given(how=damage)
@QUICK
def test_damaged_records_are_rejected_by_name(record_file: Path, tmp_path: Path, how: tuple) -> None:
    (tmp_path / record_file.name).write_bytes(damaged(record_file.read_bytes(), how))
    found = rlds.find(str(tmp_path), BRIDGE)
    for located in found.episodes:
        try:
            assert rlds.read(located, BRIDGE).n_steps == 12
        except Rejected as error:
            assert error.reason in ("corrupt_record", "corrupt_example")
    # A bit that is flipped is in one record: the other is read, unless it was cut off or lay behind a broken head.
    assert len(found.rejects) <= 1


@given(payload=st.binary(max_size=300))
@QUICK
def test_any_bytes_in_a_record_are_no_crash(tmp_path: Path, payload: bytes) -> None:
    with open(tmp_path / "x-train.tfrecord", "wb") as file:
        write_record(file, payload)
    (located,) = rlds.find(str(tmp_path), BRIDGE).episodes
    with pytest.raises(EmbodimixError):
        native = rlds.read(located, BRIDGE)
        find_fault(to_episode(native, BRIDGE, get_embodiment("widowx"), ("base_0_rgb",)))


@given(how=damage)
@QUICK
def test_damaged_pickles_say_so_or_read(how: tuple) -> None:
    data = pickle.dumps({"full_state": np.arange(70.0).reshape(10, 7), "time_stamp": np.arange(10.0)})
    try:
        load_pickle(damaged(data, how))
    except pickle.UnpicklingError as error:
        assert str(error)


@given(data=st.binary(max_size=200))
@QUICK
def test_any_bytes_are_no_crash_as_a_pickle(data: bytes) -> None:
    try:
        load_pickle(data)
    except pickle.UnpicklingError as error:
        assert str(error)


@given(how=damage)
@QUICK
def test_damaged_hdf5_files_are_rejected_by_name(tmp_path: Path, how: tuple) -> None:
    path = tmp_path / "episode_0.hdf5"
    with h5py.File(path, "w") as file:
        file["observations/qpos"] = np.zeros((4, 14))
        file["action"] = np.zeros((4, 14))
        file["observations/images/cam_high"] = np.zeros((4, 8, 8, 3), np.uint8)
    path.write_bytes(damaged(path.read_bytes(), how))
    (located,) = aloha.find(str(tmp_path), ALOHA).episodes
    try:
        native = aloha.read(located, ALOHA)
        for frames in native.frames.values():
            list(frames)
    except (Rejected, CorruptImage) as error:
        assert str(error)
