"""Stored datasets: records, shards, their sidecar index, statistics, and how they are read back."""
