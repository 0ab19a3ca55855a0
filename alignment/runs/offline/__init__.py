"""Runs that learn from a dataset: one assembly for every offline objective."""
