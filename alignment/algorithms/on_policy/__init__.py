"""Algorithms that learn from their own samples, behind one spec."""
