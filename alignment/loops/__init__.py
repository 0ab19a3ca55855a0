"""The only layer that sees both workshops."""
