"""Native robot logs to normalized RLDS shards, and the contracts that every other part reads."""
