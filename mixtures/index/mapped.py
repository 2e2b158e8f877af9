"""Files mapped into memory without a descriptor that stays open.

Python's `mmap` and Arrow's memory maps keep a descriptor for as long as the map lives. A mixture maps some twenty files
of every dataset, so that the usual limit of 1,024 descriptors ended at 90 datasets. The system needs none once a file
is mapped.
"""

import ctypes
import mmap
import os
import weakref
from pathlib import Path

_LIBRARY = ctypes.CDLL(None, use_errno=True)
_LIBRARY.mmap.restype = ctypes.c_void_p
_LIBRARY.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
_LIBRARY.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_FAILED = ctypes.c_void_p(-1).value


def map_file(path: str | Path) -> memoryview:
    """The bytes of a file, read-only; they are mapped until the last view of them is gone. Raises OSError."""
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size == 0:
            return memoryview(b"")
        address = _LIBRARY.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, file.fileno(), 0)
    if address is None or address == _FAILED:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(path))
    mapped = (ctypes.c_ubyte * size).from_address(address)
    weakref.finalize(mapped, _LIBRARY.munmap, address, size)
    return memoryview(mapped).cast("B").toreadonly()
