"""Pickles of unknown origin: what they may build, and that none of them changes what comes after it."""

import pickle
import time

import numpy as np
import pytest

from pipelines.sources.restricted_pickle import load_pickle

ARRAY = pickle.dumps({"a": np.arange(3.0)})


def build(module: str, name: str, state: bytes) -> bytes:
    """A pickle that names something and hands it a state: GLOBAL, the state, BUILD, STOP."""
    return b"c" + f"{module}\n{name}\n".encode() + state + b"b."


@pytest.mark.parametrize("name", ["_reconstruct", "scalar"])
@pytest.mark.parametrize("state", [b"}S'spoiled'\nK\x01s", b"N}S'spoiled'\nK\x01s\x86"])
def test_a_state_for_a_shared_function_is_refused_and_changes_nothing(name: str, state: bytes) -> None:
    with pytest.raises(pickle.UnpicklingError):
        load_pickle(build("numpy.core.multiarray", name, state))
    assert not hasattr(getattr(np._core.multiarray, name), "spoiled")
    assert load_pickle(ARRAY)["a"].tolist() == [0, 1, 2]


def test_the_byte_order_of_shared_dtypes_stays() -> None:
    """`dtype("f8", False, False)` would be the dtype that every array of this process has."""
    hostile = b"\x80\x02cnumpy\ndtype\n(U\x02f8\x89\x89tR(K\x03U\x01>NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb."
    assert load_pickle(hostile) == np.dtype(">f8")
    assert np.dtype("f8").byteorder == "="
    assert load_pickle(ARRAY)["a"].tolist() == [0, 1, 2]


def test_big_endian_arrays_keep_their_values() -> None:
    value = np.arange(4, dtype=">i4").reshape(2, 2)
    assert load_pickle(pickle.dumps(value)).tolist() == [[0, 1], [2, 3]]


def test_fortran_order_and_strings_are_read() -> None:
    value = {"f": np.asfortranarray(np.arange(6.0).reshape(2, 3)), "s": np.array(["ab", "c"]), "b": np.array([b"x"])}
    loaded = load_pickle(pickle.dumps(value))
    assert loaded["f"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert (loaded["s"].tolist(), loaded["b"].tolist()) == (["ab", "c"], [b"x"])


def test_an_array_larger_than_its_bytes_is_refused() -> None:
    data = pickle.dumps(np.zeros(2, np.uint8)).replace(b"K\x02\x85", b"K\x7f\x85")
    with pytest.raises(pickle.UnpicklingError, match="cannot reshape array"):
        load_pickle(data)


def test_a_class_is_not_called_for_memory() -> None:
    """NEWOBJ of numpy.ndarray with a shape of terabytes."""
    with pytest.raises(pickle.UnpicklingError):
        load_pickle(b"\x80\x02cnumpy\nndarray\n(J\xff\xff\xff\x7fJ\xff\xff\xff\x7f\x86t\x81.")
    with pytest.raises(pickle.UnpicklingError, match="a call of numpy.ndarray"):
        load_pickle(b"\x80\x02cnumpy\nndarray\n(J\xff\xff\xff\x7ftR.")


def test_nested_references_end_soon() -> None:
    """Each of 40 lists holds the one before it ten times: 10 ** 40 values if all were walked."""
    nested: list[object] = []
    for _ in range(40):
        nested = [nested] * 10
    started = time.monotonic()
    with pytest.raises(pickle.UnpicklingError, match="at most 16 nested containers"):
        load_pickle(pickle.dumps(nested))
    wide: list[object] = [0]
    for _ in range(8):
        wide = [wide] * 10
    with pytest.raises(pickle.UnpicklingError, match=", 1000000 values"):
        load_pickle(pickle.dumps(wide))
    assert time.monotonic() - started < 60


def test_a_list_that_holds_itself_is_refused() -> None:
    itself: list[object] = []
    itself.append(itself)
    with pytest.raises(pickle.UnpicklingError, match="nested containers"):
        load_pickle(pickle.dumps(itself))


def test_arrays_with_fields_and_dates_are_refused() -> None:
    with pytest.raises(pickle.UnpicklingError, match="fields"):
        load_pickle(pickle.dumps(np.zeros(2, [("x", "f8")])))
    with pytest.raises(pickle.UnpicklingError, match="arrays of numbers"):
        load_pickle(pickle.dumps(np.zeros(2, "M8[s]")))


def test_loaded_arrays_are_their_owners_to_change() -> None:
    loaded = load_pickle(ARRAY)
    loaded["a"][0] = 9
    assert load_pickle(ARRAY)["a"][0] == 0
