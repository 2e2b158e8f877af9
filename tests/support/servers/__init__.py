"""Servers, stores, clusters and browsers that tests start."""
