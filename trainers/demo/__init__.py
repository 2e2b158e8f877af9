"""The demo: a small world, its logs, and the commands from logs to a policy."""
