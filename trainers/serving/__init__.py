"""Policies that act: the policy server, its messages and its page."""
