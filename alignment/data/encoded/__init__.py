"""Encoded rows: how they are packed, who encodes them, and where they are kept for the next start."""
