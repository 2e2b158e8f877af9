"""Review in the browser: queue, server, store."""
