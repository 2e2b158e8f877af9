"""What writes inputs and datasets for tests: other people's formats, and small sets of our own."""
