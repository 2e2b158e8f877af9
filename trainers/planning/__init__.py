"""What a run will take: work, memory, prompts; computed before it starts."""
