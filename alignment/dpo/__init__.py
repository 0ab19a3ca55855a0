"""Entry point of direct preference optimization."""
