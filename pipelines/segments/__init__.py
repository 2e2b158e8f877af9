"""Segments of an episode: tables, and proposals from motion."""
