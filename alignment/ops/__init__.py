"""Operators with a Paddle reference; compiled kernels slot in behind the same names."""
