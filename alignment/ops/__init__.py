"""Operators: Paddle references, with compiled kernels behind the same functions."""
