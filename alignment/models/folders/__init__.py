"""Weights of a model folder, whatever format they are stored in: listed first, read piece by piece."""
