"""Segments in the formats of other tools, one module each: `write(directory, clips)` and `read(path, names)`."""
