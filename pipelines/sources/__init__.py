"""Readers of native log formats, one module per format."""
