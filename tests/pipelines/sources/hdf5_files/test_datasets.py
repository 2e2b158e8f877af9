"""HDF5 files that promise more than they hold, or hold more than they promise."""

import os
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest

from pipelines.contract.native import MAX_CHUNK_BYTES, Rejected
from pipelines.sources.hdf5_files import datasets
from pipelines.sources.hdf5_files.datasets import check_hdf5_chunks, open_hdf5_log, read_array


def test_a_whole_array_is_read(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        file.create_dataset("chunked", data=np.arange(10.0), chunks=(4,), compression="gzip")
        file["contiguous"] = np.arange(3)
        file["empty"] = np.zeros(0)
    with open_hdf5_log(tmp_path / "a.hdf5") as file:
        assert read_array(file["chunked"], "chunked").tolist() == list(range(10))
        assert read_array(file["contiguous"], "contiguous").tolist() == [0, 1, 2]
        assert read_array(file["empty"], "empty").tolist() == []


@pytest.mark.parametrize("chunks", [(4,), None])
def test_a_part_that_is_not_stored_is_no_row_of_zeros(tmp_path: Path, chunks: tuple[int, ...] | None) -> None:
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        dataset = file.create_dataset("x", (10,), "f8", chunks=chunks)
        if chunks:
            dataset[:8] = 1.0
    with open_hdf5_log(tmp_path / "a.hdf5") as file:
        with pytest.raises(Rejected, match="missing_chunk: x: expected"):
            read_array(file["x"], "x")


@pytest.mark.parametrize("where", ["x", "/"])
def test_a_file_may_declare_that_zeros_are_meant(tmp_path: Path, where: str) -> None:
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        file.create_dataset("x", (10,), "f8", chunks=(4,))[:8] = 1.0
        file[where].attrs["sparse"] = True
    with open_hdf5_log(tmp_path / "a.hdf5") as file:
        assert read_array(file["x"], "x").tolist() == [1.0] * 8 + [0.0] * 2


def test_a_chunk_that_unpacks_to_more_than_its_room_is_refused_before_it_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bomb = zlib.compress(bytes(1 << 20), 9)
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        dataset = file.create_dataset("x", (100,), "u1", chunks=(100,), compression="gzip")
        dataset.id.write_direct_chunk((0,), bomb)
        file.create_dataset("y", data=np.zeros(100, "u1"), chunks=(100,), compression="gzip")
    monkeypatch.setattr(datasets, "MAX_CHUNK_BYTES", len(bomb))
    with open_hdf5_log(tmp_path / "a.hdf5") as file:
        with pytest.raises(Rejected, match="absurd_size: x: expected chunks of 100 bytes, found one that unpacks"):
            check_hdf5_chunks(file["x"], "x")
        check_hdf5_chunks(file["y"], "y")
    assert MAX_CHUNK_BYTES == 1 << 30


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.hdf5")
    with pytest.raises(Rejected, match="unsafe_file"), open_hdf5_log(tmp_path / "a.hdf5"):
        pass
