"""Policies in and out: published weights and whole checkpoints of other programs."""
