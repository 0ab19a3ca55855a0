"""Assemble a run from its arguments before the loop starts, and write its results after the loop ends."""
