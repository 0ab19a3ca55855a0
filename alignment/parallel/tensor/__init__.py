"""Layers and vocabularies cut over the tensor-parallel processes."""
