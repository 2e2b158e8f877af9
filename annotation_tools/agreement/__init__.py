"""Agreement between annotators, and its report."""
