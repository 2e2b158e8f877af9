"""Bags as files: what is in a folder, the kinds of files, their indexes, and messages of a range of time."""
