"""The stream as PyTorch datasets, and presets that give it the form of other trainers' batches."""
