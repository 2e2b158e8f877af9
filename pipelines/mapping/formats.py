"""The formats that conversion reads: the modules of `pipelines.sources` that declare a usual adapter entry."""

import functools
import re
from collections.abc import Mapping
from importlib import resources

# One line of a reader module: the entry that is taken where the user names none; "" where each dataset has its own.
_DECLARED = re.compile(r'^USUAL_ADAPTER = "(\w*)"$', re.MULTILINE)


@functools.cache
def list_formats() -> Mapping[str, str]:
    """Returns format -> its usual adapter entry, "" where there is none, sorted by name.

    A format is a module of `pipelines/sources` with the line `USUAL_ADAPTER = "..."`. The line is read as text: to
    import every reader would load h5py, zarr and video decoders for a command that needs one of them.
    """
    formats = {}
    for file in resources.files("pipelines.sources").iterdir():
        if file.name.endswith(".py") and (declared := _DECLARED.search(file.read_text(encoding="utf-8"))):
            formats[file.name.removesuffix(".py")] = declared[1]
    return dict(sorted(formats.items()))
