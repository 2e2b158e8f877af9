"""Mixture specs, their weights and plan, and the stream of batches drawn from them."""
