"""Layers cut over the tensor-parallel processes."""
