"""The safetensors file format: a JSON header, then raw little-endian arrays."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import ml_dtypes
import numpy as np

DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(bool),
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """Maps a file, or all shards of a folder, into memory; ValueError if the file is cut or of another kind."""
    if path.is_dir():
        return _read_folder(path)
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 0 < length <= size - 8:
            raise ValueError(f"{path}: expected a safetensors header; found a length of {length} in {size} bytes")
        try:
            header = json.loads(file.read(length))
        except ValueError as error:
            raise ValueError(f"{path}: expected a safetensors header; found no JSON") from error
    header.pop("__metadata__", None)
    end = 8 + length + max((entry["data_offsets"][1] for entry in header.values()), default=0)
    if end > size:
        raise ValueError(f"{path}: expected {end} bytes; found {size}. Download the file again")
    data = np.memmap(path, np.uint8, mode="r", offset=8 + length)
    return {name: _array(data, entry, path) for name, entry in header.items()}


def write_safetensors(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes one file, under its final name only once it is whole."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, array in arrays.items():
        end = offset + array.nbytes
        header[name] = {"dtype": NAMES[array.dtype], "shape": array.shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for array in arrays.values():
            file.write(np.ascontiguousarray(array).tobytes())
    partial.replace(path)


def _read_folder(folder: Path) -> dict[str, np.ndarray]:
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        shards = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        return {name: array for shard in shards for name, array in read_safetensors(folder / shard).items()}
    return read_safetensors(folder / "model.safetensors")


def _array(data: np.ndarray, entry: dict, path: Path) -> np.ndarray:
    if entry["dtype"] not in DTYPES:
        raise ValueError(f"{path}: expected one of {', '.join(DTYPES)}; found {entry['dtype']}")
    start, end = entry["data_offsets"]
    return data[start:end].view(DTYPES[entry["dtype"]]).reshape(entry["shape"])
