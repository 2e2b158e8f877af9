"""Pretraining, post-training, evaluation, and the embodimix command."""
