"""Native robot logs to normalized 18-dim RLDS shards, and the contracts that every other part reads."""
