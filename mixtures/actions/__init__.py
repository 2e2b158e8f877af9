"""Action chunks and their normalization."""
