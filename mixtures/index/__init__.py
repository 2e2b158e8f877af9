"""The index of a dataset, compiled into memory-mapped files."""
