"""Pickles of unknown origin, read without ever running their code: numpy arrays and plain containers only."""

import io
import pickle
from typing import Any

import numpy as np

_MAX_BYTES = 1 << 30


def _empty_array(kind: type, shape: tuple[int, ...], dtype: bytes) -> np.ndarray:
    """What numpy builds before it fills in the real shape; a hostile pickle would ask for terabytes here."""
    if shape != (0,):
        raise pickle.UnpicklingError(f"expected an array that starts empty, found shape {shape}")
    return np._core.multiarray._reconstruct(np.ndarray, (0,), b"b")


def _encode(text: str, encoding: str) -> bytes:
    """Protocol 2 stores bytes as text in latin1."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"expected bytes as latin1 text, found {encoding}")
    return text.encode("latin1")


# What numpy 1 and numpy 2 write for arrays, scalars and dtypes, under both module spellings.
_ALLOWED = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("collections", "OrderedDict"): dict,
    ("_codecs", "encode"): _encode,
}
for _core in ("numpy.core", "numpy._core"):
    _ALLOWED[f"{_core}.multiarray", "_reconstruct"] = _empty_array
    _ALLOWED[f"{_core}.multiarray", "scalar"] = np._core.multiarray.scalar
    _ALLOWED[f"{_core}.numeric", "_frombuffer"] = np._core.numeric._frombuffer


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"expected numpy arrays and plain values, found {module}.{name}")
        return _ALLOWED[module, name]


def load_pickle(data: bytes) -> Any:
    """Returns the value of a pickle that holds numpy arrays, numbers, texts, lists, tuples and dicts.

    Raises pickle.UnpicklingError for anything else, before any of it is built or run.
    """
    if len(data) > _MAX_BYTES:
        raise pickle.UnpicklingError(f"expected at most {_MAX_BYTES} bytes, found {len(data)}")
    try:
        value = _Unpickler(io.BytesIO(data)).load()
    except _READ_ERRORS as error:
        raise pickle.UnpicklingError(f"expected a readable pickle, found {type(error).__name__}: {error}") from error
    _check_no_objects(value)
    return value


# What damaged pickle bytes raise inside the unpickler and numpy's reconstruction.
_READ_ERRORS = (
    AttributeError,
    EOFError,
    ImportError,
    IndexError,
    KeyError,
    MemoryError,
    OverflowError,
    TypeError,
    UnicodeDecodeError,
    ValueError,
)


def _check_no_objects(value: Any, depth: int = 0) -> None:
    """Arrays of Python objects have no numbers to read."""
    if isinstance(value, np.ndarray) and value.dtype.hasobject:
        raise pickle.UnpicklingError("expected arrays of numbers, found an array of objects")
    if depth > 4:
        return
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for item in value:
            _check_no_objects(item, depth + 1)
