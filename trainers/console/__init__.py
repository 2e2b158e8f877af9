"""What the command tells of itself: its version, its machine, its extras, and completions for shells."""
