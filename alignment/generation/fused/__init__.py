"""The compiled engine: continuous batching over a paged cache."""
