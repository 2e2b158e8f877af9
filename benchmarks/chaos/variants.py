"""Inputs that are unusual and right: the same episodes in other forms of their format, which are read the same."""

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow.parquet as pq
import zarr

from benchmarks.chaos.outcomes import Failure, Tally, attempt, judge
from benchmarks.chaos.sources import read_source, write_source


def rewrite_hdf5(source: Path, **options: Any) -> None:
    """Stores every dataset of every file again, with other options of HDF5."""
    for path in source.glob("*.hdf5"):
        with h5py.File(path, "a") as file:
            names: list[str] = []
            file.visititems(
                lambda name, item, names=names: names.append(name) if isinstance(item, h5py.Dataset) else None
            )
            for name in names:
                data, attributes = file[name][...], dict(file[name].attrs)
                del file[name]
                made = file.create_dataset(name, data=data, **(options if data.ndim else {}))
                made.attrs.update(attributes)


def soft_links(source: Path) -> None:
    """Moves every dataset of joints elsewhere in its file, with a link at its usual path."""
    for path in source.glob("*.hdf5"):
        with h5py.File(path, "a") as file:
            file.move("observations/qpos", "raw/qpos")
            file["observations/qpos"] = h5py.SoftLink("/raw/qpos")


def rewrite_zarr(source: Path, **options: Any) -> None:
    """Stores every array of a replay buffer again, with other options of zarr."""
    for path in sorted(source.glob("*.zarr")):
        old = path.with_name("old")
        path.rename(old)
        group, made = zarr.open_group(old, mode="r"), zarr.open_group(path, mode="w", **options)
        for name, array in group.members(max_depth=None):
            if isinstance(array, zarr.Array):
                chunks = (3, *array.shape[1:])
                made.create_array(name, data=np.asarray(array[...]), chunks=chunks, config={"write_empty_chunks": True})
        shutil.rmtree(old)


def consolidate(source: Path) -> None:
    zarr.consolidate_metadata(zarr.storage.LocalStore(source / "a.zarr"), zarr_format=2)


def rewrite_parquet(source: Path, **options: Any) -> None:
    for path in source.glob("data/**/*.parquet"):
        pq.write_table(pq.read_table(path), path, **options)


def indent_json(source: Path) -> None:
    for path in source.rglob("*.json"):
        path.write_text(json.dumps(json.loads(path.read_text()), indent=4, sort_keys=True, ensure_ascii=False))


def without_metadata(source: Path) -> None:
    (source / "dataset_info.json").unlink()


def other_files(source: Path) -> None:
    """What people and their systems leave in folders."""
    (source / ".DS_Store").write_bytes(b"\0" * 100)
    (source / "README.md").write_text("our robot\n")
    (source / "old").mkdir()


VARIANTS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "HDF5 gzip and shuffle": ("aloha", partial(rewrite_hdf5, compression="gzip", shuffle=True)),
    "HDF5 lzf, checksums": ("robomimic", partial(rewrite_hdf5, compression="lzf", fletcher32=True)),
    "HDF5 datasets that may grow": ("robomimic", partial(rewrite_hdf5, chunks=True)),
    "HDF5 links within the file": ("aloha", soft_links),
    "zarr v3": ("replay buffer", partial(rewrite_zarr, zarr_format=3)),
    "zarr v2 in small chunks": ("replay buffer", partial(rewrite_zarr, zarr_format=2)),
    "zarr consolidated": ("replay buffer", consolidate),
    "Parquet zstd": ("lerobot v2.1", partial(rewrite_parquet, compression="zstd")),
    "Parquet row groups of 2": ("lerobot v3.0", partial(rewrite_parquet, row_group_size=2)),
    "Parquet without statistics": ("lerobot v3.0", partial(rewrite_parquet, write_statistics=False, version="1.0")),
    "JSON indented": ("lerobot v2.1", indent_json),
    "no dataset_info.json": ("rlds", without_metadata),
    "other files beside": ("rlds", other_files),
    "other files beside zarr": ("in-house zarr", other_files),
    "other files beside HDF5": ("aloha", other_files),
}


def try_variants(root: Path) -> Tally:
    """Reads every variant once; anything but the same episodes is a fault."""
    tally = Tally(kind="unusual inputs that are right")
    for number, (name, (format, change)) in enumerate(VARIANTS.items()):
        source = write_source(format, root / str(number), None)
        assert source is not None
        before = attempt(partial(read_source, source))
        change(source.path)
        after = attempt(partial(read_source, source))
        if isinstance(before, Failure):
            raise RuntimeError(f"{name}: expected a source that is read whole, found {before.text}")
        is_same = not isinstance(after, Failure) and judge(before, after, True) == "same"
        what = after.what if isinstance(after, Failure) else "same" if is_same else "silent difference"
        tally.add(what, f"{name}: {after}")
    return tally
