"""What runs with other projects' own packages, and what these recorded."""
