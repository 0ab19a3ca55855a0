"""Tokenised datasets: encoding rows, in this process or in workers, and caching the result."""
