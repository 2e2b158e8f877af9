"""Pickles of unknown origin, read without ever running their code: numpy arrays and plain containers only.

The unpickler never touches an object that others share. Every name that a pickle may mention stands for a stub of our
own, made for this one pickle; what the stubs were asked to build is turned into arrays after the last opcode. So the
opcode BUILD, which calls `__setstate__` or fills `__dict__` of whatever it is given, finds nothing that outlives the
pickle: on numpy's own functions, or on `numpy.dtype("f8")`, which all arrays of a process share, it would change what
later pickles mean.
"""

import io
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

# More than the numbers of any episode take. Nothing is allocated beyond what the bytes themselves hold.
_MAX_BYTES = 1 << 30
# obs_dict.pkl nests three deep, policy_out.pkl two.
_MAX_DEPTH = 16
# Values that may be visited, containers within containers included; a pickle of nested references to the same list
# would otherwise ask for more than the age of the universe.
_MAX_VALUES = 1_000_000


class _Dtype:
    """A dtype as its pickle states it: a code such as f8, and the byte order that its state brings."""

    __slots__ = ("code", "order")

    def __init__(self, code: str) -> None:
        self.code = code
        self.order = "="

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) < 5 or state[1] not in ("<", ">", "|", "="):
            raise pickle.UnpicklingError("expected the state of a plain dtype, found something else")
        if any(field is not None for field in state[2:5]):
            raise pickle.UnpicklingError("expected arrays of plain numbers, found an array with fields")
        self.order = state[1]

    def built(self) -> np.dtype:
        dtype = np.dtype(self.code)
        if dtype.hasobject:
            raise pickle.UnpicklingError("expected arrays of numbers, found an array of objects")
        if dtype.kind not in "biufcSU":
            raise pickle.UnpicklingError(f"expected arrays of numbers, found dtype {self.code}")
        if self.order == ">":
            return dtype.newbyteorder(">")
        return dtype.newbyteorder("<") if self.order == "<" else dtype


class _Array:
    """An array that its pickle builds empty and fills by its state."""

    __slots__ = ("state",)

    def __init__(self) -> None:
        self.state: tuple[Any, ...] | None = None

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise pickle.UnpicklingError("expected the state of an array, found something else")
        self.state = state[1:]

    def built(self) -> NDArray:
        if self.state is None:
            raise pickle.UnpicklingError("expected an array with its numbers, found one without")
        shape, dtype, is_fortran, raw = self.state
        return _array_of(raw, dtype, shape, "F" if is_fortran else "C")


class _Stub:
    """Stands for a name that pickles of arrays mention; calling it notes what is to be built."""

    __slots__ = ("_build",)

    def __init__(self, build: Callable[..., Any]) -> None:
        self._build = build

    def __call__(self, *arguments: Any) -> Any:
        return self._build(*arguments)


def _new_array(kind: Any, shape: Any, code: Any) -> _Array:
    """What numpy builds before it fills in the real shape; a hostile pickle would ask for terabytes here."""
    if shape != (0,):
        raise pickle.UnpicklingError(f"expected an array that starts empty, found shape {shape}")
    return _Array()


def _new_dtype(code: Any, *_: Any) -> _Dtype:
    if not isinstance(code, str) or not code.isalnum() or len(code) > 12:
        raise pickle.UnpicklingError("expected a dtype code such as f8, found something else")
    return _Dtype(code)


def _scalar(dtype: Any, raw: Any = b"") -> Any:
    return _array_of(raw, dtype, (1,), "C")[0]


def _from_buffer(raw: Any, dtype: Any, shape: Any, order: Any) -> NDArray:
    return _array_of(raw, dtype, shape, order)


def _encode(text: Any, encoding: Any) -> bytes:
    """Protocol 2 stores bytes as text in latin1."""
    if encoding != "latin1" or not isinstance(text, str):
        raise pickle.UnpicklingError(f"expected bytes as latin1 text, found {encoding}")
    return text.encode("latin1")


def _array_of(raw: Any, dtype: Any, shape: Any, order: Any) -> NDArray:
    """An array of its own memory over the bytes that the pickle holds; their number must be that of the shape."""
    if isinstance(raw, list):
        raise pickle.UnpicklingError("expected arrays of numbers, found an array of objects")
    if isinstance(raw, str):  # Protocols 0 and 1 of Python 2.
        raw = raw.encode("latin1")
    if not isinstance(dtype, _Dtype) or not isinstance(raw, (bytes, bytearray, pickle.PickleBuffer)):
        raise pickle.UnpicklingError("expected an array's dtype and bytes, found something else")
    return np.frombuffer(memoryview(raw), dtype.built()).reshape(shape, order=order).copy(order=order)


def _names() -> dict[tuple[str, str], Any]:
    """What numpy 1 and numpy 2 write for arrays, scalars and dtypes, under both module spellings; fresh stubs."""
    names: dict[tuple[str, str], Any] = {
        ("numpy", "ndarray"): _Stub(_refuse_call),
        ("numpy", "dtype"): _Stub(_new_dtype),
        ("collections", "OrderedDict"): _Stub(dict),
        ("_codecs", "encode"): _Stub(_encode),
    }
    for core in ("numpy.core", "numpy._core"):
        names[f"{core}.multiarray", "_reconstruct"] = _Stub(_new_array)
        names[f"{core}.multiarray", "scalar"] = _Stub(_scalar)
        names[f"{core}.numeric", "_frombuffer"] = _Stub(_from_buffer)
    return names


def _refuse_call(*_: Any) -> None:
    raise pickle.UnpicklingError("expected arrays that numpy's own pickles build, found a call of numpy.ndarray")


class _Unpickler(pickle.Unpickler):
    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data))
        self._known = _names()

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._known:
            raise pickle.UnpicklingError(f"expected numpy arrays and plain values, found {module}.{name}")
        return self._known[module, name]


def load_pickle(data: bytes, *, objects: bool = False) -> Any:
    """Returns the value of a pickle that holds numpy arrays, numbers, texts, lists, tuples and dicts.

    objects: whether an array of objects is read, as the list of what it holds, and not refused. Raises
    pickle.UnpicklingError for anything else, before any of it is built or run.
    """
    if len(data) > _MAX_BYTES:
        raise pickle.UnpicklingError(f"expected at most {_MAX_BYTES} bytes, found {len(data)}")
    try:
        return _Finisher(objects).finish(_Unpickler(data).load())
    except _READ_ERRORS as error:
        raise pickle.UnpicklingError(f"expected a readable pickle, found {type(error).__name__}: {error}") from error


class _Finisher:
    """Turns what was noted into arrays, each once, in containers of its own."""

    def __init__(self, objects: bool) -> None:
        self._objects = objects
        self._n_values = 0
        self._arrays: dict[int, NDArray] = {}

    def finish(self, value: Any, depth: int = 0) -> Any:
        self._n_values += 1
        if depth > _MAX_DEPTH or self._n_values > _MAX_VALUES:
            raise pickle.UnpicklingError(f"expected at most {_MAX_DEPTH} nested containers, {_MAX_VALUES} values")
        if isinstance(value, _Array):
            if self._objects and value.state is not None and isinstance(value.state[3], list):
                return self.finish(value.state[3], depth + 1)
            if id(value) not in self._arrays:
                self._arrays[id(value)] = value.built()
            return self._arrays[id(value)]
        if isinstance(value, _Dtype):
            return value.built()
        if isinstance(value, _Stub):
            raise pickle.UnpicklingError("expected numpy arrays and plain values, found a function")
        if isinstance(value, dict):
            return {self.finish(key, depth + 1): self.finish(item, depth + 1) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            items = [self.finish(item, depth + 1) for item in value]
            return items if isinstance(value, list) else tuple(items)
        return value


# What damaged pickle bytes raise inside the unpickler and in building arrays.
_READ_ERRORS = (
    AttributeError,
    EOFError,
    ImportError,
    IndexError,
    KeyError,
    MemoryError,
    OverflowError,
    RecursionError,
    TypeError,
    UnicodeError,
    ValueError,
)
