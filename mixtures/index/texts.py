"""Texts of a mapped Arrow column, read one by one: an Arrow scalar for each costs ten times as much."""

import pyarrow as pa


class Texts:
    """A column of texts; one that is missing reads as the empty text.

    >>> texts = Texts(pa.array(["lift", None, "pläce"]))
    >>> texts[0], texts[1], texts[2]
    ('lift', '', 'pläce')
    """

    def __init__(self, column: pa.Array) -> None:
        column = column.cast(pa.large_string())
        if column.null_count:
            column = column.fill_null("")
        self._offsets = _offsets(column)
        self._data = memoryview(column.buffers()[2] or b"")

    def __getitem__(self, row: int) -> str:
        return str(self._data[self._offsets[row] : self._offsets[row + 1]], "utf-8")


class TextLists:
    """A column of lists of texts; one that is missing reads as an empty list.

    >>> lists = TextLists(pa.array([["a", "b"], None, ["c"]]))
    >>> lists[0], lists[1], lists[2]
    (['a', 'b'], [], ['c'])
    """

    def __init__(self, column: pa.Array) -> None:
        column = column.cast(pa.large_list(pa.large_string()))
        if column.null_count:
            column = column.fill_null([])
        self._offsets = _offsets(column)
        self._texts = Texts(column.values)

    def __getitem__(self, row: int) -> list[str]:
        return [self._texts[i] for i in range(self._offsets[row], self._offsets[row + 1])]


def _offsets(column: pa.Array) -> memoryview:
    """Where each value of a column of a large type begins and the last one ends."""
    offsets = column.buffers()[1]
    return memoryview(offsets).cast("B").cast("q")[column.offset :] if len(column) else memoryview(b"")
