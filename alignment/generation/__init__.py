"""Engines that turn prompt ids into completions."""
