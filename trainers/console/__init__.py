"""What the command reports of itself: its version, its machine, its extras, and completions for shells."""
