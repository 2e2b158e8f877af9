"""HDF5 files and zarr stores that point outside, or name a codec that runs code."""

import json
import pickle
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import zarr

from pipelines.contract.native import Rejected
from pipelines.sources.foreign_files import check_zarr, codecs_of, open_hdf5

SECRET = b"a file of this machine that is no input"


def test_a_plain_file_opens_and_may_be_compressed(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("x", data=np.arange(100), compression="gzip", shuffle=True)
        file["soft"] = h5py.SoftLink("/x")
    with open_hdf5(tmp_path / "a.h5") as file:
        assert file["soft"][3] == 3


def test_external_storage_reads_no_file_of_this_machine(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(SECRET)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("x", (len(SECRET),), "u1", external=[(str(tmp_path / "secret"), 0, len(SECRET))])
    with h5py.File(tmp_path / "a.h5", "r") as file:
        assert bytes(file["x"][:]) == SECRET  # What the check is for.
    with pytest.raises(Rejected, match="x: expected data of this file, found one kept in other files"):
        open_hdf5(tmp_path / "a.h5")


def test_links_and_virtual_datasets_are_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = np.arange(4)
    with h5py.File(tmp_path / "link.h5", "w") as file:
        file["deep/x"] = h5py.ExternalLink("other.h5", "/x")
    with h5py.File(tmp_path / "virtual.h5", "w") as file:
        layout = h5py.VirtualLayout((4,), "i8")
        layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "x", (4,))
        file.create_virtual_dataset("x", layout)
    with pytest.raises(Rejected, match="deep/x: expected data of this file, found a link to another file"):
        open_hdf5(tmp_path / "link.h5")
    with pytest.raises(Rejected, match="kept in other files"):
        open_hdf5(tmp_path / "virtual.h5")
    with (tmp_path / "link.h5").open("rb") as stream, pytest.raises(Rejected, match="a link to another file"):
        open_hdf5(stream)


def test_a_file_that_is_replaced_is_looked_at_again(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["x"] = np.arange(4)
    open_hdf5(path).close()
    path.unlink()
    with h5py.File(path, "w") as file:
        file["x"] = h5py.ExternalLink("other.h5", "/x")
    with pytest.raises(Rejected, match="a link to another file"):
        open_hdf5(path)


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_usual_stores_pass(zarr_format: int, tmp_path: Path) -> None:
    group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=zarr_format)
    group.create_array("x", data=np.arange(10.0), chunks=(5,))
    group.attrs["filters"] = [{"id": "words of the logger"}]
    zarr.consolidate_metadata(group.store)
    check_zarr(tmp_path / "a.zarr")
    shutil.make_archive(str(tmp_path / "a.zarr"), "zip", tmp_path / "a.zarr")
    check_zarr(tmp_path / "a.zarr.zip")


class Touch:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("key", ["filters", "compressor"])
def test_a_codec_that_unpickles_is_refused(key: str, tmp_path: Path) -> None:
    store = tmp_path / "a.zarr" / "x"
    store.mkdir(parents=True)
    array = {"zarr_format": 2, "shape": [1], "chunks": [1], "dtype": "|O", "fill_value": None, "order": "C"}
    codec = {"id": "pickle", "protocol": 5}
    array |= {"compressor": None, "filters": None} | {key: [codec] if key == "filters" else codec}
    (store / ".zarray").write_text(json.dumps(array))
    (store / "0").write_bytes(pickle.dumps(Touch(tmp_path / "ran")))
    with pytest.raises(Rejected, match="x/.zarray: expected a usual codec, found 'pickle'"):
        check_zarr(tmp_path / "a.zarr")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "codecs",
    [
        [{"name": "numcodecs.pickle"}],
        ["numcodecs.pickle"],
        [{"name": "bytes", "configuration": {"codecs": [{"name": "numcodecs.pickle"}]}}],
    ],
)
def test_codecs_of_version_3_are_found_at_any_depth(codecs: list[object], tmp_path: Path) -> None:
    (tmp_path / "zarr.json").write_text(json.dumps({"zarr_format": 3, "node_type": "array", "codecs": codecs}))
    with pytest.raises(Rejected, match="found 'numcodecs.pickle'"):
        check_zarr(tmp_path)


def test_deep_metadata_is_an_error_with_a_name(tmp_path: Path) -> None:
    (tmp_path / "zarr.json").write_text("[" * 100_000)
    with pytest.raises(Rejected, match="zarr.json: expected JSON"):
        check_zarr(tmp_path)


def test_codecs_inside_of_lists_are_found() -> None:
    nested = {"attributes": [{"zarr_format": 2, "compressor": {"id": "pickle"}}]}
    assert list(codecs_of(nested)) == ["pickle"]
