"""Split layers over the tensor-parallel processes."""
