"""The demo: a small world, its logs, and the whole way from logs to a policy."""
