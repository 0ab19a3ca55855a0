"""Shard optimizer state, gradients and weights over processes (stages 1 to 3)."""
