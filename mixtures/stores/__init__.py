"""Datasets in object stores: listings, byte ranges, local copies."""
