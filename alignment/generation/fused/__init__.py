"""The fused engine: compiled kernels, continuous batching and a paged key-value cache."""
