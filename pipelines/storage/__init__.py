"""Paths and URLs, files written atomically, object stores, retries, and local copies of remote files."""
