"""The stream of batches and the order of its samples."""
