"""Action chunks, which steps share statistics, and normalization."""
