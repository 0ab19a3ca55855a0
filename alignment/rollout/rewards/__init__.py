"""Reward sources: a model, a function or an HTTP service."""
