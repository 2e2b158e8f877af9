"""Published weights: layouts, file formats, parity checks."""
