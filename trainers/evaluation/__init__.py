"""Evaluation of a run: errors, baselines, comparisons, pages."""
