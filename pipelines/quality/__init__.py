"""Checks of a stored dataset and its data card."""
