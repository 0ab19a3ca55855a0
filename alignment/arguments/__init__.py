"""Typed arguments, parsed once."""
