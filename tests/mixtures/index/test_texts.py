"""Texts and lists of texts out of Arrow columns: the same as Arrow's own values, wherever the column was cut."""

import pyarrow as pa
import pytest

from mixtures.index.texts import TextLists, Texts

LISTS = pa.array([["a", "bé"], None, [], ["c", None, "dd"], ["e"]], pa.large_list(pa.large_string()))


@pytest.mark.parametrize("start", [0, 1, 3])
def test_texts_of_a_cut_column_are_its_own(start: int) -> None:
    column = pa.array(["x", "", "täxt", None, "last"]).slice(start)
    texts = Texts(column)
    assert [texts[i] for i in range(len(column))] == ["x", "", "täxt", "", "last"][start:]


@pytest.mark.parametrize("start", [0, 1, 3])
def test_lists_of_a_cut_column_are_its_own(start: int) -> None:
    lists = TextLists(LISTS.slice(start))
    assert [lists[i] for i in range(5 - start)] == [["a", "bé"], [], [], ["c", "", "dd"], ["e"]][start:]


def test_a_column_without_values_has_no_rows() -> None:
    for column in (Texts(pa.array([], pa.large_string())), TextLists(LISTS.slice(5))):
        with pytest.raises(IndexError):
            column[0]
